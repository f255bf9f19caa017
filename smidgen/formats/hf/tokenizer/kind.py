"""What kind of tokenizer a folder has, for a glance at it: its files are parsed, but no token is looked at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.folder import member, read_json
from smidgen.formats.hf.tokenizer.pipeline import byte_level_words
from smidgen.formats.hf.tokenizer.tokenizer_json import LARGEST_FILE
from smidgen.formats.hf.tokenizer.vocab_and_merges import is_split
from smidgen.model.tokenizers.splitting import ONLY_NEAR

BYTE_LEVEL, SENTENCEPIECE = "byte-level BPE", "SentencePiece"
#: What is added to the kind of a tokenizer of which llama.cpp has only an approximation.
NEAR = "llama.cpp splits some words otherwise"


def tokenizer_kind(folder: Path) -> str | None:
    """A few words, None where there is no tokenizer. Raises BadFile for a damaged tokenizer.json."""
    if member(folder, "tokenizer.model") is not None:
        return SENTENCEPIECE
    path = member(folder, "tokenizer.json")
    if path is None:
        return BYTE_LEVEL if is_split(folder) else None
    tokenizer = read_json(path, LARGEST_FILE)
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict):
        raise BadFile(f"{printable(path)} has no model; download or copy the file again.")
    if model.get("byte_fallback"):
        return f"{SENTENCEPIECE}-like"
    if model.get("type", "BPE") != "BPE":
        return printable(model["type"], 40)
    return f"{BYTE_LEVEL} ({NEAR})" if _name(tokenizer, model) in ONLY_NEAR else BYTE_LEVEL


def _name(tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    try:
        return byte_level_words(tokenizer, bool(model.get("ignore_merges", False))).name
    except Unsupported:  # it is said when the tokenizer is used
        return None
