"""From the tokenizer metadata of a GGUF file to a folder that transformers and others load.

Writes tokenizer.json, tokenizer_config.json, chat_template.jinja and, where there are templates by name, a file for
each in additional_chat_templates, as transformers does. The class in tokenizer_config.json is PreTrainedTokenizerFast,
which takes tokenizer.json as it stands; the classes of the families would build some steps anew. (transformers 5 uses
Qwen's own class all the same where config.json says "qwen2"; it normalises to NFC, which a GGUF file of llama.cpp's
converter does not say.)

The ids are the same as here, but for three things that the `tokenizers` library cannot do. Of several ways to make one
token by merging it takes the first in its list, SentencePiece the leftmost in the text, and of two tokens with equal
scores it has to put one first. It takes a "▁" (U+2581) in the text for a space. And a byte that the vocabulary lacks is
no obstacle to merging the characters on its two sides.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import TEMPLATE_ENDING, TEMPLATE_FILE, TEMPLATES, is_plain
from smidgen.formats.hf.tokenizer.layout import padding_text
from smidgen.formats.hf.tokenizer.settings import LONGEST_TEMPLATE_NAME
from smidgen.model.chat import DEFAULT_TEMPLATE, chat_templates
from smidgen.model.tokenizer import ADD_BOS, ADD_SPACE_PREFIX
from smidgen.model.tokenizers.byte_level import read_merges
from smidgen.model.tokenizers.sentencepiece import SPACE
from smidgen.model.tokenizers.splitting import pre_tokenizer
from smidgen.model.tokenizers.text_rules import TextRules
from smidgen.model.tokenizers.vocabulary import MetadataValue, TokenKind, Vocabulary, flag, number_array

_ADD_EOS = "tokenizer.ggml.add_eos_token"
_REPLACE_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_SCHEMES = {"missing": "always", "first": "first"}  # of Metaspace, by text_rules.SPACE_PREFIXES


def write_tokenizer(folder: Path, metadata: Mapping[str, MetadataValue]) -> None:
    """Write the tokenizer's files into an existing folder, from the metadata of a GGUF file.

    Raises BadFile and Unsupported as `Tokenizer.from_gguf` does, before anything is written.
    """
    vocabulary = Vocabulary.from_gguf(metadata)
    rules = TextRules.from_gguf(metadata, vocabulary)
    added = list(_added_tokens(vocabulary, rules))
    if vocabulary.model == "llama":
        steps = _sentencepiece_steps(vocabulary, metadata, rules)
        begins = flag(metadata, ADD_BOS, True)
    else:
        steps = _byte_level_steps(vocabulary, metadata, rules)
        begins = flag(metadata, ADD_BOS, pre_tokenizer(metadata).adds_bos)
    ends = flag(metadata, _ADD_EOS, False)
    bos = vocabulary.roles.get("bos_token") if begins else None
    eos = vocabulary.roles.get("eos_token") if ends else None
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **steps}
    tokenizer["post_processor"] = _post_processor(vocabulary, bos, eos)
    config = _config(vocabulary, added, bos is not None, eos is not None)
    for name, text in _template_files(metadata).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", config, indent=2)


def _write(path: Path, value: Any, indent: int | None = None) -> None:
    """indent: for people; it takes several times as long."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def _added_tokens(vocabulary: Vocabulary, rules: TextRules) -> Iterator[dict[str, Any]]:
    for token in sorted(vocabulary.special):
        yield {
            "id": token,
            "content": vocabulary.texts[token],
            "single_word": False,
            "lstrip": token in rules.strip_left,
            "rstrip": token in rules.strip_right,
            "normalized": False,
            "special": token in vocabulary.control,
        }


def _vocab(vocabulary: Vocabulary) -> dict[str, int]:
    """Text → id; rows without a token stay out, because the reader pads to the embedding's rows again."""
    unused = {
        token
        for token, kind in enumerate(vocabulary.kinds)
        if kind == TokenKind.UNUSED and vocabulary.texts[token] == padding_text(token)
    }
    return {text: token for token, text in enumerate(vocabulary.texts) if token not in unused}


def _model(vocab: dict[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return model | options | {"vocab": vocab, "merges": merges}


def _byte_level_steps(
    vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue], rules: TextRules
) -> dict[str, Any]:
    pre = pre_tokenizer(metadata)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    merges = [list(pair) for pair in read_merges(metadata, vocabulary)]
    return {
        "normalizer": {"type": "NFC"} if rules.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": byte_level | {"use_regex": True},
        "model": _model(_vocab(vocabulary), merges, ignore_merges=pre.whole_words),
    }


def _sentencepiece_steps(
    vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue], rules: TextRules
) -> dict[str, Any]:
    prefix = flag(metadata, ADD_SPACE_PREFIX, True)
    normalizer: dict[str, Any] | None = _REPLACE_SPACES
    metaspace = None
    if prefix and rules.space_prefix == "always":
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE_SPACES]}
    elif prefix:
        scheme = _SCHEMES[rules.space_prefix]
        normalizer = None
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    scores = number_array(metadata, "tokenizer.ggml.scores", len(vocabulary)).tolist()
    unknown = vocabulary.roles.get("unk_token")
    options = {"unk_token": None if unknown is None else vocabulary.texts[unknown]}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": metaspace,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(_vocab(vocabulary), _merges(vocabulary, scores), **options, fuse_unk=True, byte_fallback=True),
    }


def _merges(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    """All pairs of tokens that make a token: the best score first, then the lower id, then the longer left part."""
    apart = vocabulary.special
    parts = {
        text
        for token, text in enumerate(vocabulary.texts)
        if token not in apart and vocabulary.kinds[token] != TokenKind.BYTE
    }
    merged = sorted((text for text in parts if len(text) > 1), key=lambda text: _rank(text, vocabulary, scores))
    return [
        [text[:cut], text[cut:]]
        for text in merged
        for cut in range(len(text) - 1, 0, -1)
        if text[:cut] in parts and text[cut:] in parts
    ]


def _rank(text: str, vocabulary: Vocabulary, scores: list[float]) -> tuple[float, int]:
    token = vocabulary.ids[text]
    return -scores[token], token


def _post_processor(vocabulary: Vocabulary, bos: int | None, eos: int | None) -> dict[str, Any] | None:
    """The step that puts BOS before and EOS after a text (each text of a pair alike)."""
    if bos is None and eos is None:
        return None

    def template(name: str, kind: int) -> list[dict[str, Any]]:
        before, after = ([_special(vocabulary, token, kind)] if token is not None else [] for token in (bos, eos))
        return [*before, {"Sequence": {"id": name, "type_id": kind}}, *after]

    texts = {vocabulary.texts[token]: token for token in (bos, eos) if token is not None}
    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": [*template("A", 0), *template("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in texts.items()},
    }


def _special(vocabulary: Vocabulary, token: int, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": vocabulary.texts[token], "type_id": kind}}


def _config(vocabulary: Vocabulary, added: list[dict[str, Any]], begins: bool, ends: bool) -> dict[str, Any]:
    roles = {role: vocabulary.texts[token] for role, token in vocabulary.roles.items()}
    decoder = {str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in added}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "add_bos_token": begins,
        "add_eos_token": ends,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": decoder,
    }


def _template_files(metadata: Mapping[str, MetadataValue]) -> dict[str, str]:
    """The chat templates by the names of their files in the folder."""
    files: dict[str, str] = {}
    for name, text in chat_templates(metadata).items():
        if not is_plain(name) or len(name) > LONGEST_TEMPLATE_NAME:
            raise BadFile(f"the file has a chat template named {printable(name, 64)!r}, which no file can be named.")
        files[TEMPLATE_FILE if name == DEFAULT_TEMPLATE else f"{TEMPLATES}/{name}{TEMPLATE_ENDING}"] = text
    return files
