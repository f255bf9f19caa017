"""A task whose score means something: which of a few kinds a text is of, learned from examples, asked on others.

A kind is given as `NAME=FILE`: one text a line, or the first column of a .csv file. As many texts of each kind are
learned from as of the others; none of them, and none that is nearly the same (`data.alike`), is asked about. The system
message names all kinds, the user's is the text, in the model's own chat template; the answer is the name alone.

What is scored, from one pass over question and right answer:

    exact    the answer of a model that takes the likeliest token each time is the name, word for word, and ends there.
             That is so where each token of the right answer, and the end behind it, is the likeliest in its place.
    chosen   of all names, the right one begins with the likeliest token. It needs no habit of answering briefly, so it
             is the fairer score of a model that was not tuned.
    loss     nats per token of the right answer and its end.
"""

import argparse
import csv
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bootstrap import difference_of_values, mean_of_values
from smidgen.data.sources import read_text
from smidgen.distillation.text.held_out import is_in
from smidgen.distillation.text.packing import Document, PackedBatches
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.tokenizer import Tokenizer
from smidgen.training.examples import read_training_examples

_AT_ONCE = 16  # questions that go through a model together
#: A model: of tokens [rows, positions], the logits [places, vocabulary] at these places, by row and position.
Logits = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Item:
    """A text and the name of its kind."""

    text: str
    kind: str

    def line(self, ask: str, kinds: Sequence[str]) -> str:
        """As an example for `smidgen tune --data`. ask: what the system message says before the names."""
        said = (("system", f"{ask}: {', '.join(kinds)}."), ("user", self.text), ("assistant", self.kind))
        messages = [{"role": role, "content": content} for role, content in said]
        return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Task:
    """Examples to learn from and others to ask about. sources: for results."""

    kinds: tuple[str, ...]
    learned: list[Item]
    held_out: list[Item]
    sources: list[dict[str, Any]]

    def write(self, ask: str, folder: Path) -> tuple[Path, Path]:
        """Both as JSON Lines in a folder."""
        files = folder / "learned.jsonl", folder / "held-out.jsonl"
        for file, items in zip(files, (self.learned, self.held_out), strict=True):
            file.write_text("".join(item.line(ask, self.kinds) for item in items), encoding="utf-8")
        return files

    def described(self, ask: str) -> dict[str, Any]:
        """For results."""
        return {
            "ask": ask, "kinds": list(self.kinds), "sources": self.sources, "learned": len(self.learned),
            "held_out": len(self.held_out), "most_frequent": self._largest() / len(self.held_out),
        }  # fmt: skip

    def _largest(self) -> int:
        return max(sum(item.kind == kind for item in self.held_out) for kind in self.kinds)


def read_task(
    kinds: Sequence[str], learned: int, held_out: int, longest: int, tokenizer: Tokenizer, seed: int
) -> Task:  # fmt: skip
    """A task from `NAME=FILE` arguments.

    learned, held_out: so many texts in all; of held-out ones there may be fewer.  longest: characters of a text.
    Raises SmidgenError where a kind has not enough texts, or two names begin with the same token.
    """
    names = tuple(kind.partition("=")[0] for kind in kinds)
    if len({tokenizer.encode(name)[0] for name in names}) < len(names):
        raise SmidgenError(f"Two of {', '.join(names)} begin with the same token; choose other names.")
    each_learned, each_asked = learned // len(names), -(-held_out // len(names))
    lessons, asked, sources = list[Item](), list[Item](), list[dict[str, Any]]()
    for kind in kinds:
        name, _, file = kind.partition("=")
        texts = [text for text in _texts(file) if 0 < len(text) <= longest]
        if len(texts) <= each_learned:
            raise SmidgenError(f"{file} has {len(texts)} texts of at most {longest} characters; more are needed.")
        random.Random(f"{seed}/{name}").shuffle(texts)
        lessons += [Item(text, name) for text in texts[:each_learned]]
        asked += [Item(text, name) for text in texts[each_learned : each_learned + each_asked]]
        sources.append({"kind": name, "file": Path(file).name, "sha256": read_text(file).sha256, "texts": len(texts)})
    random.Random(seed).shuffle(lessons)
    return Task(names, lessons, _unlike(asked, lessons, tokenizer), sources)


def _texts(file: str) -> list[str]:
    """What is in a file, each text once, with single blanks."""
    lines = read_text(file).text.splitlines()
    texts = [row[0] for row in csv.reader(lines) if row] if file.endswith(".csv") else lines
    return list(dict.fromkeys(" ".join(text.split()) for text in texts))


def _unlike(asked: Sequence[Item], learned: Sequence[Item], tokenizer: Tokenizer) -> list[Item]:
    """Without those that are nearly one of the learned ones."""
    documents = [[Document(tokenizer.encode(item.text), item.kind) for item in items] for items in (asked, learned)]
    return [item for item, known in zip(asked, is_in(*documents), strict=True) if not known]


def batches_of(checkpoint: Checkpoint, data: Path, options: argparse.Namespace) -> PackedBatches:
    """What `smidgen tune` learns from such a file, in its order. options: context, batch and seed."""
    examples = read_training_examples(
        checkpoint, [data], None, context=options.context, on_prompts=False, raw=False, skip_bad=False, held_out=0.0,
        seed=options.seed,
    )  # fmt: skip
    return examples.batches(options.batch)[0]


@dataclass(frozen=True)
class Scores:
    """Of one model, an entry for each question. nats: of the right answer, of so many tokens each."""

    exact: list[bool]
    chosen: list[bool]
    nats: list[float]
    tokens: list[int]

    def described(self) -> dict[str, Any]:
        """Means with their 95% intervals, and the entries they are of."""
        loss = [nats / tokens for nats, tokens in zip(self.nats, self.tokens, strict=True)]
        return {
            "exact": mean_of_values(self.exact), "chosen": mean_of_values(self.chosen), "loss": mean_of_values(loss),
            "right": "".join("01"[right] for right in self.exact),
        }  # fmt: skip


def against(ours: str, theirs: str) -> dict[str, Any]:
    """The difference of two shares of exact answers to the same questions, from their entries `right`."""
    return difference_of_values(*([float(mark) for mark in marks] for marks in (ours, theirs)))


class Questions:
    """Held-out examples as tokens of a model. names: of all kinds."""

    def __init__(self, checkpoint: Checkpoint, file: Path, names: Sequence[str]) -> None:
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        read = read_training_examples(
            checkpoint, [file], None, context=checkpoint.config.context_length, on_prompts=False, raw=False,
            skip_bad=False, held_out=0.0, seed=0,
        )  # fmt: skip
        self._documents = list(read.learned)
        self._firsts = [tokenizer.encode(name)[0] for name in names]

    @torch.no_grad()
    def ask(self, logits: Logits) -> Scores:
        """All questions of a model."""
        order = sorted(range(len(self._documents)), key=lambda number: len(self._documents[number].ids))
        found: dict[int, tuple[bool, bool, float, int]] = {}
        for start in range(0, len(order), _AT_ONCE):
            numbers = order[start : start + _AT_ONCE]
            found |= zip(numbers, self._answered([self._documents[number] for number in numbers], logits), strict=True)
        exact, chosen, nats, tokens = zip(*(found[number] for number in range(len(order))), strict=True)
        return Scores(list(exact), list(chosen), list(nats), list(tokens))

    def _answered(self, documents: Sequence[Document], logits: Logits) -> Iterator[tuple[bool, bool, float, int]]:
        """The scores of some questions, which go through the model together."""
        ids = torch.zeros(len(documents), max(len(one.ids) for one in documents), dtype=torch.long)
        answers = [[place for place, weight in enumerate(one.weights or ()) if weight] for one in documents]
        for row, document in enumerate(documents):
            ids[row, : len(document.ids)] = torch.tensor(document.ids)  # what is behind it changes nothing
        rows = torch.tensor([row for row, answer in enumerate(answers) for _ in answer])
        places = torch.tensor([place for answer in answers for place in answer])
        said = logits(ids, rows, places - 1).float()
        for row, answer in enumerate(answers):
            yield self._scored(ids[row, answer], said[rows == row])

    def _scored(self, wanted: Tensor, said: Tensor) -> tuple[bool, bool, float, int]:
        """Of one question: the tokens of the right answer, and the logits in their places."""
        exact = bool((said.argmax(-1) == wanted).all())
        first = self._firsts[int(said[0, self._firsts].argmax())]
        nats = float(-said.log_softmax(-1).gather(1, wanted[:, None]).sum())
        return exact, first == int(wanted[0]), nats, len(wanted)
