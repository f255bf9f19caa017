"""The tokenizer on its own: round trips, BOS, end tokens, decoding, and metadata that lies."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS
from smidgen.model.tokenizers.special_tokens import SpecialTokens
from smidgen.model.tokenizers.vocabulary import LARGEST_VOCABULARY

LINES = (Path(__file__).parent / "tokenizer_lines.txt").read_text(encoding="utf-8").splitlines()


def sentencepiece_metadata(
    words: str = "▁ a b ▁a ab ▁ab", user_defined: tuple[str, ...] = ("\n", "  ")
) -> dict[str, Any]:
    normal = words.split(" ")
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *normal, *user_defined]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(normal), *[4] * len(user_defined)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": -np.arange(len(texts), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, dtype=np.int32),
    }


def byte_level_metadata() -> dict[str, Any]:
    texts = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTE_CHARACTERS, "he", "ll", "hell", "Ġhe"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array([3, 3, 3, *[1] * 260], dtype=np.int32),
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "Ġ he"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
    }


@cache
def real(path: Path) -> Tokenizer:
    with GGUFFile.open(path) as file:
        return Tokenizer.from_gguf(file.metadata)


@cache
def tiny(make: Callable[[], dict[str, Any]]) -> Tokenizer:
    return Tokenizer.from_gguf(make())


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("ab ▁\n<>sé", max_size=40))
@settings(max_examples=300, deadline=None)
def test_round_trip_of_any_text(text: str) -> None:
    for make in (sentencepiece_metadata, byte_level_metadata):
        tokenizer = tiny(make)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


def test_round_trip_of_real_models(gemma_path: Path, smollm_path: Path) -> None:
    for tokenizer in (real(gemma_path), real(smollm_path)):
        for text in [*LINES, "\n".join(LINES), "▁ ▁▁a▁ ▁\n▁"]:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_surrogates_become_replacement_characters() -> None:
    for tokenizer in (tiny(sentencepiece_metadata), tiny(byte_level_metadata)):
        assert tokenizer.decode(tokenizer.encode("a\ud83db\udfff")) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\n", "é", "字", "<unused", "<", "\t \n", "0", "=", "A"])
def test_very_long_lines_finish(unit: str, gemma_path: Path, smollm_path: Path) -> None:
    text = unit * (100_000 // len(unit))
    for tokenizer in (real(gemma_path), real(smollm_path)):
        for candidate in (text, f"x{text}y"):
            assert tokenizer.decode(tokenizer.encode(candidate, parse_special=True)) == candidate


@given(text=st.text("ab \n\x04<s>/=\u0301e\u2581", max_size=60))
@settings(deadline=None)
def test_the_fewest_tokens_are_never_more_than_there_are(smollm_path: Path, text: str) -> None:
    swallowing = Tokenizer.from_gguf(sentencepiece_metadata() | {"general.name": "phi-3"})
    normalising = Tokenizer.from_gguf(byte_level_metadata() | {"tokenizer.smidgen.normalizer": "nfc"})
    for tokenizer in (tiny(sentencepiece_metadata), swallowing, normalising, real(smollm_path)):
        for special in (False, True):
            assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode(text, parse_special=special))


def test_the_fewest_tokens_of_a_text_that_is_far_too_long(gemma_path: Path, smollm_path: Path) -> None:
    """Counted at once, where a book of one letter takes minutes to encode."""
    for tokenizer in (real(gemma_path), real(smollm_path)):
        assert 100_000 < tokenizer.fewest_tokens("a" * 16_000_000) < 16_000_000


def test_endless_white_space_is_refused_where_the_library_would_crash(smollm_path: Path) -> None:
    tokenizer = real(smollm_path)
    assert tokenizer.decode(tokenizer.encode(" " * 1_000_000 + "x")) == " " * 1_000_000 + "x"
    with pytest.raises(SmidgenError, match="spaces in a row"):
        tokenizer.encode("x" + " " * 12_000_000 + "x")


@given(ids=st.lists(st.integers(0, 260), max_size=20))
def test_any_ids_decode(ids: list[int]) -> None:
    assert isinstance(tiny(sentencepiece_metadata).decode(ids), str)
    assert isinstance(tiny(byte_level_metadata).decode(np.array(ids, dtype=np.int64)), str)


@pytest.mark.parametrize("token", [-1, 1 << 40])
def test_ids_out_of_range(token: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tiny(byte_level_metadata).decode([0, token])


def test_decode_can_leave_control_tokens_out() -> None:
    tokenizer = tiny(byte_level_metadata)
    assert tokenizer.decode([1, *tokenizer.encode("hell"), 2]) == "<|im_start|>hell<|im_end|>"
    assert tokenizer.decode([1, *tokenizer.encode("hell"), 2], skip_special=True) == "hell"


def test_exactly_one_bos() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata())
    assert tokenizer.adds_bos and tokenizer.bos_id == 1
    text = tokenizer.encode("a")
    assert tokenizer.encode("", add_bos=True) == [1]
    assert tokenizer.encode("a", add_bos=True) == [1, *text]
    assert tokenizer.encode("<s>a", add_bos=True, parse_special=True) == [1, *text]
    assert tokenizer.encode("<s><s>a", add_bos=True, parse_special=True) == [1, *text]
    assert tokenizer.encode("<s>a", add_bos=True).count(1) == 1  # text from people: "<s>" is only text
    assert tokenizer.encode("<s>a", parse_special=True) == [1, *text]


def test_without_bos() -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.bos_token_id"]
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.bos_id is None and not tokenizer.adds_bos
    with pytest.raises(SmidgenError, match="no BOS token"):
        tokenizer.encode("a", add_bos=True)


@pytest.mark.parametrize(("key", "expected"), [(None, False), (True, True), (False, False)])
def test_adds_bos_of_byte_level_models(key: bool | None, expected: bool) -> None:
    metadata = byte_level_metadata() | ({} if key is None else {"tokenizer.ggml.add_bos_token": key})
    assert Tokenizer.from_gguf(metadata).adds_bos is expected


def test_end_tokens(gemma_path: Path, smollm_path: Path) -> None:
    """As llama.cpp lists them when it loads the files ("EOG token")."""
    gemma, smollm = real(gemma_path), real(smollm_path)
    assert {gemma.token_text(token) for token in gemma.eos_ids} == {"<eos>", "<end_of_turn>", "</s>"}
    assert {smollm.token_text(token) for token in smollm.eos_ids} == {"<|endoftext|>", "<|im_end|>", "<reponame>"}
    by_key = Tokenizer.from_gguf(byte_level_metadata() | {"tokenizer.ggml.eot_token_id": 5})
    assert by_key.eos_ids == {0, 2, 5}


def test_space_prefix() -> None:
    metadata = sentencepiece_metadata()
    with_prefix = Tokenizer.from_gguf(metadata)
    without = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert [with_prefix.token_text(token) for token in with_prefix.encode("ab\nab")] == ["▁ab", "\n", "▁ab"]
    assert [without.token_text(token) for token in without.encode("ab\nab")] == ["ab", "\n", "ab"]


def test_text_cannot_spell_control_or_byte_tokens() -> None:
    """Even where its pieces would merge into one."""
    metadata = sentencepiece_metadata("▁ </s > <0x4 1>")
    tokenizer = Tokenizer.from_gguf(metadata)
    assert not set(tokenizer.encode("</s>")) & {0, 1, 2}
    assert tokenizer.encode("</s>", parse_special=True) == [2]
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"


def test_longest_special_token_wins_over_leftmost() -> None:
    specials = SpecialTokens({"<<a": 1, "a>>>": 2, "\n": 3, "\n\n": 4, "éé": 5, "abc": 6})
    assert list(specials.split("<<a>>>")) == ["<<", 2]
    assert list(specials.split("x<<a>>")) == ["x", 1, ">>"]
    assert list(specials.split("\n\n\n")) == [4, 3]
    assert list(specials.split("ééabc")) == [5, 6]
    assert list(specials.split("")) == []
    assert list(SpecialTokens({}).split("ab")) == ["ab"]


def test_bytes_that_the_vocabulary_lacks_are_left_out(smollm_path: Path) -> None:
    tokenizer = real(smollm_path)
    assert 0x04 in tokenizer.missing_bytes
    assert tokenizer.decode(tokenizer.encode("a\x04b")) == "ab"
    assert tokenizer.encode("!\x04!") == tokenizer.encode("!") * 2 != tokenizer.encode("!!")


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "short scores": {"tokenizer.ggml.scores": np.zeros(3, dtype=np.float32)},
    "long types": {"tokenizer.ggml.token_type": np.ones(10_000, dtype=np.int32)},
    "undefined score": {"tokenizer.ggml.scores": np.full(267, np.nan, dtype=np.float32)},
    "scores are text": {"tokenizer.ggml.scores": ["1"] * 267},
    "scores are one number": {"tokenizer.ggml.scores": 1.0},
    "no tokens": {"tokenizer.ggml.tokens": []},
    "tokens are numbers": {"tokenizer.ggml.tokens": np.zeros(267)},
    "duplicate": {"tokenizer.ggml.tokens": ["a"] * 267},
    "absurd size": {"tokenizer.ggml.tokens": ["a"] * (LARGEST_VOCABULARY + 1)},
    "invalid text": {"tokenizer.ggml.tokens": ["\ud800"] * 267},
    "more ends are text": {"tokenizer.smidgen.end_ids": "2"},
    "bos is text": {"tokenizer.ggml.bos_token_id": "<s>"},
    "flag is a number": {"tokenizer.ggml.add_bos_token": 1},
    "byte kind for a word": {"tokenizer.ggml.token_type": np.full(267, 6, dtype=np.int32)},
    "no byte tokens": {"tokenizer.ggml.token_type": np.ones(267, dtype=np.int32)},
    "strip beyond the end": {"tokenizer.smidgen.strip_left": np.array([267], dtype=np.int32)},
    "strip before the beginning": {"tokenizer.smidgen.strip_right": np.array([-1], dtype=np.int32)},
    "strip is text": {"tokenizer.smidgen.strip_right": "all"},
    "strip is fractions": {"tokenizer.smidgen.strip_right": np.array([0.5])},
    "no space": {"tokenizer.ggml.tokens": [f"t{index}" for index in range(267)]},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictory_metadata(change: dict[str, Any]) -> None:
    metadata = sentencepiece_metadata()
    assert len(metadata["tokenizer.ggml.tokens"]) == 267
    with pytest.raises(BadFile) as caught:
        Tokenizer.from_gguf(metadata | change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("merge", ["h x", "he", "", " ", "h  e", "l he", "\ud800 h", "h e l"])
def test_merges_of_unknown_tokens(merge: str) -> None:
    with pytest.raises(BadFile, match="does not join two tokens into a third"):
        Tokenizer.from_gguf(byte_level_metadata() | {"tokenizer.ggml.merges": ["h e", merge]})


@pytest.mark.parametrize("key", ["model", "tokens", "scores", "token_type"])
def test_missing_keys(key: str) -> None:
    metadata = sentencepiece_metadata()
    del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(BadFile, match=f"tokenizer.ggml.{key}"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "none", "gemma4", "x" * 10_000, np.zeros(3)])
def test_other_tokenizer_models(model: Any) -> None:
    with pytest.raises(Unsupported, match="is not supported"):
        Tokenizer.from_gguf(sentencepiece_metadata() | {"tokenizer.ggml.model": model})


@pytest.mark.parametrize("key", ["normalizer", "space_prefix"])
def test_text_rules_of_a_newer_smidgen(key: str) -> None:
    with pytest.raises(Unsupported, match=f"tokenizer.smidgen.{key} is other; this smidgen knows"):
        Tokenizer.from_gguf(sentencepiece_metadata() | {f"tokenizer.smidgen.{key}": "other"})


@pytest.mark.parametrize("name", ["Phi 3 Mini", "Phi-3-mini", "phi3"])
def test_phi3_swallows_white_space_after_special_tokens(name: str) -> None:
    """As llama.cpp does for models of that name, because GGUF has no key for it."""
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata() | {"general.name": name})
    kept = tokenizer.decode(tokenizer.encode("</s> \t a<s> b", parse_special=True))
    assert kept == ("</s> \t a<s> b" if name == "Phi 3 Mini" else "</s>a<s> b")


@pytest.mark.parametrize("pre", ["kimi-k2", "deepseek-v3", "", np.zeros(3)])
def test_other_pre_tokenizers(pre: Any) -> None:
    with pytest.raises(Unsupported, match="tokenizer.ggml.pre"):
        Tokenizer.from_gguf(byte_level_metadata() | {"tokenizer.ggml.pre": pre})


@pytest.mark.parametrize("make", [sentencepiece_metadata, byte_level_metadata])
@given(parts=st.lists(st.sampled_from(["<s>", "</s>", "<|im_end|>", "<", "s>", "a", " ", "\U0010fffd"]), max_size=8))
def test_disarmed_text_stays_text(make: Callable[[], dict[str, Any]], parts: list[str]) -> None:
    tokenizer, text = tiny(make), "".join(parts)
    ids = tokenizer.encode(tokenizer.disarm(text), parse_special=True, disarmed=True)
    assert not tokenizer.control.intersection(ids)
    assert ids == tokenizer.encode(text.replace("\U0010fffd", "\ufffd"))
