"""Vocabularies at which llama.cpp ends its process, or that are none, are refused before it sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.vocabulary import check_vocabulary
from tests.gguf_forms import plain, without_vocabulary

KEY = "tokenizer.ggml."
TOKENS = [f"t{token}" for token in range(200)]
KINDS = np.ones(200, np.int32)


def header(**changes: Any) -> dict[str, Any]:
    """A sound vocabulary of 200 tokens, changed; None takes a key away."""
    values = {
        "model": "llama", "tokens": TOKENS, "scores": np.zeros(200, np.float32), "token_type": KINDS,
        "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip
    return {f"{KEY}{key}": value for key, value in values.items() if value is not None}


SOUND = {
    "as it is": {},
    "no scores, no kinds": {"scores": None, "token_type": None},
    "no BOS of its own": {"bos_token_id": None, "add_bos_token": True},  # llama.cpp takes token 1
    "a BOS that means none": {"bos_token_id": 2**32 - 1},
    "padding that means none": {"padding_token_id": 2**32 - 1},
    "padding beyond the end": {"padding_token_id": 200},
    "an empty token": {"tokens": ["", *TOKENS[1:]]},
    "unigram without BOS": {"model": "t5", "bos_token_id": None},
    "byte-level": {"model": "gpt2", "bos_token_id": None, "add_bos_token": True},
    "WordPiece": {"model": "bert", "bos_token_id": None},
    "of a kind that came later": {"model": "whatever"},
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_ones_pass(name: str) -> None:
    check_vocabulary(header(**SOUND[name]))


ABSURD: dict[str, tuple[dict[str, Any], type[SmidgenError], str]] = {
    "two ids, one text": (
        {"tokens": ["a", "b", "a", *TOKENS[3:]]}, BadFile, "tokens 0 and 2 .* have the same text, 'a'"),
    "two ids up to a zero byte": ({"tokens": ["a\0x", "a\0y", *TOKENS[2:]]}, BadFile, "tokens 0 and 1 "),
    "an empty token's name taken": ({"tokens": ["", "[EMPTY_0]", *TOKENS[2:]]}, BadFile, "tokens 0 and 1 "),
    "two ids in other kinds": ({"model": "t5", "tokens": ["a", "a", *TOKENS[2:]]}, BadFile, "tokens 0 and 1 "),
    "no tokenizer": ({"model": None}, BadFile, "tokenizer.ggml.model is missing"),
    "a number for its kind": ({"model": 3}, BadFile, "should be a text"),
    "none": ({"model": "none"}, Unsupported, "has no vocabulary"),
    "no_vocab": ({"model": "no_vocab", "tokens": None}, Unsupported, "has no vocabulary"),
    "no tokens": ({"tokens": []}, BadFile, "tokens is missing, empty"),
    "numbers as tokens": ({"tokens": np.zeros(200)}, BadFile, "not a list of texts"),
    "too few kinds": ({"token_type": KINDS[:199]}, BadFile, "token_type should hold .* 200 tokens, found 199"),
    "a score for all": ({"scores": 1.0}, BadFile, "scores should hold"),
    "BOS beyond a tiny vocabulary": (
        {"tokens": ["a"], "token_type": None, "scores": None, "bos_token_id": 5}, BadFile, "bos_token_id is 5 of 1"),
    "EOS asked for, none there": (
        {"model": "rwkv", "eos_token_id": None, "add_eos_token": True}, BadFile, "add_eos_token asks for it"),
    "WordPiece without its ends": (
        {"model": "bert", "tokens": TOKENS[:50], "bos_token_id": None, "add_bos_token": False}, BadFile, "bos_token"),
    "bytes in WordPiece": ({"model": "bert", "token_type": np.full(200, 6)}, BadFile, "has no tokens for bytes"),
}  # fmt: skip


def test_a_model_called_phi_3_has_its_tokens() -> None:
    """llama.cpp looks them up in any model of that name, and fails."""
    phi3 = ["<unk>", "<s>", "</s>", "<|endoftext|>", *TOKENS[4:]]
    check_vocabulary(header(tokens=phi3) | {"general.name": "Phi-3 mini"})
    check_vocabulary(header() | {"general.name": "phi 3"})
    for name in ("my-PHI3", "tiny (Phi-3)"):
        with pytest.raises(Unsupported, match=r"takes it for Phi-3 and cannot load it without the token <\|endoftext"):
            check_vocabulary(header(tokens=["<unk>", "<s>", "</s>", *TOKENS[3:]]) | {"general.name": name})


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_ones_are_refused(name: str) -> None:
    changes, error, message = ABSURD[name]
    with pytest.raises(error, match=message) as caught:
        check_vocabulary(header(**changes))
    assert str(caught.value).isprintable()


def test_the_gate_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    path.write_bytes(without_vocabulary(plain()).as_bytes())
    with GGUFFile.open(path) as file, pytest.raises(Unsupported, match=r"bare\.gguf: has no vocabulary"):
        refuse_damaged(file)
