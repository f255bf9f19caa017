"""Speculative decoding: a small draft model proposes tokens, the model checks them all in one pass.

Leviathan, Kalman & Matias 2023 (arXiv:2211.17192): what is written follows the model's own distribution, whatever the
draft proposes, and is faster where it often agrees. Proposals are token ids, so an id must mean the same in both, which
a draft with a trimmed vocabulary breaks. llama.cpp says what it refuses in its log alone, and goes on without the
draft; here every token is compared, before anything is loaded.

Rows of padding do not count (`model.tokenizers.padding`), but to llama.cpp they do: it takes no draft with more than
128 rows more or fewer, or with other names for them, and with any difference in number it ends its process once one
model meets an id that it has not, whichever of the two. Such a draft is copied into the cache with the model's rows:
its own for tokens, zeros for new padding.
"""

import hashlib
from pathlib import Path

import numpy as np

from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.hub.catalogue import cache_folder
from smidgen.model.tokenizers.padding import Tokens, first_difference, tokens_of
from smidgen.progress import say
from smidgen.sizes import format_size

_TOKENS = "tokenizer.ggml.tokens"
_BY_ROW = (_TOKENS, "tokenizer.ggml.token_type", "tokenizer.ggml.scores")
_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.bos_token_id")
_ROW_A_TOKEN = ("token_embd.weight", "output.weight")


def usable_draft(model: Path, draft: Path) -> Path:
    """The file that llama.cpp can take for `draft`: itself, or a copy in the cache with the model's rows of padding.

    Raises Unsupported, naming the first token that differs, unless both files have one vocabulary; BadFile for a
    damaged file, SmidgenError where the copy cannot be written. Reads headers alone where nothing is to be copied.
    """
    with GGUFFile.open(model) as file, GGUFFile.open(draft) as other:
        refuse_damaged(file)
        refuse_damaged(other)
        found = _first_difference(file, other)
        if found is not None:
            raise Unsupported(
                f"{printable(draft.name, 60)} cannot draft for {printable(model.name, 60)}: {found}. A draft needs the "
                "very vocabulary of the model: take one that was not trimmed, trim both alike, or leave --draft out."
            )
        return other.path if _is_taken(_rows(file), _rows(other)) else _with_rows_of(file, other)


def _first_difference(file: GGUFFile, other: GGUFFile) -> str | None:
    """In words; None where the vocabularies are the same."""
    texts, other_texts = tokens_of(file.metadata), tokens_of(other.metadata)
    token = first_difference(texts, other_texts)
    if token is not None:
        text, other_text = _text(texts, token), _text(other_texts, token)
        if text is not None and other_text is not None:
            return f"token {token} is {_quoted(other_text)} in the draft and {_quoted(text)} in the model"
        longer, shorter = ("draft", "model") if text is None else ("model", "draft")
        fewer = len(other_texts if text is not None else texts)
        return (
            f"token {token}, {_quoted(other_text if text is None else text)}, is in the {longer} and not in the "
            f"{shorter} ({fewer} tokens)"
        )
    for key in _KEYS:
        value, other_value = file.metadata.get(key), other.metadata.get(key)
        if value is not None and other_value is not None and value != other_value:
            return f"{key} is {_quoted(other_value)} in the draft and {_quoted(value)} in the model"
    return None


def _text(texts: Tokens, token: int) -> str | None:
    return texts[token] if token < len(texts) else None


def _rows(file: GGUFFile) -> list[str]:
    """The texts of all rows, padding too."""
    texts = file.metadata.get(_TOKENS)
    return texts if isinstance(texts, list) else []


def _is_taken(rows: list[str], draft_rows: list[str]) -> bool:
    """Whether llama.cpp takes such a draft, and neither model can meet an id that it has not."""
    return draft_rows == rows


def _with_rows_of(model: GGUFFile, draft: GGUFFile) -> Path:
    """A copy of the draft whose vocabulary is the model's to the last row; made once."""
    rows, size = len(_rows(model)), len(_rows(draft))
    target = cache_folder() / "drafts" / f"{_fingerprint(model, draft)}.gguf"
    if target.is_file():
        return target
    plans = [
        TensorPlan(info.name, (rows, *info.shape[1:]) if _has_row_a_token(info.name) else info.shape, info.kind)
        for info in draft.tensors.values()
    ]
    say(
        f"The draft has {size} rows of tokens and padding, the model {rows}: a copy with as many is made in the cache "
        f"({format_size(draft.size)})."
    )

    def packed(name: str) -> np.ndarray:
        draft.release()
        found = draft.packed(name)
        if not _has_row_a_token(name):
            return found
        return np.concatenate([found[:rows], np.zeros((max(0, rows - size), found.shape[1]), found.dtype)])

    metadata = dict(draft.metadata)
    metadata |= {key: model.metadata[key] for key in _BY_ROW if key in metadata and key in model.metadata}
    size_key = f"{metadata.get('general.architecture')}.vocab_size"
    metadata |= {size_key: rows} if size_key in metadata else {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmidgenError(
            f"{target.parent} cannot be made: {error.strerror}. Set SMIDGEN_HOME to another folder."
        ) from error
    write_gguf(target, metadata, draft.metadata_types, plans, packed)
    return target


def _has_row_a_token(tensor: str) -> bool:
    return tensor in _ROW_A_TOKEN


def _fingerprint(model: GGUFFile, draft: GGUFFile) -> str:
    """Changes with the draft's file, by name, size and time, and with the model's rows."""
    status = draft.path.stat()
    known = [str(draft.path.resolve()), status.st_size, status.st_mtime_ns, _rows(model)]
    return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()


def _quoted(value: object) -> str:
    """A token's text in quotes, with controls escaped and cut where long."""
    return printable(repr(value), 60)
