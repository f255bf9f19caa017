"""What the front adds to an engine, over one that says what it is told to: judging, hiding, counting, cards."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from smidgen.errors import EngineEnded
from smidgen.serving import front as front_module
from smidgen.serving.front import Door, build_front
from smidgen.serving.gate import Gate
from smidgen.serving.guard.decisions import Decision
from smidgen.serving.guard.judging import Guard
from smidgen.serving.guard.redaction import Redactor
from smidgen.serving.hosting import Hosted
from smidgen.serving.journal import Journal
from smidgen.serving.keys import Key
from smidgen.serving.pool import Pool
from smidgen.serving.upstream import Answer, Dialect

NAME = "smollm2-135m-instruct"
WORDS = ("The", " sky", " is", " blue", ".")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What of the sky, walrus7?"}]}


@dataclass
class Said:
    """An answer that ends the engine after so many events, if `ends` says so."""

    events: Sequence[dict[str, Any]]
    ends: bool
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        return b"{}"

    async def pieces(self) -> AsyncIterator[bytes]:
        for event in self.events:
            yield f"data: {json.dumps(event)}\n\n".encode()
        if self.ends:
            raise EngineEnded("llama.cpp ended while it worked on this request (a segmentation fault)")


@dataclass
class Engine:
    """Says WORDS. asked: what it was asked.  ends: it ends before its last event.  dialect: whose endpoints it has."""

    ends: bool = False
    dialect: Dialect = "llama.cpp"
    context: int = 512
    slots: int = 2
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[Answer]:
        self.asked.append((path, body or {}))
        told = [
            {"content": word, "tokens": [5], "stop": False, "tokens_predicted": place + 1}
            for place, word in enumerate(WORDS)
        ]
        last = {"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": len(WORDS)}
        yield cast("Answer", Said(told if self.ends else [*told, last], self.ends))

    def close(self) -> None:
        pass


class Judge:
    """A guard that refuses what has a word in it. seen: what it was shown."""

    def __init__(self, word: str) -> None:
        self.word, self.seen = word, list[str]()

    async def judge(self, on: Any, conversation: Any, text: str) -> list[Decision]:
        self.seen.append(text)
        bad = self.word in text
        verdict, consequence = ("refused", "refuse") if bad else ("allowed", "allow")
        return [Decision("weather", on, verdict, consequence, 0.9 if bad else 0.1, "because", 0.01)]  # pyright: ignore[reportArgumentType]

    async def judge_prompt(self, messages: Sequence[dict[str, Any]]) -> list[Decision]:
        return await self.judge("prompt", [], messages[-1]["content"])

    async def judge_answer(self, messages: Any, body: dict[str, Any]) -> list[Decision]:
        choices = body["choices"]
        found = [await self.judge("answer", messages, one["message"]["content"]) for one in choices]
        return [replace(one, choice=place) for place, decisions in enumerate(found) for one in decisions]


class Hider:
    """Hides one word."""

    def messages(self, messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        hidden = [{**one, "content": one["content"].replace("walrus7", "<NAME>")} for one in messages]
        return hidden, {"NAME": 1}

    def prompt(self, prompt: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        return [one.replace("walrus7", "<NAME>") for one in prompt], {"NAME": 1}


@pytest.fixture(scope="module")
def hosted(smollm_path: Path) -> Hosted:
    return Hosted.check(NAME, ctx_size=512, parallel=2)


Send = Callable[..., Any]


def with_front(
    hosted: Hosted, test: Callable[[httpx2.AsyncClient], Any], engine: Engine | None = None, gate: Gate | None = None,
    door: Door | None = None, journal: Journal | None = None,
) -> Any:  # fmt: skip
    """What `test` returns, given a client of a server with one model."""

    async def run() -> Any:
        pool = Pool([hosted], lambda model: engine or Engine(), 10**12, None, 4)
        front = build_front(pool, door or Door(hosts=["testserver"]), journal, gate)
        transport = httpx2.ASGITransport(front)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await test(client)

    return asyncio.run(run())


def events_of(text: str) -> list[dict[str, Any]]:
    lines = [line[len("data: ") :] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(events: Sequence[dict[str, Any]]) -> str:
    return "".join(one["delta"].get("content") or "" for event in events for one in event.get("choices", ()))


def guarded(word: str) -> Gate:
    return Gate(cast("Guard", Judge(word)))


def test_a_refused_prompt_never_reaches_the_model(hosted: Hosted) -> None:
    engine = Engine()

    async def test(client: httpx2.AsyncClient) -> Any:
        whole = await client.post("/v1/chat/completions", json=CHAT)
        streamed = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        return whole, streamed, (await client.get("/metrics")).text

    whole, streamed, metrics = with_front(hosted, test, engine, guarded("walrus7"))
    choice = whole.json()["choices"][0]
    assert choice["finish_reason"] == "content_filter" and "refuses this request" in choice["message"]["refusal"]
    assert whole.json()["smidgen"]["guard"][0]["verdict"] == "refused"
    events = events_of(streamed.text)
    assert "sky" not in text_of(events) and events[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert not [path for path, _ in engine.asked]
    assert 'smidgen_guard_decisions_total{on="prompt",policy="weather",verdict="refused"} 2.0' in metrics


def test_a_refused_answer_does_not_go_out_streamed_or_whole(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        whole = await client.post("/v1/chat/completions", json=CHAT)
        return whole.text, (await client.post("/v1/chat/completions", json={**CHAT, "stream": True})).text

    for text in with_front(hosted, test, gate=guarded("blue")):
        assert "blue" not in text and "content_filter" in text and '"refused"' in text


def test_what_the_guard_allows_is_the_same_as_without_it(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        answer = await client.post(
            "/v1/chat/completions", json={**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        )
        return events_of(answer.text)

    plain, judged = with_front(hosted, test), with_front(hosted, test, gate=guarded("rain"))
    assert text_of(plain) == text_of(judged) == "".join(WORDS)
    assert plain[-1]["usage"] == judged[-1]["usage"]
    assert judged[0]["smidgen"]["guard"][0]["on"] == "prompt"


def test_endpoints_that_would_pass_by_the_guard_are_off(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        responses = await client.post("/v1/responses", json={"input": "a"})
        ids = await client.post("/v1/completions", json={"prompt": [1, 2]})
        return responses, ids

    responses, ids = with_front(hosted, test, gate=guarded("x"))
    assert responses.status_code == 501 and "/v1/chat/completions" in responses.json()["error"]["message"]
    assert ids.status_code == 400 and "not as token ids" in ids.json()["error"]["message"]


def test_what_is_hidden_reaches_neither_model_nor_log(hosted: Hosted, tmp_path: Path) -> None:
    engine, log = Engine(), tmp_path / "log.jsonl"

    async def test(client: httpx2.AsyncClient) -> Any:
        return (await client.post("/v1/chat/completions", json=CHAT)).json()

    gate = Gate(None, cast("Redactor", Hider()))
    answer = with_front(hosted, test, engine, gate, journal=Journal(str(log), texts=True))
    assert answer["smidgen"] == {"redacted": {"NAME": 1}}
    assert hosted.facts.tokenizer is not None
    assert "<NAME>" in hosted.facts.tokenizer.decode(engine.asked[0][1]["prompt"])
    line = json.loads(log.read_text())
    assert "walrus7" not in log.read_text() and "<NAME>" in json.dumps(line["prompt"])
    assert line["answer"][0]["message"]["content"] == "".join(WORDS) and line["completion_tokens"] == 5


def test_vectors_are_made_of_what_is_left_of_a_text(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def embed(model: Any, asked: Any) -> dict[str, Any]:
        seen.append(asked.inputs)
        return {"data": []}

    monkeypatch.setattr(front_module, "embed", embed)

    async def test(client: httpx2.AsyncClient) -> Any:
        return (await client.post("/v1/embeddings", json={"input": "walrus7 sings"})).json()

    answer = with_front(hosted, test, gate=Gate(None, cast("Redactor", Hider())))
    assert seen == [("<NAME> sings",)] and answer["smidgen"] == {"redacted": {"NAME": 1}}


def test_a_budget_is_charged_for_whole_streamed_and_broken_answers(hosted: Hosted) -> None:
    key = Key.of_secret("s3cret", "anna", 150, "day")
    door = Door(hosts=["testserver"], keys=[key])
    headers = {"Authorization": "bearer s3cret"}

    def ask(body: dict[str, Any], engine: Engine) -> Any:
        async def test(client: httpx2.AsyncClient) -> Any:
            return await client.post("/v1/chat/completions", json=body, headers=headers)

        return with_front(hosted, test, engine, door=door)

    assert ask(CHAT, Engine()).status_code == 200
    whole = door.budgets.used(key)
    ask({**CHAT, "stream": True}, Engine())
    assert door.budgets.used(key) == 2 * whole
    broken = ask({**CHAT, "stream": True}, Engine(ends=True))
    assert events_of(broken.text)[-1]["error"]["code"] == 503 and "[DONE]" not in broken.text
    assert door.budgets.used(key) > 2 * whole
    ask(CHAT, Engine())
    spent = ask(CHAT, Engine())
    assert spent.status_code == 429 and int(spent.headers["retry-after"]) > 0
    assert spent.json()["error"]["type"] == "insufficient_quota"


def test_a_bias_for_a_token_that_there_is_not_is_refused(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        return await client.post("/v1/chat/completions", json={**CHAT, "logit_bias": {"49152": 1}})

    answer = with_front(hosted, test)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "logit_bias"


def test_an_engine_that_ends_before_its_first_word_is_503(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        return await client.post("/v1/chat/completions", json=CHAT)

    answer = with_front(hosted, test, Engine(ends=True))
    assert answer.status_code == 503 and "segmentation fault" in answer.json()["error"]["message"]


def test_what_has_no_effect_is_said_and_what_nobody_knows_is_refused(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        used = await client.post("/v1/chat/completions", json={**CHAT, "user": "anna"})
        return used, await client.post("/v1/chat/completions", json={**CHAT, "temprature": 1})

    used, unknown = with_front(hosted, test)
    assert used.headers["x-smidgen-warning"] == "user has no effect here"
    assert unknown.status_code == 400 and unknown.json()["error"]["param"] == "temprature"


def test_a_limit_of_tokens_holds_for_those_who_ask_for_more_and_for_those_who_ask_for_none(hosted: Hosted) -> None:
    engine = Engine()

    async def test(client: httpx2.AsyncClient) -> Any:
        await client.post("/v1/chat/completions", json=CHAT)
        return await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 9})

    more = with_front(hosted, test, engine, door=Door(hosts=["testserver"], most_tokens=8))
    assert engine.asked[0][1]["n_predict"] == 8
    assert more.status_code == 400 and "8 is the most here" in more.json()["error"]["message"]


def test_an_engine_with_openai_endpoints_gets_the_body_as_it_came(hosted: Hosted) -> None:
    engine = Engine(dialect="openai")

    async def test(client: httpx2.AsyncClient) -> Any:
        return await client.post("/v1/chat/completions", json={**CHAT, "n": 2, "temperature": 0.5})

    with_front(hosted, test, engine)
    [(path, body)] = engine.asked
    assert path == "/v1/chat/completions" and (body["n"], body["temperature"], body["model"]) == (2, 0.5, NAME)


def test_the_card_of_a_cut_is_shown_and_may_run_nothing(hosted: Hosted, tmp_path: Path) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        return [await client.get(path) for path in ("/card", "/card.json", f"/card?model={NAME}", "/card?model=other")]

    for missing in with_front(hosted, test)[:3]:
        assert missing.status_code == 404 and "has no report card" in missing.json()["error"]["message"]
    (tmp_path / "card.html").write_text("<h1>Card</h1>")
    (tmp_path / "card.json").write_text('{"schema": 1}')
    cut = replace(hosted, path=tmp_path / "model.gguf")
    page, data, named, other = with_front(cut, test)
    assert page.text == named.text == "<h1>Card</h1>" and data.json() == {"schema": 1}
    assert "sandbox" in page.headers["content-security-policy"] and other.status_code == 404


def test_the_figures_have_no_texts_and_no_paths_of_strangers(hosted: Hosted) -> None:
    async def test(client: httpx2.AsyncClient) -> Any:
        await client.post("/v1/chat/completions", json=CHAT)
        await client.get("/wp-admin")
        await client.get("/v1/models/strange")
        return (await client.get("/metrics")).text

    page = with_front(hosted, test)
    assert 'smidgen_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0' in page
    assert 'smidgen_requests_total{endpoint="other",status="404"} 1.0' in page
    assert f'smidgen_tokens_total{{kind="completion",model="{NAME}"}} 5.0' in page
    assert "walrus7" not in page and "wp-admin" not in page and "strange" not in page
