"""Token ids and text equal those of transformers: for the folders we write from GGUF, and for folders as others write
them, through the metadata we read from them. transformers finds special tokens in any text; so do we with
parse_special.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers import text_rules
from smidgen.model.tokenizers.vocabulary import TokenKind
from tests.tiny_tokenizers import (
    BYTE_LEVEL_CONFIG,
    CONFIG,
    LLAMA3,
    QWEN2,
    SPACE,
    TEXT,
    added,
    byte_level_json,
    model_proto,
    sentencepiece_json,
    split_at,
    template,
    write_folder,
)

LINES = (Path(__file__).parents[1] / "model" / "tokenizer_lines.txt").read_text(encoding="utf-8").splitlines()
WORDS = [word for line in LINES for word in line.split(" ")]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def transformers_tokenizer(folder: Path) -> Any:
    return import_module("transformers").AutoTokenizer.from_pretrained(folder)


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Shuffled words of the lines, with spaces and special tokens between them."""
    generator = random.Random(seed)
    pieces = [
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\t ",
        "",
        "<s>",
        "</s>",
        "<|end|>",
        " <|im_end|>\n",
        "'s",
        "'LL",
        "123456",
        "ab",
    ]
    for _ in range(count):
        yield "".join(
            word + generator.choice(pieces) for word in generator.choices(WORDS, k=generator.randrange(1, 20))
        )


def differing(ours: Tokenizer, theirs: Any, texts: list[str]) -> list[str]:
    """The texts that get other ids, or whose ids mean another text."""
    found = []
    for text in texts:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        if ours.encode(text, parse_special=True) != ids or ours.decode(ids) != theirs.decode(ids):
            found.append(text)
    return found


def assert_same(folder: Path, metadata: Any, texts: list[str]) -> None:
    check(Tokenizer.from_gguf(metadata), transformers_tokenizer(folder), texts)


def check(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    assert differing(ours, theirs, texts) == []
    for text in texts[:20]:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, parse_special=True, add_bos=ours.adds_bos) == ids
    for role, text in ours.special_texts.items():
        assert getattr(theirs, role) == text


@dataclass
class Written:
    """A real model's metadata, the folder written from them, and the tokenizers of both."""

    metadata: dict[str, Any]
    folder: Path
    ours: Tokenizer
    theirs: Any


@pytest.fixture(scope="module", params=["gemma_path", "smollm_path"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    with GGUFFile.open(request.getfixturevalue(request.param)) as file:
        metadata = dict(file.metadata)
    folder = tmp_path_factory.mktemp(request.param)
    write_tokenizer(folder, metadata)
    return Written(metadata, folder, Tokenizer.from_gguf(metadata), transformers_tokenizer(folder))


def test_real_models_written(written: Written) -> None:
    texts = [*LINES, "\n".join(LINES), " ".join(LINES), "", *random_texts(200, seed=1)]
    check(written.ours, written.theirs, texts)


def test_real_models_read_again(written: Written) -> None:
    """All keys of the GGUF that the folder can carry come back; the scores as the order in which tokens merge."""
    metadata, ours = written.metadata, written.ours
    again: dict[str, Any] = tokenizer_metadata(written.folder, len(ours))[0]
    other = Tokenizer.from_gguf(again)
    for key in again.keys() & metadata.keys() - {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}:
        assert again[key] == metadata[key], key
    missing = {key for key in metadata.keys() - again.keys() if key.startswith("tokenizer.")}
    assert missing <= {"tokenizer.ggml.add_sep_token"}
    # Control tokens that the file calls normal (those that end generation are known by their text) are written as such.
    kinds = (metadata["tokenizer.ggml.token_type"], again["tokenizer.ggml.token_type"])
    assert {int(new) for old, new in zip(*kinds, strict=True) if old != new} <= {TokenKind.CONTROL}
    if "tokenizer.ggml.scores" in metadata:
        scores, expected = again["tokenizer.ggml.scores"], metadata["tokenizer.ggml.scores"]
        merged = (kinds[1] == TokenKind.NORMAL) & np.array([len(text) > 1 for text in again["tokenizer.ggml.tokens"]])
        assert (np.argsort(-scores[merged]) == np.argsort(-expected[merged])).all()
    assert other.eos_ids == ours.eos_ids and other.special_texts == ours.special_texts
    for text in [*LINES, *random_texts(100, seed=2)]:
        assert other.encode(text, parse_special=True) == ours.encode(text, parse_special=True)


def test_known_differences_of_what_we_write(written: Written) -> None:
    """A "▁" in the text and bytes that the vocabulary lacks, as the docstring of write.py says."""
    ours, theirs = written.ours, written.theirs
    if written.metadata["tokenizer.ggml.model"] == "llama":
        assert ours.decode(ours.encode("a▁b")) == "a▁b"
        assert theirs.decode(theirs("a▁b", add_special_tokens=False)["input_ids"]) == "a b"
    else:
        assert ours.encode("!\x04!") == ours.encode("!") * 2
        assert theirs("!\x04!", add_special_tokens=False)["input_ids"] == ours.encode("!!")


def test_several_ways_to_make_a_token_may_differ(tmp_path: Path) -> None:
    """SentencePiece merges the leftmost of equal scores, a list of merges its first pair: in a run of one letter the
    same tokens may come in another order. Nothing else differs, and no word of the lines shows it."""
    runs = ["aa", "aaa", "aaaa"]
    tokenizer = sentencepiece_json()
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {run: len(vocabulary) + place for place, run in enumerate(runs)}
    tokenizer["model"]["merges"] += [["a" * cut, run[cut:]] for run in runs for cut in range(len(run) - 1, 0, -1)]
    folder = write_folder(tmp_path, tokenizer__json=tokenizer, tokenizer_config__json=CONFIG)
    ours = Tokenizer.from_gguf(tokenizer_metadata(folder, len(vocabulary))[0])
    theirs = transformers_tokenizer(folder)
    for length in range(1, 60):
        expected = theirs("a" * length, add_special_tokens=False)["input_ids"]
        assert sorted(ours.encode("a" * length)) == sorted(expected)
    for line in LINES:
        same = ours.encode(line, parse_special=True) == theirs(line, add_special_tokens=False)["input_ids"]
        assert same or "aaa" in line


def metaspace(scheme: str) -> dict[str, Any]:
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    return {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": step}


USER_DEFINED = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>"), added(450, "\n\n", special=False)]
STRIPPING = [*USER_DEFINED[:3], added(450, "<|user|>", rstrip=True), added(451, "<|end|>", rstrip=True)]
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
SENTENCEPIECE = {
    "Llama 2": {},
    "Mistral v0.3": metaspace("first"),
    "Metaspace": metaspace("always"),
    "no prefix": metaspace("never"),
    "Gemma": {"normalizer": REPLACE, "added_tokens": USER_DEFINED},
    "Gemma 3": {"normalizer": REPLACE, "pre_tokenizer": GEMMA_SPLIT, "added_tokens": USER_DEFINED},
    "Phi-3": {"added_tokens": STRIPPING},
}
SPACED = [
    "",
    " ",
    "  ",
    " the dog",
    "the  dog ",
    "<s>the dog</s> the<s> the",
    "\n\n\n the",
    " <s>",
    "<|user|>\n the <|end|> \n",
]


@pytest.mark.parametrize("changes", SENTENCEPIECE.values(), ids=SENTENCEPIECE.keys())
def test_sentencepiece_pipelines(changes: dict[str, Any], tmp_path: Path) -> None:
    """Read, and written and read again. Decoded text may differ in spaces beside special tokens: transformers takes
    the prefix off the beginning of the text only, even where it stands after BOS."""
    tokenizer = sentencepiece_json(**changes)
    tokenizer["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    folder = write_folder(tmp_path / "theirs", tokenizer__json=tokenizer, tokenizer_config__json=CONFIG)
    metadata, _ = tokenizer_metadata(folder, 500)
    again = write_folder(tmp_path / "ours")
    write_tokenizer(again, metadata)
    texts = [*SPACED, TEXT, *LINES[::3], *random_texts(40, seed=3)]
    ours = Tokenizer.from_gguf(metadata)
    for theirs in (transformers_tokenizer(folder), transformers_tokenizer(again)):
        for text in texts:
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text, parse_special=True) == expected
            assert ours.decode(expected).replace(" ", "") == theirs.decode(expected).replace(" ", "")
        assert ours.encode(TEXT, add_bos=True) == theirs(TEXT)["input_ids"]
    other, _ = tokenizer_metadata(again, 500)
    assert {key for key in other if key.startswith("tokenizer.smidgen")} == {
        key for key in metadata if key.startswith("tokenizer.smidgen")
    }


BYTE_LEVEL = {
    "Llama 3": ({"pre_tokenizer": split_at(LLAMA3), "post_processor": template("<|begin|>", begin=336)}, True),
    "Phi-4": (
        {
            "pre_tokenizer": split_at(LLAMA3),
            "added_tokens": [added(336, "<|begin|>", lstrip=True, rstrip=True), added(337, "<|end|>", lstrip=True)],
        },
        False,
    ),
    "Qwen": ({"pre_tokenizer": split_at(QWEN2), "normalizer": {"type": "NFC"}}, False),
    "GPT-2": ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}}, False),
    "SmolLM 2": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            }
        },
        False,
    ),
}


@pytest.mark.parametrize(("changes", "whole_words"), BYTE_LEVEL.values(), ids=BYTE_LEVEL.keys())
def test_byte_level_pipelines(changes: dict[str, Any], whole_words: bool, tmp_path: Path) -> None:
    tokenizer = byte_level_json(**changes)
    tokenizer["model"]["ignore_merges"] = whole_words
    config = BYTE_LEVEL_CONFIG | {"clean_up_tokenization_spaces": False}
    folder = write_folder(tmp_path / "theirs", tokenizer__json=tokenizer, tokenizer_config__json=config)
    metadata, _ = tokenizer_metadata(folder, 400)
    again = write_folder(tmp_path / "ours")
    write_tokenizer(again, metadata)
    decomposed = ["e\u0301 a\u0308<|end|>\u1100\u1161 \u212b", " <|begin|> \n\u2003the <|end|>  dog"]
    texts = [*SPACED, *decomposed, TEXT, *LINES[::3], *random_texts(40, seed=4)]
    assert_same(folder, metadata, texts)
    assert_same(again, metadata, texts)
    assert_same(again, tokenizer_metadata(again, 400)[0], texts)


@pytest.mark.parametrize(
    "model_type",
    ["llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "phi3", "qwen2", "qwen3", "smollm3", "openelm"],
)
def test_written_folders_load_as_they_stand_for_any_family(model_type: str, tmp_path: Path) -> None:
    """transformers has classes of its own for some families; they must not take over. Where the config says qwen2 its
    class does all the same, whatever the folder says, so that there only a tokenizer like Qwen's can be the same."""
    qwen = (byte_level_json(normalizer={"type": "NFC"}), BYTE_LEVEL_CONFIG)
    tokenizers = (sentencepiece_json(), CONFIG), (byte_level_json(pre_tokenizer=split_at(LLAMA3)), BYTE_LEVEL_CONFIG)
    tokenizers = [qwen] if model_type == "qwen2" else [*tokenizers, qwen]
    for tokenizer, config in tokenizers:
        folder = write_folder(tmp_path / "theirs", tokenizer__json=tokenizer, tokenizer_config__json=config)
        metadata, _ = tokenizer_metadata(folder, 500)
        again = write_folder(tmp_path / "ours", config__json={"model_type": model_type})
        write_tokenizer(again, metadata)
        ours, theirs = Tokenizer.from_gguf(metadata), transformers_tokenizer(again)
        for text in [*SPACED, TEXT]:
            assert ours.encode(text, parse_special=True) == theirs(text, add_special_tokens=False)["input_ids"]


def test_tokenizer_model_alone_as_transformers_converts_it(tmp_path: Path) -> None:
    """transformers' own conversion needs protobuf, so its LlamaTokenizer is given the vocabulary that we read."""
    folder = write_folder(tmp_path, tokenizer__model=model_proto(), tokenizer_config__json=CONFIG | {"legacy": False})
    metadata, _ = tokenizer_metadata(folder, 500)
    assert metadata[text_rules.SPACE_PREFIX] == "first"
    made = sentencepiece_json()["model"]
    merges = [tuple(pair) for pair in made["merges"]]
    theirs = import_module("transformers").LlamaTokenizer(vocab=made["vocab"], merges=merges, legacy=False)
    ours = Tokenizer.from_gguf(metadata)
    for text in [*SPACED, TEXT, *LINES]:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, parse_special=True) == expected
