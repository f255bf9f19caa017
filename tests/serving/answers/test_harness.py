"""lm-evaluation-harness through our server finds what it finds with our own class."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from smidgen.engines.answers import ModelAnswers
from smidgen.engines.llama_cpp.engine import read_facts
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.torch import TorchEngine
from smidgen.formats.hf.tokenizer.write import write_tokenizer
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.tasks.harness import EngineLM
from smidgen.serving.answers.completions import complete
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.scorer import PromptScorer
from smidgen.serving.requests.reading import read_request
from smidgen.serving.upstream import LocalUpstream

_SUBJECT = (
    "The following are multiple choice questions (with answers) about colours.\n\n"
    "Grass is\nA. blue\nB. green\nC. red\nD. white\nAnswer: B\n\n"
)
_QUESTIONS = ("The sky is", "Blood is")


def questions() -> list[Instance]:
    """As MMLU asks: all choices of one question begin alike; and some longer continuations."""
    choices = "\nA. blue\nB. green\nC. red\nD. white\nAnswer:"
    asked = [(f"{_SUBJECT}{one}{choices}", f" {letter}") for one in _QUESTIONS for letter in "ABCD"]
    asked += [("The capital of France", " is Paris"), ("Once upon a", " time"), ("Emoji: ", "\U0001f642\U0001f389")]
    return [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(asked)]


@dataclass(frozen=True)
class Place:
    """A server for one model. url: of its completions.  tokenizer: its folder.  bodies: what it was sent."""

    url: str
    tokenizer: Path
    bodies: list[dict[str, Any]]


@pytest.fixture(scope="module")
def place(smollm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    facts, scorer = read_facts(smollm_path), PromptScorer(smollm_path, threads=1)
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, facts.metadata)
    bodies: list[dict[str, Any]] = []
    with LlamaServer(smollm_path, ctx_size=512, threads=1) as llama:
        model = AnsweringModel("ours", facts, LocalUpstream(llama, 1), scorer)

        async def answer(request: Request) -> JSONResponse:
            bodies.append(await request.json())
            return JSONResponse(await complete(model, read_request("/v1/completions", bodies[-1])))

        app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Place(f"http://127.0.0.1:{port}/v1/completions", folder, bodies)
        scorer.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def expected(smollm_path: Path) -> list[tuple[float, bool]]:
    tokenizer = read_facts(smollm_path).tokenizer
    assert tokenizer is not None
    with open_checkpoint(smollm_path) as checkpoint:
        answers = ModelAnswers(TorchEngine(checkpoint), tokenizer, smollm_path)
        return EngineLM(answers, "ours").loglikelihood(questions())


def harness_on(place: Place, **settings: Any) -> Any:
    harness: Any = LocalCompletionsAPI
    return harness(
        base_url=place.url, model="ours", tokenizer=str(place.tokenizer), tokenizer_backend="huggingface",
        max_retries=1, **settings,
    )  # fmt: skip


@pytest.mark.parametrize(("tokenized", "batch"), [(True, 8), (False, 4)])
def test_the_same_scores_as_our_own_class(
    place: Place, expected: list[tuple[float, bool]], tokenized: bool, batch: int
) -> None:
    lm = harness_on(place, tokenized_requests=tokenized, batch_size=batch)
    found = lm.loglikelihood(questions(), disable_tqdm=True)
    kind = list if tokenized else str
    assert all(isinstance(one, kind) for one in place.bodies[-1]["prompt"])
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    best = [max("ABCD", key=lambda one: found[4 * place + "ABCD".index(one)][0]) for place in range(2)]
    assert best == [max("ABCD", key=lambda one: expected[4 * place + "ABCD".index(one)][0]) for place in range(2)]


def test_it_writes_answers(place: Place) -> None:
    lm = harness_on(place)
    settings = {"until": ["\n\n"], "max_gen_toks": 6, "temperature": 0}
    (answer,) = lm.generate_until([Instance("generate_until", {}, ("The capital of France is", settings), 0)])
    assert answer
