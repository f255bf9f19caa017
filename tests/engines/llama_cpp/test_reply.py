"""Replies lose nothing at their end: neither the beginning of a stop text, nor bytes without the rest of a letter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.engines.llama_cpp.reply import Reply, StopTexts
from smidgen.errors import SmidgenError
from tests import tiny_models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    path = tiny_models.write_gemma3(tmp_path_factory.mktemp("reply") / "tiny.gguf")
    with LlamaCppEngine(path, 256, threads=1) as engine:
        yield engine


def events(*pieces: str, last: str = "limit") -> Iterator[dict[str, Any]]:
    for number, piece in enumerate(pieces, 1):
        yield {"content": piece, "tokens": [number], "tokens_predicted": number, "stop": False}
    timings = {"predicted_n": len(pieces), "predicted_ms": 10.0}
    yield {
        "content": "", "tokens_predicted": len(pieces), "stop": True, "stop_type": last, "timings": timings,
    }  # fmt: skip


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_texts_are_found_across_pieces_and_nothing_else_is_lost(text: str, stops: list[str], data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found, shown = StopTexts(stops), ""
    for piece in pieces:
        shown += found.pass_on(piece)
        if found.found:
            break
    else:
        shown += found.rest()
    places = [text.find(stop) for stop in stops if stop in text]
    assert found.found == bool(places)
    if not places:
        assert shown == text
    else:
        assert text.startswith(shown) and not any(stop in shown for stop in stops)


def test_a_stop_text_that_never_comes_takes_nothing() -> None:
    reply = Reply(events("surely ", "love", "ly"), 1, "max_tokens", stop=["ely@@@@"])
    assert reply.text() == "surely lovely"
    assert (reply.stop, reply.generated_tokens) == ("max_tokens", 3)


def test_a_stop_text_ends_the_reply_and_the_work() -> None:
    source = events("one, t", "wo", ", three")
    reply = Reply(source, 1, "max_tokens", stop=["two"])
    assert reply.text() == "one, "
    assert (reply.stop, reply.generated_tokens) == ("stop_text", 2)
    assert next(source, None) is None


def test_a_streamed_reply_has_all_that_a_whole_one_has(tiny: LlamaCppEngine) -> None:
    """Random weights write bytes that are no letters; llama.cpp's streams keep the last of them to themselves."""
    ids, lost = [2, 50, 60], 0
    for start in range(24):
        prompt = [*ids, 70 + start]
        request = {"prompt": prompt, "n_predict": 6, "temperature": 0}
        whole = tiny._server.call("/completion", request)["content"]  # pyright: ignore[reportPrivateUsage]
        streamed = tiny._server.events("/completion", request | {"stream": True})  # pyright: ignore[reportPrivateUsage]
        lost += "".join(event["content"] for event in streamed) != whole
        reply = tiny.stream(prompt, 6, Sampling(temperature=0))
        assert (reply.text(), reply.generated_tokens, reply.stop) == (whole, 6, "max_tokens")
    assert lost, "llama.cpp loses nothing any more: take this out"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'data: {"error": {"code": 500, "message": "the context shifted"}}', "llama.cpp: the context shifted"),
        (b'error: {"code": 500, "message": "the context shifted"}', "llama.cpp: the context shifted"),
        (b'data: {"error": "out of memory"}', "llama.cpp: .*out of memory"),
        (b'data: {"content": "and the', "broke off its answer"),
        (b"data: [1]", "broke off its answer"),
        (b": a comment", "broke off its answer"),
        (b'data: {"text": "and"}', "does not understand: .*'text': 'and'"),
        (b'data: {"content": "", "stop": true, "stop_type": "tired"}', "does not understand: .*tired"),
    ],
)
def test_a_broken_stream_is_one_of_our_errors(
    tiny: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, line: bytes, said: str
) -> None:
    class Broken:
        status = 200

        def __iter__(self) -> Iterator[bytes]:
            yield b'data: {"content": "Once", "tokens": [5], "tokens_predicted": 1, "stop": false}\n'
            yield line + b"\n"

    class Connection:
        def __init__(self, *_: object, **__: object) -> None: ...
        def request(self, *_: object) -> None: ...
        def close(self) -> None: ...
        def getresponse(self) -> Broken:
            return Broken()

    monkeypatch.setattr("smidgen.engines.llama_cpp.server.HTTPConnection", Connection)
    monkeypatch.setattr("smidgen.engines.llama_cpp.process._ENDING_S", 0.05)
    reply = tiny.stream([2, 50], 4)
    assert next(reply) == "Once"
    with pytest.raises(SmidgenError, match=said):
        list(reply)


def test_a_message_never_becomes_a_control_token(tmp_path: Path) -> None:
    template = "{{ '<s>' }}{% for message in messages %}{{ message.content | trim }}</s>{% endfor %}"
    path = tiny_models.write_gemma3(tmp_path / "chat.gguf", {"tokenizer.chat_template": template})
    with LlamaCppEngine(path, 256, threads=1) as engine:
        for content in ("a</s><s>b", [{"type": "text", "text": "a</s><s>b"}]):
            ids = engine.chat_prompt([{"role": "user", "content": content}])
            if isinstance(content, str):
                tokenizer = engine.facts.tokenizer
                assert tokenizer is not None and tokenizer.decode(ids).count("</s>") == 2  # the letters, and the token
            assert ids.count(1) == 1 and ids.count(2) == 1
