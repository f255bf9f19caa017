"""Tokenizer files that lie: each ends in one line that names the file and the fault, none in a crash or a wrong id."""

import copy
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.hf.tokenizer import sentencepiece_model, tokenizer_json, tokenizer_metadata
from smidgen.formats.hf.tokenizer.sentencepiece_model import read_sentencepiece
from tests.tiny_tokenizers import (
    BYTE_LEVEL_CONFIG,
    CONFIG,
    byte_level_json,
    message,
    model_proto,
    piece,
    pieces,
    sentencepiece_json,
    template,
    varint,
    write_folder,
)

ROWS = 600


def refuse(folder: Path, reason: str) -> None:
    with pytest.raises(BadFile, match=reason) as caught:
        tokenizer_metadata(folder, ROWS)
    assert re.fullmatch(r"[^\n]{1,400}", str(caught.value))


def change(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change at a place inside a tokenizer.json."""

    def apply(tokenizer: dict[str, Any]) -> None:
        place: Any = tokenizer
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return apply


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no model": (change("model", to=None), "has no model"),
    "model is text": (change("model", to="BPE"), "has no model"),
    "no vocabulary": (change("model", "vocab", to={}), "vocab is missing"),
    "vocabulary is a list": (change("model", "vocab", to=["a", "b"]), "vocab is missing"),
    "id twice": (change("model", "vocab", "Ġthe", to=5), "the same id 5"),
    "negative id": (change("model", "vocab", "Ġthe", to=-1), "the id -1"),
    "absurd id": (change("model", "vocab", "Ġthe", to=1 << 60), "the id 1152921504606846976"),
    "id is a fraction": (change("model", "vocab", "Ġthe", to=1.5), "the id 1.5"),
    "id is text": (change("model", "vocab", "Ġthe", to="5"), "the id 5"),
    "id is true": (change("model", "vocab", "Ġthe", to=True), "the id True"),
    "id beyond the rows": (change("model", "vocab", "Ġthe", to=100_000), "only 600 rows"),
    "long token": (change("model", "vocab", "a" * 5000, to=599), "has 5000 characters"),
    "name of an unused row": (change("model", "vocab", "[PAD599]", to=590), "name of a row without a token"),
    "no merges": (change("model", "merges", to=None), "merges are missing"),
    "merges are text": (change("model", "merges", to="a b"), "merges are missing"),
    "merge of one": (change("model", "merges", 0, to="the"), "is not a pair"),
    "merge of three": (change("model", "merges", 0, to="t h e"), "is not a pair"),
    "merge of numbers": (change("model", "merges", 0, to=[1, 2]), "is not a pair"),
    "merge is a number": (change("model", "merges", 0, to=7), "is not a pair"),
    "merge of unknown tokens": (change("model", "merges", 0, to="日 本"), "does not join two tokens"),
    "merge into nothing": (change("model", "merges", 0, to="Q Q"), "does not join two tokens"),
    "merge twice": (lambda made: made["model"]["merges"].append(made["model"]["merges"][0]), "lists 1 merges twice"),
    "added tokens are an object": (change("added_tokens", to={"a": 1}), "added_tokens is not a list"),
    "added token is text": (change("added_tokens", 0, to="<s>"), "without a text"),
    "added token without text": (change("added_tokens", 0, "content", to=""), "without a text"),
    "added token is a number": (change("added_tokens", 0, "content", to=5), "without a text"),
    "added token without id": (change("added_tokens", 0, "id", to=None), "the id None"),
    "added token with two ids": (change("added_tokens", 1, "content", to="<|begin|>"), "contradicts"),
    "added token over another": (change("added_tokens", 0, "id", to=5), "contradicts"),
    "added token with another's id": (change("added_tokens", 0, "id", to=337), "contradicts"),
    "flags": (change("added_tokens", 0, "lstrip", to="yes"), "not true or false"),
    "steps are a number": (change("pre_tokenizer", to=5), "not a step with a type"),
    "no steps": (change("pre_tokenizer", "pretokenizers", to=None), "not a list of at most 32 steps"),
    "many steps": (change("pre_tokenizer", "pretokenizers", to=[{"type": "ByteLevel"}] * 33), "at most 32 steps"),
    "step without type": (change("normalizer", to={"kind": "NFC"}), "not a step with a type"),
    "template without text": (change("post_processor", to=template() | {"single": []}), "does not hold the text once"),
    "template of text": (change("post_processor", to=template() | {"single": "A"}), "not a short list"),
    "template of numbers": (change("post_processor", to=template() | {"single": [1]}), "names neither"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_tokenizer_json(fault: Callable[[dict[str, Any]], None], reason: str, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(byte_level_json())
    assert tokenizer["added_tokens"][0]["id"] == 336
    fault(tokenizer)
    refuse(write_folder(tmp_path, tokenizer__json=tokenizer, tokenizer_config__json=BYTE_LEVEL_CONFIG), reason)


RAW = {
    "empty": (b"", "not valid JSON"),
    "cut off": (json.dumps(byte_level_json()).encode()[:-10], "not valid JSON"),
    "binary": (bytes(range(256)), "not valid JSON"),
    "a list": (b"[]", "has no model"),
    "token twice": (b'{"model": {"vocab": {"a": 0, "a": 1}}}', "appears twice"),
    "lone surrogate": (b'{"model": {"vocab": {"\\ud800": 0}}}', "not valid JSON"),
    "deep": (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "not downloaded": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
}


@pytest.mark.parametrize(("raw", "reason"), RAW.values(), ids=RAW.keys())
def test_what_is_no_json(raw: bytes, reason: str, tmp_path: Path) -> None:
    refuse(write_folder(tmp_path, tokenizer__json=raw), reason)


SETTINGS: dict[str, tuple[str, Any, str]] = {
    "config is a list": ("tokenizer_config__json", [], "is not a JSON object"),
    "role is a number": ("tokenizer_config__json", {"bos_token": 5}, "bos_token .* is 5"),
    "role is nobody": ("tokenizer_config__json", {"eos_token": "<nobody>"}, "'<nobody>', which is not a token"),
    "flag is text": ("tokenizer_config__json", {"add_bos_token": "true"}, "add_bos_token is true, which"),
    "decoder is a list": ("tokenizer_config__json", {"added_tokens_decoder": []}, "added_tokens_decoder is not"),
    "decoder of words": (
        "tokenizer_config__json",
        {"added_tokens_decoder": {"x": {"content": "y"}}},
        "'x', which is no",
    ),
    "decoder of digits": (
        "tokenizer_config__json",
        {"added_tokens_decoder": {"٣": {"content": "y"}}},
        "which is no id",
    ),
    "decoder of absurd ids": (
        "tokenizer_config__json",
        {"added_tokens_decoder": {"999999999": {"content": "y"}}},
        "the id 999999999",
    ),
    "another id": ("tokenizer_config__json", {"added_tokens_decoder": {"9": {"content": "<|end|>"}}}, "the id 337"),
    "two ids for one text": ("added_tokens__json", {"<|end|>": 500}, "the id 337"),
    "added id is text": ("added_tokens__json", {"<x>": "500"}, "the id 500"),
    "template is a number": ("tokenizer_config__json", {"chat_template": 5}, "neither a text nor a list"),
    "template without name": ("tokenizer_config__json", {"chat_template": [{"template": "x"}]}, "without a text or a"),
    "templates of one name": (
        "tokenizer_config__json",
        {"chat_template": [{"name": "a", "template": "x"}] * 2},
        "without a text or a name of its own",
    ),
    "many templates": ("tokenizer_config__json", {"chat_template": [{}] * 33}, "neither a text nor a list"),
    "long template": ("tokenizer_config__json", {"chat_template": "a" * (1 << 21)}, "more than 1048576 characters"),
    "long template file": ("chat_template__jinja", "a" * (1 << 21), "more than 1048576 characters"),
    "binary template": ("chat_template__jinja", b"\xff\xfe", "not UTF-8"),
}


@pytest.mark.parametrize(("file", "value", "reason"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings(file: str, value: Any, reason: str, tmp_path: Path) -> None:
    refuse(write_folder(tmp_path, tokenizer__json=byte_level_json(), **{file: value}), reason)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{{ 'secret' }}")
    for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja", "tokenizer_config.json"):
        folder = write_folder(tmp_path / name)
        (folder / name).symlink_to(tmp_path / "secret")
        refuse(folder, "link out of the model's folder")


def test_tokenizer_model_and_json_that_disagree(tmp_path: Path) -> None:
    listed = pieces()
    listed[300], listed[301] = listed[301], listed[300]
    folder = write_folder(tmp_path, tokenizer__json=sentencepiece_json(), tokenizer__model=model_proto(listed))
    refuse(folder, r"token 300 is .* in tokenizer.model and .* in tokenizer.json")
    refuse(
        write_folder(folder, tokenizer__model=model_proto([*pieces(), ("zz", 0.0, 1)])), "'nothing' in tokenizer.json"
    )


GOOD = model_proto()
PROTOBUF = {
    "empty": (b"", "has no pieces"),
    "text": (b"not a model at all, only text", "SentencePiece model"),
    "not downloaded": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "cut off": (GOOD[:-7], "are left"),
    "length beyond the file": (message(1, message(1, b"a")) + b"\x0a\xff\xff\xff\xff\x0f", r"4294967295 bytes where 0"),
    "length beyond the message": (message(1, b"\x0a\x7fabc"), "127 bytes where 3"),
    "endless integer": (b"\x0a" + b"\xff" * 20, "too long or cut off"),
    "integer of 70 bits": (b"\x0a" + b"\xff" * 9 + b"\x7f", "too long or cut off"),
    "integer cut off": (b"\x0a\x80", "too long or cut off"),
    "field zero": (b"\x02\x00", "field number 0"),
    "huge field number": (varint(1 << 40), "field number"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "unknown wire type": (b"\x0f", "wire type 7"),
    "piece is an integer": (message(1, 5), "an integer where bytes belong"),
    "text is an integer": (message(1, message(1, 5)), "an integer where bytes belong"),
    "score is an integer": (message(1, message(1, b"a") + message(2, 5)), "not a float"),
    "score of eight bytes": (message(1, message(1, b"a") + b"\x11" + bytes(8)), "not a float"),
    "kind is a text": (message(1, message(1, b"a") + message(3, b"a")), "bytes where an integer belongs"),
    "kind unknown": (message(1, message(1, b"a") + message(3, 77)), "not a SentencePiece model"),
    "not UTF-8": (message(1, message(1, b"\xff")), "not a SentencePiece model"),
    "no text": (message(1, b""), "has no text"),
    "infinite score": (piece("a", float("inf"), 1), "no finite score"),
    "undefined score": (message(1, message(1, b"a") + b"\x15" + struct.pack("<f", float("nan"))), "no finite score"),
    "piece twice": (model_proto([*pieces(), ("▁", 0.0, 1)]), "occurs twice"),
    "bos beyond the pieces": (model_proto(trainer={41: 5000}), "bos_token is 5000"),
    "trainer is an integer": (GOOD + message(2, 7), "an integer where bytes belong"),
    "model type is text": (model_proto(trainer={3: b"x"}), "bytes where an integer belongs"),
}


@pytest.mark.parametrize(("raw", "reason"), PROTOBUF.values(), ids=PROTOBUF.keys())
def test_tokenizer_model(raw: bytes, reason: str, tmp_path: Path) -> None:
    refuse(write_folder(tmp_path, tokenizer__model=raw, tokenizer_config__json=CONFIG), reason)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which reading stops, made small here."""
    folder = write_folder(tmp_path / "a", tokenizer__model=model_proto())
    monkeypatch.setattr(sentencepiece_model, "LARGEST_VOCABULARY", 100)
    refuse(folder, "more than 100 pieces")
    monkeypatch.setattr(sentencepiece_model, "LARGEST_FILE", 1000)
    refuse(folder, "larger than 1000 bytes")
    folder = write_folder(tmp_path / "b", tokenizer__json=byte_level_json())
    monkeypatch.setattr(tokenizer_json, "MOST_MERGES", 10)
    refuse(folder, "no list of at most 10")
    monkeypatch.setattr(tokenizer_json, "LARGEST_VOCABULARY", 10)
    refuse(folder, "more than 10 is no vocabulary")
    monkeypatch.setattr(tokenizer_json, "LARGEST_FILE", 1000)
    refuse(folder, "larger than 1000 bytes")


@given(raw=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_a_model(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.model"
    path.write_bytes(raw)
    with pytest.raises(SmidgenError):
        read_sentencepiece(path)


@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_model_with_one_wrong_byte(
    place: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(GOOD)
    raw[place] = byte
    path = tmp_path_factory.getbasetemp() / "wrong.model"
    path.write_bytes(raw[: place + 1] if cut else raw)
    try:
        read_sentencepiece(path)
    except SmidgenError as error:
        assert "\n" not in str(error)
