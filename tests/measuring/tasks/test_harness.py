"""The harness asks, our engines answer: the same figures as its own model on the same weights, one BOS, all items."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from smidgen.engines.answers import ModelAnswers
from smidgen.engines.base import Ids, Score
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.exporting.export import export
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.opening import open_model
from smidgen.measuring.tasks.harness import EngineLM, answer_items
from smidgen.measuring.tasks.local_data import local_tasks
from smidgen.measuring.tasks.local_files import LocalFiles
from smidgen.measuring.tasks.sandbox import Sandbox
from smidgen.model.tokenizer import Tokenizer
from tests.measuring.tasks.little_data import write_data


class Remembering:
    """A model that says the longest continuation is likeliest, and remembers what it was asked."""

    context = 64

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.pairs, self.prompts = tokenizer, [], []

    def ask(self, question: str) -> Ids:
        return self.tokenizer.encode(question)

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Any) -> list[Score]:
        self.pairs += pairs
        progress.advance(len(pairs))
        return [Score(-float(rest[0] % 7), False) for _, rest in pairs]

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Any) -> list[str]:
        self.prompts += [(list(prompt), tuple(stops), tokens) for prompt in prompts]
        return ["def f(x):\n    return 2 * x" for _ in prompts]


@pytest.fixture(scope="module")
def gemma_tokenizer(gemma_path: Path) -> Tokenizer:
    with GGUFFile.open(gemma_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def ask(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("t", 0, 1))  # pyright: ignore


def test_exactly_one_bos(gemma_tokenizer: Tokenizer) -> None:
    model = Remembering(gemma_tokenizer)
    lm = EngineLM(model, "it")
    lm.loglikelihood(
        [ask("loglikelihood", "One and one is", " two"), ask("loglikelihood", "<bos>One and one is", " two")]
    )
    assert model.pairs[0] == model.pairs[1]
    begin, rest = model.pairs[0]
    assert list(begin).count(gemma_tokenizer.bos_id) == 1 and begin[0] == gemma_tokenizer.bos_id
    assert gemma_tokenizer.decode(rest) == " two"
    assert gemma_tokenizer.bos_id not in rest
    lm.loglikelihood([ask("loglikelihood", "", "two")])
    assert model.pairs[2] == ([gemma_tokenizer.bos_id], gemma_tokenizer.encode("two"))


def test_a_beginning_that_is_too_long_keeps_its_end_and_is_counted(gemma_tokenizer: Tokenizer) -> None:
    model = Remembering(gemma_tokenizer)
    lm = EngineLM(model, "it")
    lm.loglikelihood([ask("loglikelihood", "word " * 100 + "the end is", " near")])
    begin, rest = model.pairs[0]
    assert len(begin) == 64 and gemma_tokenizer.decode([*begin, *rest]).endswith("the end is near")
    assert lm.cut_off == 1
    lm.generate_until([ask("generate_until", "word " * 100, {"until": ["."], "max_gen_toks": 10})])
    assert len(model.prompts[0][0]) == 54 and model.prompts[0][1:] == ((".",), 10)
    assert lm.cut_off == 2
    with pytest.raises(SmidgenError, match="do not fit a context of 64"):
        lm.generate_until([ask("generate_until", "x", {"max_gen_toks": 64})])


def test_answers_by_chance_are_refused(gemma_tokenizer: Tokenizer) -> None:
    lm = EngineLM(Remembering(gemma_tokenizer), "it")
    with pytest.raises(SmidgenError, match="at random"):
        lm.generate_until([ask("generate_until", "x", {"do_sample": True, "temperature": 0.7})])


def test_chosen_items_of_local_data(gemma_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_data(tmp_path)
    lm = EngineLM(Remembering(gemma_tokenizer), "it")
    lm._model.context = 2048  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    tasks = local_tasks("mmlu", LocalFiles(tmp_path), Sandbox)
    items = answer_items(lm, tasks, {"mmlu_colours": [1, 3], "mmlu_sums": [0]})
    assert [item.key for item in items] == [("mmlu_colours", 1), ("mmlu_colours", 3), ("mmlu_sums", 0)]
    assert all(item.answer in ("A", "B", "C", "D") for item in items)
    begin = gemma_tokenizer.decode(lm._model.pairs[0][0], skip_special=True)  # pyright: ignore
    assert begin.startswith(
        "The following are multiple choice questions (with answers) about colours.\n\nDev 0?\nA. red\n"
    )
    assert begin.endswith("\nA. red\nB. green\nC. blue\nD. none\nAnswer:") and begin.count("Answer:") == 6


def test_programs_are_run(gemma_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_data(tmp_path)
    model = Remembering(gemma_tokenizer)
    model.context = 4096
    items = answer_items(EngineLM(model, "it"), local_tasks("mbpp", LocalFiles(tmp_path), Sandbox), {"mbpp": [0, 1]})
    assert [item.right for item in items] == [True, False]
    prompt, stops, _ = model.prompts[0]
    text = gemma_tokenizer.decode(prompt)
    assert stops == ("[DONE]",) and text.count("[BEGIN]") == 4 and text.rstrip().endswith("[BEGIN]")


def test_the_harness_own_model_says_the_same(smollm_path: Path, tmp_path: Path) -> None:
    """On the same weights: log probabilities, choices and free answers."""
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path / "smollm"
    export(smollm_path, "hf", folder)
    write_data(tmp_path)
    tasks = local_tasks("mmlu", LocalFiles(tmp_path), Sandbox)
    chosen = {"mmlu_colours": [0, 1, 2], "mmlu_sums": [0, 3]}
    written = [ask("generate_until", "The capital of France is", {"until": ["\n"], "max_gen_toks": 8})]
    rolling = [ask("loglikelihood_rolling", "Paris is the capital of France. " * 20)]
    with open_model(folder) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        with ModelAnswers(TorchEngine(checkpoint), tokenizer, folder) as model:
            lm = EngineLM(model, "it")
            ours = answer_items(lm, tasks, chosen)
            our_words, our_rolling = lm.generate_until(written), lm.loglikelihood_rolling(rolling)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    scored: list[list[tuple[float, bool]]] = []
    original = theirs.loglikelihood
    theirs.loglikelihood = lambda requests, **settings: scored.append(original(requests, True)) or scored[-1]  # type: ignore
    assert answer_items(theirs, local_tasks("mmlu", LocalFiles(tmp_path), Sandbox), chosen) == ours  # type: ignore[arg-type]
    assert theirs.generate_until(written, disable_tqdm=True) == our_words
    assert theirs.loglikelihood_rolling(rolling, disable_tqdm=True) == pytest.approx(our_rolling, rel=1e-4)
