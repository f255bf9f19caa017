"""Speculative decoding: a small draft model proposes tokens, the model checks them all in one pass.

Leviathan, Kalman & Matias 2023 (arXiv:2211.17192): what is written follows the model's own distribution, whatever the
draft proposes, and is faster where it often agrees. Proposals are token ids, so an id must mean the same in both, which
a draft with a trimmed vocabulary breaks. llama.cpp lets vocabularies of somewhat different sizes pass, and says what it
refuses in its log alone; here every token is compared, before anything is loaded.
"""

from pathlib import Path
from typing import Any

from smidgen.errors import Unsupported, printable
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile

_TOKENS = "tokenizer.ggml.tokens"
_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.bos_token_id")


def refuse_other_draft(model: Path, draft: Path) -> None:
    """Raises Unsupported, naming the first token that differs, unless both files have one vocabulary.

    Raises BadFile for a damaged file. Reads the headers alone.
    """
    with GGUFFile.open(model) as file, GGUFFile.open(draft) as other:
        refuse_damaged(file)
        refuse_damaged(other)
        found = _first_difference(file.metadata, other.metadata)
    if found is not None:
        raise Unsupported(
            f"{printable(draft.name, 60)} cannot draft for {printable(model.name, 60)}: {found}. A draft needs the "
            "very vocabulary of the model: take one that was not trimmed, trim both alike, or leave --draft out."
        )


def _first_difference(metadata: dict[str, Any], other: dict[str, Any]) -> str | None:
    """In words; None where the vocabularies are the same."""
    texts, other_texts = (list(one.get(_TOKENS) or ()) for one in (metadata, other))
    for token, (text, other_text) in enumerate(zip(texts, other_texts, strict=False)):
        if text != other_text:
            return f"token {token} is {_quoted(other_text)} in the draft and {_quoted(text)} in the model"
    if len(texts) != len(other_texts):
        token = min(len(texts), len(other_texts))
        longer, shorter = ("model", "draft") if len(texts) > token else ("draft", "model")
        text = (texts if len(texts) > token else other_texts)[token]
        return f"token {token}, {_quoted(text)}, is in the {longer} and not in the {shorter} ({token} tokens)"
    for key in _KEYS:
        if key in metadata and key in other and metadata[key] != other[key]:
            return f"{key} is {_quoted(other[key])} in the draft and {_quoted(metadata[key])} in the model"
    return None


def _quoted(value: object) -> str:
    """A token's text in quotes, with controls escaped and cut where long."""
    return printable(repr(value), 60)
