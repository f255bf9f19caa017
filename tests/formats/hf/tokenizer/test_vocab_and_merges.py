"""vocab.json and merges.txt alone: read with the rules of the class that transformers takes, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.tokenizer import tokenizer_kind, tokenizer_metadata
from smidgen.model.tokenizer import Tokenizer
from tests.tiny_tokenizers import TEXT, byte_level_json, write_folder

ROWS = 400
TEXTS = (TEXT, "the 12345 dogs don't DON'T", "<|begin|>the<|end|>  dog", "cafe\u0301 हिन्दी\r\n\n x", "<|im_end|> the")


def folder_of(path: Path, model_type: str, config: dict[str, Any], merges: str | None = None) -> Path:
    """The two files, the special tokens within the vocabulary, as GPT-2 has it."""
    tokenizer = byte_level_json()
    model = tokenizer["model"]
    vocabulary = model["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    lines = "#version: 0.2\n" + "\r\n".join(model["merges"]) + "\n" if merges is None else merges
    return write_folder(
        path, vocab__json=vocabulary, merges__txt=lines, tokenizer_config__json=config,
        config__json={"model_type": model_type},
        added_tokens__json={"<|im_end|>": len(vocabulary)},
    )  # fmt: skip


NAMES = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("llama", NAMES | {"tokenizer_class": "GPT2Tokenizer"}),
        ("llama", NAMES | {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False}),
        ("llama", {"tokenizer_class": "GPT2Tokenizer"}),
        ("qwen2", NAMES | {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("qwen3", NAMES | {"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<|im_end|>"]}),
        ("qwen3", {}),
    ],
)
def test_as_transformers_reads_them(model_type: str, config: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_type, config)
    metadata, _ = tokenizer_metadata(folder, ROWS)
    ours, theirs = Tokenizer.from_gguf(metadata), AutoTokenizer.from_pretrained(folder)
    named = "eos_token" in config  # else "<|end|>" is plain text there; here, as in llama.cpp, always an end
    for text in TEXTS if named else [text for text in TEXTS if "<|end|>" not in text]:
        assert ours.encode(text, parse_special=True) == theirs(text, add_special_tokens=False)["input_ids"], text
    assert {role: getattr(theirs, role) for role in ours.special_texts} == ours.special_texts
    assert ours.eos_id == theirs.eos_token_id and not ours.adds_bos
    assert tokenizer_kind(folder) == "byte-level BPE"


REFUSED: dict[str, tuple[dict[str, Any], str | None, type[SmidgenError], str]] = {
    "another class": ({"tokenizer_class": "LlamaTokenizerFast"}, None, Unsupported, "not of LlamaTokenizer: add"),
    "no class": ({}, None, Unsupported, "not of a tokenizer without a class"),
    "prefix": ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, None, Unsupported, "add_prefix_space"),
    "no pair": ({"tokenizer_class": "GPT2Tokenizer"}, "t h e\n", BadFile, "is not a pair of tokens"),
    "unknown tokens": ({"tokenizer_class": "GPT2Tokenizer"}, "日 本\n", BadFile, "does not join two tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    config, merges, kind, words = REFUSED[name]
    folder = folder_of(tmp_path, "llama", config, merges)
    with pytest.raises(SmidgenError) as caught:
        tokenizer_metadata(folder, ROWS)
    assert type(caught.value) is kind and words in str(caught.value) and "\n" not in str(caught.value)


def test_one_of_the_two_is_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "qwen2", NAMES)
    (folder / "merges.txt").unlink()
    with pytest.raises(BadFile, match=r"nor vocab.json with merges.txt"):
        tokenizer_metadata(folder, ROWS)
    write_folder(folder, merges__txt=b"\xff\xfe")
    with pytest.raises(BadFile, match="not UTF-8"):
        tokenizer_metadata(folder, ROWS)


def test_a_tokenizer_json_beside_them_counts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", NAMES | {"tokenizer_class": "GPT2Tokenizer"})
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_json()))
    assert tokenizer_metadata(folder, ROWS)[0]["tokenizer.ggml.pre"] == "qwen2"
