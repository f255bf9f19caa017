"""Is the vocabulary in a header one that llama.cpp survives? Torch-free.

For every kind of tokenizer that llama.cpp knows, not only for those of smidgen (model/tokenizers): a doubled text ends
its process while it loads, and a missing BOS at the first prompt (src/llama-vocab.cpp).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.errors import BadFile, Unsupported, printable

_KEY = "tokenizer.ggml."
_BYTE = 6  # of tokenizer.ggml.token_type
_WITHOUT_BYTES = frozenset({"bert", "rwkv"})
_NO_VOCABULARY = frozenset({"none", "no_vocab"})
#: What llama.cpp takes for BOS, EOS and the separator where a file has no such key, by the kind of tokenizer.
_USUAL_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2}, "plamo2": {"bos": 1, "eos": 2}, "gpt2": {"bos": 11, "eos": 11},
    "bert": {"bos": 101, "seperator": 102}, "t5": {"eos": 1},
}  # fmt: skip
#: Which of them it puts around a prompt where a file does not say whether to.
_USUALLY_ADDED: dict[str, tuple[str, ...]] = {"llama": ("bos",), "bert": ("bos", "seperator"), "t5": ("eos",)}
#: The kinds that put them there whatever a file says.
_ALWAYS_ADDED: dict[str, tuple[str, ...]] = {"bert": ("bos", "seperator")}
#: What llama.cpp looks up in any model that is called Phi-3, and fails without.
PHI3_NAMES, PHI3_TOKENS = ("phi-3", "phi3"), ("</s>", "<unk>", "<s>", "<|endoftext|>")


def check_vocabulary(metadata: Mapping[str, Any]) -> None:
    """Raises BadFile for a vocabulary that contradicts itself, Unsupported for a model that has none."""
    kind = metadata.get(f"{_KEY}model")
    if kind is None:
        raise BadFile(f"has no tokenizer ({_KEY}model is missing); get a file with one")
    if not isinstance(kind, str):
        raise BadFile(f"{_KEY}model should be a text, found {printable(repr(kind), 60)}; the file is damaged")
    if kind in _NO_VOCABULARY:
        raise Unsupported(f"has no vocabulary ({_KEY}model is {kind}), so it cannot read or write text; get another")
    tokens = metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not tokens:
        raise BadFile(f"{_KEY}tokens is missing, empty or not a list of texts; get a file with a vocabulary")
    _refuse_doubles(tokens)
    _refuse_another_phi3(str(metadata.get("general.name", "")), tokens)
    for name in ("scores", "token_type"):
        values = metadata.get(f"{_KEY}{name}")
        if values is not None and (not isinstance(values, np.ndarray) or len(values) < len(tokens)):
            found = f"{len(values)} values" if isinstance(values, np.ndarray) else "something else"
            raise BadFile(f"{_KEY}{name} should hold a number for each of {len(tokens)} tokens, found {found}")
    kinds = metadata.get(f"{_KEY}token_type")
    if kind in _WITHOUT_BYTES and kinds is not None and (kinds == _BYTE).any():
        raise BadFile(
            f"its tokenizer ({kind}) has no tokens for bytes, but {_KEY}token_type names some; convert it again"
        )
    _refuse_missing_ends(metadata, kind, len(tokens))


def _refuse_doubles(tokens: list[str]) -> None:
    """By the texts as llama.cpp sees them: up to the first zero byte, and with a name for empty ones."""
    texts = [text.partition("\0")[0] or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    if len(set(texts)) == len(texts):
        return
    first: dict[str, int] = {}
    for token, text in enumerate(texts):
        if (other := first.setdefault(text, token)) != token:
            raise BadFile(
                f"tokens {other} and {token} of its vocabulary have the same text, {printable(repr(text), 60)}, so "
                "nobody can tell which of them is meant; convert the model again, or get another file of it"
            )


def _refuse_another_phi3(name: str, tokens: list[str]) -> None:
    """Raises Unsupported for a model that is called Phi-3 without having its tokens."""
    lacking = [token for token in PHI3_TOKENS if token not in tokens]
    if lacking and any(phi3 in name.lower() for phi3 in PHI3_NAMES):
        raise Unsupported(
            f"is called {printable(name, 60)!r} (general.name), so llama.cpp takes it for Phi-3 and cannot load it "
            f"without the token {lacking[0]}; convert the model again under another name"
        )


def _refuse_missing_ends(metadata: Mapping[str, Any], kind: str, count: int) -> None:
    """Raises BadFile where tokens are to be put around prompts that the vocabulary does not have."""
    for name, key in (("bos", "add_bos_token"), ("eos", "add_eos_token"), ("seperator", "add_sep_token")):
        asked = metadata.get(f"{_KEY}{key}")
        wanted = asked if isinstance(asked, bool) else name in _USUALLY_ADDED.get(kind, ())
        if not wanted and name not in _ALWAYS_ADDED.get(kind, ()):
            continue
        ids = (metadata.get(f"{_KEY}{name}_token_id"), _USUAL_IDS.get(kind, {}).get(name))
        if not any(isinstance(token, int) and 0 <= token < count for token in ids):
            raise BadFile(
                f"prompts are to have a token around them that the vocabulary does not have: {_KEY}{name}_token_id is "
                f"{printable(repr(ids[0]), 40)} of {count} tokens, and {_KEY}{key} asks for it; the file is damaged"
            )
