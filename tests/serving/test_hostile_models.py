"""Chat templates of strangers: refused before the model is loaded, or with the request that sets them off."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smidgen.errors import BadFile
from smidgen.serving.front import Door, build_front
from smidgen.serving.hosting import Hosted
from smidgen.serving.pool import Pool
from tests import tiny_models
from tests.serving.served import PATIENCE_S, start
from tests.serving.test_front import Engine

ENDLESS = "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}"
HUGE = "{{ 'a' * 10000000000 }}"
GROWING = "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
PROGRAM = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
CALLS = "{{ messages.__init__.__globals__['os'].system('true') }}"
ORDINARY = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
HOSTILE = {"without end": ENDLESS, "huge": HUGE, "growing": GROWING, "program": PROGRAM, "calls": CALLS}


def write(path: Path, template: str) -> Path:
    return tiny_models.write_gemma3(path, {"tokenizer.chat_template": template})


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_before_anything_is_loaded(tmp_path: Path, template: str) -> None:
    with pytest.raises(BadFile, match="chat template is refused") as caught:
        Hosted.check(write(tmp_path / "model.gguf", template))
    assert "\n" not in str(caught.value)


def test_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, models=(str(write(tmp_path / "model.gguf", ENDLESS)),))
    assert process.wait(PATIENCE_S) == 2
    said = (tmp_path / "stderr").read_text()
    assert said.count("\n") == 1 and "chat template is refused" in said and (tmp_path / "stdout").read_text() == ""


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_one_that_waits_for_its_word_is_refused_with_that_request_alone(tmp_path: Path, template: str) -> None:
    waiting = "{% if messages[-1].content == 'go' %}" + template + "{% else %}" + ORDINARY + "{% endif %}"
    hosted, engine = Hosted.check(write(tmp_path / "model.gguf", waiting)), Engine()

    async def ask(client: httpx2.AsyncClient, word: str) -> httpx2.Response:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": word}], "max_tokens": 4}
        return await client.post("/v1/chat/completions", json=body)

    async def all_of_it() -> list[httpx2.Response]:
        front = build_front(Pool([hosted], lambda model: engine, 10**12, None, 4), Door({"server"}))
        transport = httpx2.ASGITransport(front)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            async with asyncio.timeout(PATIENCE_S):
                return [await ask(client, word) for word in ("go", "hello")]

    refused, answered = asyncio.run(all_of_it())
    assert refused.status_code == 400 and "template" in refused.json()["error"]["message"]
    assert answered.status_code == 200 and len(engine.asked) == 1
