"""The steps of a tokenizer.json: known by what they do, however they are spelled, and refused by name if unknown."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import Unsupported
from smidgen.formats.hf.tokenizer import tokenizer_metadata
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers import text_rules
from tests.tiny_tokenizers import (
    BYTE_LEVEL_CONFIG,
    CONFIG,
    LLAMA3,
    QWEN2,
    SPACE,
    added,
    bpe,
    byte_level_json,
    sentencepiece_json,
    split_at,
    template,
    write_folder,
)

ROWS = 600
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{REST}"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}"
    r"|\p{N}{1,3}" + REST
)
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}


def read(folder: Path, rows: int = ROWS) -> tuple[dict[str, Any], Tokenizer]:
    metadata, types = tokenizer_metadata(folder, rows)
    assert metadata.keys() == types.keys()
    return metadata, Tokenizer.from_gguf(metadata)


def byte_level(tmp_path: Path, config: Any = None, **changes: Any) -> Path:
    return write_folder(
        tmp_path, tokenizer__json=byte_level_json(**changes), tokenizer_config__json=BYTE_LEVEL_CONFIG | (config or {})
    )


def sentencepiece(tmp_path: Path, config: Any = None, **changes: Any) -> Path:
    return write_folder(
        tmp_path, tokenizer__json=sentencepiece_json(**changes), tokenizer_config__json=CONFIG | (config or {})
    )


SPELLINGS = {
    "Llama 3, SmolLM 3": ("llama-bpe", split_at(LLAMA3), True),
    "Phi-4": ("dbrx", split_at(LLAMA3), False),
    "tiktoken": (
        "dbrx",
        split_at(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        False,
    ),
    "Qwen": ("qwen2", split_at(QWEN2), False),
    "Qwen with line ends as they are": ("qwen2", split_at(QWEN2.replace(r"\r", "\r").replace(r"\n", "\n")), False),
    "Qwen 3.5": (
        "qwen35",
        split_at(QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}")),
        False,
    ),
    "SmolLM 2": (
        "smollm",
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        False,
    ),
    "GPT-2": ("gpt-2", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}, False),
    "GPT-2 spelled out": ("gpt-2", split_at(GPT2), False),
    "Mistral Nemo": ("tekken", split_at(TEKKEN), True),
    "Phi-4 mini": ("gpt-4o", split_at(GPT_4O), False),
    "matches only": (
        "gpt-4o",
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": GPT_4O}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        },
        False,
    ),
}


@pytest.mark.parametrize(("name", "step", "whole_words"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_pre_tokenizers_are_known_by_their_expressions(name: str, step: Any, whole_words: bool, tmp_path: Path) -> None:
    tokenizer = byte_level_json(pre_tokenizer=step)
    tokenizer["model"]["ignore_merges"] = whole_words
    folder = write_folder(tmp_path, tokenizer__json=tokenizer, tokenizer_config__json=BYTE_LEVEL_CONFIG)
    assert read(folder)[0]["tokenizer.ggml.pre"] == name


REFUSED_BYTE_LEVEL: dict[str, tuple[dict[str, Any], str]] = {
    "expression": ({"pre_tokenizer": split_at(r"\w+")}, r"pre-tokenizer \\w\+"),
    "two expressions": ({"pre_tokenizer": split_at(QWEN2, QWEN2)}, "pre-tokenizer"),
    "prefix space": ({"pre_tokenizer": split_at(QWEN2, add_prefix_space=True)}, "add_prefix_space"),
    "after bytes": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*split_at(QWEN2)["pretokenizers"]] * 2}},
        "Split after ByteLevel",
    ),
    "white space": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}},
        "Whitespace",
    ),
    "digits together": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}},
        "Digits",
    ),
    "split by string": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Split", "pattern": {"String": "a"}}, {"type": "ByteLevel"}],
            }
        },
        "Split with",
    ),
    "nested": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Sequence"}]}},
        "Sequence within a Sequence",
    ),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    "NFKC": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}}, "NFKC"),
    "Roberta": ({"post_processor": {"type": "RobertaProcessing"}}, "post-processor RobertaProcessing"),
    "another token first": ({"post_processor": template("<|end|>", end=377)}, "that adds <|end|>"),
    "unigram": ({"model": {"type": "Unigram", "vocab": []}}, "model Unigram"),
    "word pieces": ({"model": {"type": "WordPiece", "vocab": {}}}, "model WordPiece"),
    "dropout": ({"model": bpe({"a": 0}, [], dropout=0.1)}, "dropout"),
    "suffix": ({"model": bpe({"a": 0}, [], end_of_word_suffix="</w>")}, "end_of_word_suffix"),
    "byte fallback": ({"model": bpe({"a": 0}, [], byte_fallback=True)}, "byte-level BPE with byte_fallback"),
    "no bytes": ({"pre_tokenizer": None}, "BPE that knows no bytes"),
    "words of their own": ({"added_tokens": [added(400, "dog", single_word=True)]}, "a word of its own"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED_BYTE_LEVEL.values(), ids=REFUSED_BYTE_LEVEL.keys())
def test_what_cannot_be_honoured_is_refused_by_name(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=reason) as caught:
        tokenizer_metadata(byte_level(tmp_path, **changes), ROWS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


REFUSED_SENTENCEPIECE: dict[str, tuple[dict[str, Any], str]] = {
    "NFKC": ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE, {"type": "NFKC"}]}}, "normalizer NFKC"),
    "another prefix": ({"normalizer": {"type": "Prepend", "prepend": "_"}}, "normalizer Prepend"),
    "two prefixes": ({"normalizer": {"type": "Sequence", "normalizers": [PREPEND, PREPEND]}}, "normalizer Prepend"),
    "spaces kept": ({"normalizer": PREPEND}, "turns spaces into"),
    "replace more": ({"normalizer": REPLACE | {"pattern": {"Regex": " +"}}}, "normalizer Replace"),
    "both": ({"pre_tokenizer": METASPACE}, "pre-tokenizer Metaspace"),
    "split words": (
        {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": METASPACE | {"split": True}},
        "Metaspace that splits",
    ),
    "unknown scheme": (
        {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": METASPACE | {"prepend_scheme": "x"}},
        "prepend_scheme x",
    ),
    "unescaped split": (
        {
            "normalizer": {"type": "Sequence", "normalizers": []},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}},
        },
        "pre-tokenizer Split",
    ),
    "normalized": (
        {"added_tokens": [added(0, "<unk>"), added(500, "dog", special=False, normalized=True)]},
        "found only after a space",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED_SENTENCEPIECE.values(), ids=REFUSED_SENTENCEPIECE.keys())
def test_sentencepiece_steps_refused_by_name(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=reason):
        tokenizer_metadata(sentencepiece(tmp_path, **changes), ROWS)


def test_merges_that_scores_cannot_say_are_refused(tmp_path: Path) -> None:
    tokenizer = sentencepiece_json()
    del tokenizer["model"]["merges"][50]
    with pytest.raises(Unsupported, match=r"\d of the \d merges that make"):
        tokenizer_metadata(write_folder(tmp_path, tokenizer__json=tokenizer), ROWS)


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "prefix", "rule"),
    [
        (None, None, True, None),
        (REPLACE, None, False, None),
        (REPLACE, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}, False, None),
        ({"type": "Sequence", "normalizers": []}, METASPACE, True, "first"),
        ({"type": "Sequence", "normalizers": []}, METASPACE | {"prepend_scheme": "always"}, True, "missing"),
        ({"type": "Sequence", "normalizers": []}, METASPACE | {"prepend_scheme": "never"}, False, None),
    ],
    ids=["Llama 2, Phi-3", "Gemma", "Gemma 3", "Mistral v0.3", "Metaspace", "Metaspace without prefix"],
)
def test_space_prefix(normalizer: Any, pre_tokenizer: Any, prefix: bool, rule: str | None, tmp_path: Path) -> None:
    metadata, tokenizer = read(sentencepiece(tmp_path, normalizer=normalizer, pre_tokenizer=pre_tokenizer))
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix and metadata.get(text_rules.SPACE_PREFIX) == rule

    def spelled(text: str) -> str:
        return "".join(tokenizer.token_text(token) for token in tokenizer.encode(text, parse_special=True))

    before, after = (SPACE if prefix else ""), (SPACE if prefix and rule != "first" else "")
    assert spelled("the<s>the") == f"{before}the<s>{after}the"
    assert spelled(" the") == ("▁▁the" if prefix and rule is None else "▁the")


def test_normalization_of_plain_text(tmp_path: Path) -> None:
    decomposed, composed = "e\u0301te\u0301", "\u00e9t\u00e9"
    _, plain = read(byte_level(tmp_path / "plain"))
    metadata, nfc = read(byte_level(tmp_path / "nfc", normalizer={"type": "NFC"}))
    assert metadata[text_rules.NORMALIZER] == "nfc"
    assert nfc.encode(decomposed) == nfc.encode(composed) == plain.encode(composed) != plain.encode(decomposed)


def test_white_space_that_special_tokens_swallow(tmp_path: Path) -> None:
    tokens = [
        added(390, "<l>", lstrip=True),
        added(391, "<r>", rstrip=True),
        added(392, "<|begin|>"),
        added(393, "<|end|>"),
    ]
    metadata, tokenizer = read(byte_level(tmp_path, added_tokens=tokens))
    assert metadata[text_rules.STRIP_LEFT].tolist() == [390] and metadata[text_rules.STRIP_RIGHT].tolist() == [391]
    stripped = tokenizer.encode("the \t\n<l> dog<r>\n\u00a0 the<r> \n<l>", parse_special=True)
    assert tokenizer.decode(stripped) == "the<l> dog<r>the<r><l>"
