"""Chats taught with and without the student's own answers: the same teacher, student, chats and number of tokens.

    smidgen cut original.gguf --layers 20 --no-measure --text FILE -o pruned
    python -m benchmarks.on_policy original.gguf pruned/model.gguf --chats alpaca.json

The student is what pruning left of its teacher. It is taught twice by `smidgen distill --data --on answers`: from the
answers in the file, and with `--on-policy 0.5`, where half of the rows are answers that it writes itself and the
teacher corrects (GKD: Agarwal et al. 2023, arXiv:2306.13649). A step has as many rows in both, but not as many tokens,
so the second training goes first, and the other one gets the number of steps that brings it to the same number of
answer tokens, or just over.

What is measured, on prompts of the same file that neither has seen, and that are like none it has seen:

    on the teacher's answers   KL(teacher ‖ student) where the teacher writes: how well it is imitated
    on its own answers         the same where this student writes, and KL(student ‖ teacher): how well it goes on after
                               its own mistakes, which no other text shows
    the teacher's nats         per token of the student's own answers: what the teacher thinks of them. They are lower
                               for better answers, and for duller ones

All answers are drawn at temperature 1 by llama.cpp. Each figure is a mean over answers of a mean over tokens, with a
95% interval over prompts (bootstrap.py); differences are paired by prompt. One training of each kind.
"""

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import options as shared
from benchmarks import record
from benchmarks.bootstrap import difference_of_values, mean_of_values
from smidgen.data.sources import read_text
from smidgen.distillation.text.held_out import is_in
from smidgen.distillation.text.packing import Document
from smidgen.engines.llama_cpp.writer import LlamaCppWriter
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import say
from smidgen.training.text import read_training_text

_LONGEST_QUESTION, _SHORTEST_ANSWER = 40, 40  # tokens; of shorter answers a step would hardly learn anything
_UNTRAINED, _GIVEN, _OWN = "untrained", "given answers", "half its own"
_FIGURES = ("kl", "reverse_kl", "teachers_nats")


@dataclass(frozen=True)
class Chat:
    """A question and its answer."""

    question: str
    answer: str

    def line(self) -> str:
        """As an example for `smidgen distill --data`."""
        return json.dumps({"prompt": self.question, "completion": self.answer}, ensure_ascii=False) + "\n"


def read_chats(path: Path, tokenizer: Tokenizer) -> list[Chat]:
    """Those of a file in Alpaca's form with short questions."""
    found = []
    for one in json.loads(read_text(path).text):
        chat = Chat("\n\n".join(part for part in (one["instruction"], one["input"]) if part), one["output"].strip())
        if chat.answer and len(tokenizer.encode(chat.question)) <= _LONGEST_QUESTION:
            found.append(chat)
    return found


def apart(chats: Sequence[Chat], tokenizer: Tokenizer, options: argparse.Namespace) -> list[list[Chat]]:
    """Chats to learn from, whose answers fit, and others to ask, with questions that are not nearly a learned one."""
    drawn = random.Random(options.seed).sample(list(chats), len(chats))
    lengths = range(_SHORTEST_ANSWER, options.context - 2 * _LONGEST_QUESTION)
    learned = [chat for chat in drawn if len(tokenizer.encode(chat.answer)) in lengths][: options.examples]
    rest = [chat for chat in drawn if chat not in learned]
    questions = [[Document(tokenizer.encode(chat.question), "") for chat in some] for some in (rest, learned)]
    asked = [chat for chat, known in zip(rest, is_in(*questions), strict=True) if not known][: options.prompts]
    if len(learned) < options.examples or len(asked) < options.prompts:
        raise SmidgenError(f"There are {len(learned)} chats to learn from and {len(asked)} others; ask for fewer.")
    return [learned, asked]


@dataclass(frozen=True)
class Answer:
    """What was written to a prompt, both as tokens."""

    prompt: list[int]
    written: list[int]


@torch.no_grad()
def said(decoder: Decoder, answer: Answer) -> Tensor:
    """A model's log probabilities in the places of an answer, [tokens, vocabulary]."""
    ids = torch.tensor([[*answer.prompt, *answer.written]])
    places = slice(len(answer.prompt) - 1, ids.shape[1] - 1)
    return decoder.logits(decoder.hidden_states(ids)[0, places]).float().log_softmax(-1)


def compared(theirs: Iterable[Tensor], own: Iterable[Tensor], answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Means over the tokens of each answer, in nats. theirs, own: what teacher and student say there."""
    found: dict[str, list[float]] = {name: [] for name in _FIGURES}
    for answer, teacher, student in zip(answers, theirs, own, strict=True):
        found["kl"].append(float((teacher.exp() * (teacher - student)).sum(-1).mean()))
        found["reverse_kl"].append(float((student.exp() * (student - teacher)).sum(-1).mean()))
        found["teachers_nats"].append(float(-teacher.gather(1, torch.tensor(answer.written)[:, None]).mean()))
    return found


class Study:
    """Teacher, student and chats, and a folder for what is made of them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        with open_checkpoint(options.teacher) as teacher:
            self._teacher = load_decoder(teacher)
            tokenizer = Tokenizer.from_gguf(teacher.tokenizer_metadata)
            self.learned, asked = apart(read_chats(options.chats, tokenizer), tokenizer, options)
            self._prompts = [_asked(teacher, tokenizer, chat.question) for chat in asked]
        self._data = folder / "chats.jsonl"
        self._data.write_text("".join(chat.line() for chat in self.learned), encoding="utf-8")

    def distilled(self, name: str, steps: int, *more: str) -> dict[str, Any]:
        """A training, and how many tokens it learned from. name: of its folder."""
        options, output = self._options, self._folder / name
        command = record.smidgen(
            "distill", options.teacher, options.student, "--data", self._data, "--on", "answers", "--steps",
            str(steps), "--batch", str(options.batch), "--context", str(options.context), "--lr", str(options.lr),
            "--loss", options.loss, "--keep", "last", "--checkpoint-every", str(steps), "--seed", str(options.seed),
            "--threads", str(options.threads), *more, "-o", output,
        )  # fmt: skip
        cost = record.run(command, self._folder / "commands.log")
        lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return {
            "command": record.shown(command), "steps": steps, "tokens": sum(line.get("tokens", 0) for line in lines),
            "seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "file": str(output / "model.gguf"),
        }  # fmt: skip

    def steps_for(self, tokens: int) -> int:
        """So many that the given answers alone have as many tokens, or just over."""
        options = self._options
        with open_checkpoint(options.teacher) as teacher, open_checkpoint(options.student) as student:
            text = read_training_text(
                student, teacher, (), [self._data], rows=options.batch, context=options.context, tokens=tokens,
                seed=options.seed, on_answers=True,
            )  # fmt: skip
        steps = 0
        while tokens > 0:
            tokens -= int((text.batches.batch(steps).weights > 0).sum())
            steps += 1
        return steps

    def measured(self, path: Path) -> dict[str, Any]:
        """A student on the teacher's answers and on its own."""
        own = self._answers(path)
        with open_checkpoint(path) as checkpoint:
            decoder = load_decoder(checkpoint)
        answers, taught = self._by_teacher
        values = {
            "teachers_answers": compared(taught, (said(decoder, one) for one in answers), answers),
            "own_answers": compared(
                (said(self._teacher, one) for one in own), (said(decoder, one) for one in own), own
            ),
        }
        return {
            kind: {name: {**mean_of_values(numbers), "values": _short(numbers)} for name, numbers in found.items()}
            for kind, found in values.items()
        } | {"tokens_of_own_answers": sum(len(answer.written) for answer in own) / len(own)}  # fmt: skip

    @cached_property
    def _by_teacher(self) -> tuple[list[Answer], list[Tensor]]:
        """The teacher's answers, and what it says in their places."""
        answers = self._answers(self._options.teacher)
        return answers, [said(self._teacher, answer) for answer in answers]

    def _answers(self, path: Path) -> list[Answer]:
        """A model's answers to all prompts."""
        room = self._options.answer_tokens
        longest = max(map(len, self._prompts)) + room
        with LlamaCppWriter(path, longest, self._options.threads) as writer:
            written = writer.write(self._prompts, [room] * len(self._prompts), self._options.seed)
        return [Answer(prompt, answer) for prompt, answer in zip(self._prompts, written, strict=True)]


def _asked(checkpoint: Checkpoint, tokenizer: Tokenizer, question: str) -> list[int]:
    """A question up to the words that begin an answer."""
    template = chat_template(checkpoint.tokenizer_metadata)
    text = render_chat(template, [{"role": "user", "content": question}], tokenizer.special_texts)
    return tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True)


def _short(numbers: Sequence[float]) -> list[float]:
    return [round(number, 4) for number in numbers]


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both trainings, as the object that is saved; after each part, too."""
    study = Study(options, folder)
    result: dict[str, Any] = {
        **record.facts(), "teacher": _described(options.teacher), "student": _described(options.student),
        "chats": {"file": options.chats.name, "sha256": read_text(options.chats).sha256, "learned": len(study.learned)},
        "prompts": options.prompts, "answer_tokens": options.answer_tokens, "batch": options.batch,
        "context": options.context, "learning_rate": options.lr, "loss": options.loss, "seed": options.seed,
        "on_policy": options.share, "threads": options.threads, "students": {},
    }  # fmt: skip
    students = result["students"]
    students[_UNTRAINED] = study.measured(options.student)
    own = study.distilled("own", options.steps, "--on-policy", str(options.share))
    given = study.distilled("given", study.steps_for(own["tokens"]))
    for name, training in ((_GIVEN, given), (_OWN, own)):
        students[name] = study.measured(Path(training.pop("file"))) | training
        say(f"{name}: {training['tokens']} tokens in {training['seconds']:.0f} s")
        record.save(options.output, result)
    result["differences"] = _differences(students)
    return result


def _described(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as checkpoint:
        return {
            "file": path.name, "sha256": checkpoint.sha256(), "parameters": checkpoint.parameters,
            "layers": len(checkpoint.config.layers),
        }  # fmt: skip


def _differences(students: dict[str, Any]) -> dict[str, Any]:
    """Of the student that wrote itself to the other one, prompt by prompt; below zero where it is better."""
    return {
        kind: {
            name: difference_of_values(students[_OWN][kind][name]["values"], students[_GIVEN][kind][name]["values"])
            for name in _FIGURES
            if (kind, name) != ("teachers_answers", "teachers_nats")  # of the same answers
        }
        for kind in ("teachers_answers", "own_answers")
    }


def show(result: dict[str, Any]) -> str:
    """A table."""
    rows = [(name, f"{found.get('tokens', 0):,}", *_cells(found)) for name, found in result["students"].items()]
    rows.append((f"{_OWN} - {_GIVEN}", "", *_cells(result["differences"])))
    head = ("student", "tokens learned from", "teacher's answers: KL", "own answers: KL", "KL the other way",
            "teacher's nats")  # fmt: skip
    return record.table(head, rows)


def _cells(found: dict[str, Any]) -> list[str]:
    places = [("teachers_answers", "kl"), *(("own_answers", name) for name in _FIGURES)]
    shown = [found[kind][name] for kind, name in places]
    return [f"{one['mean']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]" for one in shown]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = shared.parser_of(__doc__, "on_policy.json")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path, help="pruned or quantized; it keeps its types")
    parser.add_argument("--chats", type=Path, required=True, help="in Alpaca's form: instruction, input, output")
    parser.add_argument("--examples", type=int, default=100, help="chats to learn from")
    parser.add_argument("--prompts", type=int, default=64, help="held-out ones that are answered")
    parser.add_argument("--answer-tokens", type=int, default=48, help="of an answer that is measured, at most")
    parser.add_argument("--share", type=float, default=0.5, help="of the rows that the student writes")
    parser.add_argument("--loss", choices=["forward", "reverse", "jsd"], default="forward")
    parser.add_argument("--steps", type=int, default=48, help="of the training with its own answers")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--lr", type=float, default=2e-4)
    shared.add_seed(parser)
    shared.add_work(parser, "folder for files in between, 2 GB")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with shared.work_folder("on-policy", options.work) as folder:
        result = compare(options, folder)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
