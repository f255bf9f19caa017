"""One entry a token with its own bytes, in the shape of each endpoint."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from smidgen.serving.answers.filling import filled
from smidgen.serving.answers.logprobs import (
    Alternative,
    CompletionShape,
    TokenEntry,
    chat_shape,
    entries_of,
    spelled,
)
from smidgen.serving.answers.model import AnsweringModel
from tests.serving.answers.pretended import PretendedUpstream, model_on, tokenizer_of

BENGALI = "বাংলা"


@pytest.fixture(scope="module")
def model(smollm_path: Path) -> AnsweringModel:
    return model_on(PretendedUpstream(lambda body: (500, b"")), smollm_path)


def as_llama_cpp_tells(model: AnsweringModel, text: str) -> tuple[list[int], list[dict[str, Any]]]:
    """All tokens of a text, and an entry where each character is whole."""
    tokenizer = tokenizer_of(model)
    ids, told, waiting = tokenizer.encode(text), [], b""
    for token in ids:
        waiting += tokenizer.piece(token)
        try:
            waiting.decode()
        except UnicodeDecodeError:
            continue
        told.append({"id": token, "bytes": list(waiting), "logprob": -1.0, "top_logprobs": []})
        waiting = b""
    return ids, told


@pytest.mark.parametrize("text", [BENGALI, "🙂🎉", "plain words", "a🙂 b", " 🙃"])
def test_one_entry_a_token_with_its_own_bytes(model: AnsweringModel, text: str) -> None:
    ids, told = as_llama_cpp_tells(model, text)
    entries: list[TokenEntry] = []
    written = 0
    for one in told:  # as they come, in a stream
        count = ids.index(one["id"], written) + 1 - written
        entries += entries_of(model, [one], count, 0)
        written += count
    assert [entry.bytes for entry in entries] == [tokenizer_of(model).piece(token) for token in ids]
    assert b"".join(entry.bytes for entry in entries).decode() == text
    assert [entry.id for entry in entries] == ids


def test_alternatives_have_their_own_bytes_and_are_as_many_as_asked(model: AnsweringModel) -> None:
    piece = tokenizer_of(model).piece(139)
    top = [{"id": 139, "bytes": [1, 2], "logprob": -0.5}, {"id": 132, "bytes": [3], "logprob": -1.5}]
    entry = entries_of(model, [{"id": 139, "bytes": list(piece), "logprob": -0.5, "top_logprobs": top}], 1, 1)[0]
    assert entry.top == (Alternative(piece, -0.5),)
    told = [{"id": 139, "bytes": list(piece), "logprob": -0.5, "top_logprobs": top}]
    assert chat_shape(entries_of(model, told, 1, 0))["content"][0]["top_logprobs"] == []


def test_parts_of_characters_are_spelled_as_bytes() -> None:
    assert spelled("ü".encode()) == "ü"
    assert spelled("ü".encode()[:1]) == "bytes:\\xc3"


def entry(piece: bytes, shown: bool = True) -> TokenEntry:
    return TokenEntry(1, piece, -1.0, (), shown)


def test_offsets_count_characters() -> None:
    pieces = [entry(b"a"), entry("🙂".encode()[:2]), entry("🙂".encode()[2:]), entry(b"b"), entry(b"<end>", False)]
    assert CompletionShape(1).of(pieces)["text_offset"] == [0, 1, 1, 2, 3]


def test_a_space_that_the_tokenizer_put_in_front_has_no_place_in_the_text() -> None:
    shape = CompletionShape(1)
    assert shape.of([entry(b"<s>", False), entry(b" One"), entry(b" two")], left_out=1)["text_offset"] == [0, 0, 3]
    assert shape.of([entry(b" three")])["text_offset"] == [7]


def test_of_two_alternatives_with_one_text_the_likelier_counts() -> None:
    both = TokenEntry(1, b"a", -1.0, (Alternative(b"a", -1.0), Alternative(b"b", -2.0), Alternative(b"a", -3.0)))
    assert CompletionShape(3).of([both])["top_logprobs"] == [{"a": -1.0, "b": -2.0}]


def test_what_was_not_told_is_asked_for(smollm_path: Path) -> None:
    told = {"id": 9, "bytes": [10], "logprob": -50.0}
    top = [{"id": 20, "bytes": [1], "logprob": -0.1}, {"id": 30, "bytes": [2], "logprob": -2.0}]
    answer = b'{"completion_probabilities": [%s]}' % str({**told, "top_logprobs": top}).replace("'", '"').encode()
    upstream = PretendedUpstream(lambda body: (200, answer))
    given = [entry(b"x"), TokenEntry(30, b"\xe0", None, None), TokenEntry(None, b"", None, None)]
    found = asyncio.run(filled(model_on(upstream, smollm_path), [5, 6], given, 1))
    assert found[0] == given[0]
    assert found[1].logprob == -2.0
    assert [one.logprob for one in found[1].top or ()] == [-0.1]
    assert found[2] == given[2]
    assert [body["prompt"] for _, body in upstream.asked] == [[5, 6, 1]]
