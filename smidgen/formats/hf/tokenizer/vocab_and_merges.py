"""vocab.json and merges.txt, GPT-2's own files, where a folder has no tokenizer.json.

They say nothing of how text is split, normalised and begun: that is in the code of the tokenizer's class. It is found
as transformers 5 finds it: the class that tokenizer_config.json names, or Qwen2Tokenizer for the model types that have
it of their own; and what that class does is put into the words of a tokenizer.json, which is then read as all are.
"""

from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.folder import member, read_json
from smidgen.formats.hf.tokenizer.tokenizer_json import LARGEST_FILE, TokenizerJson, checked_tokenizer
from smidgen.model.tokenizers.splitting import PRE_TOKENIZERS
from smidgen.progress import say_once

VOCABULARY, MERGES = "vocab.json", "merges.txt"
_VERSION = "#version"  # begins a line that is no merge

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_QWEN2 = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZERS["qwen2"].patterns[0]}, "behavior": "Isolated"}
_STEPS: dict[str, dict[str, Any]] = {
    "GPT2Tokenizer": {"pre_tokenizer": _BYTES | {"use_regex": True}, "normalizer": None},
    "Qwen2Tokenizer": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_QWEN2, _BYTES]},
        "normalizer": {"type": "NFC"},
    },
}
# What a class calls its tokens where no file names them: all the same, and only if there is such a token.
_NAMED = {
    "GPT2Tokenizer": ("bos_token", "eos_token", "unk_token"),
    "Qwen2Tokenizer": ("eos_token", "unk_token", "pad_token"),
}
_NAME = "<|endoftext|>"
_ALWAYS_QWEN2 = ("qwen2", "qwen2_moe")  # whatever the files say
_QWEN2_BY_DEFAULT = (*_ALWAYS_QWEN2, "qwen3", "qwen3_moe")


def is_split(folder: Path) -> bool:
    """Whether a folder has these two files."""
    return member(folder, VOCABULARY) is not None and member(folder, MERGES) is not None


def read_vocab_and_merges(
    folder: Path, named: str | None, model_type: str | None, prefix_space: bool | None
) -> tuple[TokenizerJson, dict[str, str]]:
    """The tokenizer, and the roles of tokens that its class takes for granted.

    named: tokenizer_class of tokenizer_config.json, and prefix_space its add_prefix_space.  model_type: of config.json.
    Raises BadFile for damaged files and Unsupported for another class, which would split text in a way not known here.
    """
    name = _class(named, model_type)
    if name not in _STEPS:
        raise Unsupported(
            f"{VOCABULARY} and {MERGES} do not say how text is split, and smidgen knows it of "
            f"{' and '.join(_STEPS)} only, not of {printable(name, 40)}: add the model's tokenizer.json."
        )
    path = member(folder, VOCABULARY)
    vocabulary = read_json(path, LARGEST_FILE) if path is not None else None
    model = {"type": "BPE", "vocab": vocabulary, "merges": _merges(member(folder, MERGES))}
    say_once(f"{printable(folder.name)}: there is no tokenizer.json; text is split as {name} does it.", about=folder)
    steps = _STEPS[name]
    if prefix_space:
        steps = steps | {"pre_tokenizer": _BYTES | {"add_prefix_space": True}}  # refused, as in a tokenizer.json
    tokenizer = checked_tokenizer({"model": model, "added_tokens": [], **steps})
    roles = dict.fromkeys(_NAMED[name], _NAME) if _NAME in tokenizer.vocabulary else {}
    return tokenizer, roles


def _class(named: str | None, model_type: str | None) -> str:
    if model_type in _ALWAYS_QWEN2:
        return "Qwen2Tokenizer"
    if named is None:
        return "Qwen2Tokenizer" if model_type in _QWEN2_BY_DEFAULT else "a tokenizer without a class"
    return named.removesuffix("Fast")


def _merges(path: Path | None) -> list[str]:
    """The lines of merges.txt, a pair in each."""
    if path is None:
        return []
    with path.open("rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise BadFile(f"{MERGES} is larger than {LARGEST_FILE} bytes, which no real tokenizer needs.")
    try:
        lines = raw.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BadFile(f"{MERGES} is not UTF-8 text; download or copy the file again.") from error
    return [line.rstrip("\r") for line in lines if line.strip("\r") and not line.startswith(_VERSION)]
