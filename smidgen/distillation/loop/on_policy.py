"""Learning from what the student writes itself (GKD: Agarwal et al. 2023, https://arxiv.org/abs/2306.13649).

A student that has only read good texts has never seen its own mistakes, and does not know how to go on after one. So in
a share λ of the rows it gets the beginning alone, writes the rest at temperature 1, and the teacher says at each place
what should have come next. Of a chat the beginning is all up to the words that begin an answer: the student is asked
for answers, not for the user's words. With reverse or Jensen-Shannon divergence, as the paper has it, or any other.
(The paper's algorithm 1 draws by steps, not rows.) Only what it wrote counts. No gradient goes through the writing.

Where the teacher has other tokens, pair what was written (`distillation.text.paired.Paired` around `OnPolicy`).

Cost: a forward pass for each token. Our own decoder (`DecoderWriter`) does for tests and accelerators; on a CPU
llama.cpp is several times as quick (`smidgen.training.writing`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from smidgen.data.corpus.order import shuffled
from smidgen.distillation.students.trainee import Trainee
from smidgen.distillation.text.batch import NO_TARGET, Batch, Batches
from smidgen.errors import SmidgenError
from smidgen.model.decoder import Cache, Decoder
from smidgen.numerics.sampling import draw

OPENING = 32  # tokens that the student is given of a text without a prompt


class Writer(Protocol):
    """A student that goes on with texts."""

    def __call__(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int) -> list[list[int]]:
        """What follows each prompt: at most so many tokens, the last one being the end of the text if it came."""
        ...


class OnPolicy:
    """Batches in which the student has written a share of the rows.

    Such a row begins with one of `prompts`, each of which comes once before any comes again, as far as it is drawn.
    Without prompts it begins with what has no weight in it and at least `opening` tokens; of several documents with
    those of the first. Either way it becomes one document. The choice of rows and prompts, and with a `DecoderWriter`
    what is written, depends on seed, step and the student's weights alone.
    """

    def __init__(
        self, batches: Batches, writer: Writer, share: float, *, prompts: Sequence[Sequence[int]] = (),
        opening: int = OPENING, seed: int = 0,
    ) -> None:  # fmt: skip
        if not 0 <= share <= 1:
            raise SmidgenError(f"a share of {share} of self-written rows is not between 0 and 1")
        self._batches, self._writer, self._share, self._opening = batches, writer, share, opening
        self._seed, self._prompts = seed, prompts

    def batch(self, step: int) -> Batch:
        """That of a step, with the student as it is now."""
        batch = self._batches.batch(step)
        if batch.teacher_ids is not None:
            raise ValueError(
                "the teacher's tokens are those of another text: pair what was written, not what was given"
            )
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{step}".encode()).digest()[:8], "little") >> 1
        draws = torch.rand(len(batch.ids), generator=torch.Generator().manual_seed(seed))
        rows = (draws < self._share).nonzero()[:, 0].tolist()
        if self._prompts:
            prompts = {row: list(self._given(step * len(batch.ids) + row)) for row in rows}
        else:
            prompts = {row: self._opened(batch, row) for row in rows}
        prompts = {row: prompt for row, prompt in prompts.items() if 0 < len(prompt) < batch.ids.shape[1]}
        room = [batch.ids.shape[1] + 1 - len(prompt) for prompt in prompts.values()]
        written = self._writer(list(prompts.values()), room, seed) if prompts else []
        return _with_rows(batch, prompts, written)

    def _given(self, place: int) -> Sequence[int]:
        """The prompt at a place in the endless run of epochs."""
        epoch, within = divmod(place, len(self._prompts))
        return self._prompts[shuffled(within, len(self._prompts), (self._seed << 32) + epoch)]

    def _opened(self, batch: Batch, row: int) -> list[int]:
        """What the student is given of a row's own text."""
        counts = batch.weights[row].nonzero()[:, 0]
        if not len(counts):
            return []
        first = int(counts[0])
        inside = (batch.documents[row] == batch.documents[row, first]).nonzero()[:, 0]
        start, last = int(inside[0]), min(int(counts[-1]), int(inside[-1]))  # to the end of the document that counts
        stop = max(first + 1, start + self._opening)
        return batch.ids[row, start : min(stop, last + 1)].tolist()


def _with_rows(batch: Batch, prompts: dict[int, list[int]], written: list[list[int]]) -> Batch:
    """The batch with prompts and what follows them in place of these rows."""
    width = batch.ids.shape[1]
    ids, targets, weights = batch.ids.clone(), batch.targets.clone(), batch.weights.clone()
    documents = batch.documents.clone()
    for (row, prompt), answer in zip(prompts.items(), written, strict=True):
        text = torch.tensor([*prompt, *answer])[: width + 1].to(ids)
        ids[row], targets[row], weights[row] = 0, NO_TARGET, 0
        ids[row, : min(len(text), width)] = text[:width]
        targets[row, : len(text) - 1] = text[1:]
        weights[row, len(prompt) - 1 : len(text) - 1] = 1
        documents[row] = 0
    return replace(batch, ids=ids, targets=targets, weights=weights, documents=documents)


class DecoderWriter:
    """Writes with the student's decoder as it is. Prompts of one length go through it together.

    end_ids: tokens that end a text.  temperature: 0 takes the likeliest token.
    """

    def __init__(self, trainee: Trainee, end_ids: Collection[int], temperature: float = 1.0) -> None:
        self._trainee, self._end_ids = trainee, torch.tensor(sorted(end_ids))
        self._temperature = float(temperature)

    def __call__(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], seed: int) -> list[list[int]]:
        """As `Writer` says; the same seed and weights give the same texts."""
        self._trainee.prepare()
        generator = torch.Generator().manual_seed(seed)
        groups: dict[int, list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            groups[len(prompt)].append(number)
        texts: dict[int, list[int]] = {}
        for _, numbers in sorted(groups.items()):
            rows = torch.tensor([list(prompts[number]) for number in numbers])
            found = self._write(rows, max(tokens[number] for number in numbers), generator)
            texts |= {number: text[: tokens[number]] for number, text in zip(numbers, found, strict=True)}
        return [texts[number] for number in range(len(prompts))]

    @torch.no_grad()
    def _write(self, prompts: torch.Tensor, tokens: int, generator: torch.Generator) -> list[list[int]]:
        decoder: Decoder = self._trainee.decoder
        device = decoder.embedding.weight.device
        cache = Cache(decoder.config, len(prompts), prompts.shape[1] + tokens, device)
        written = torch.zeros(len(prompts), 0, dtype=torch.long)
        ended = torch.zeros(len(prompts), dtype=torch.bool)
        step = prompts
        while written.shape[1] < tokens and not ended.all():
            logits = decoder.logits(decoder.hidden_states(step.to(device), cache)[:, -1])
            step = draw(logits.float().cpu(), self._temperature, generator)[:, None]
            written = torch.cat([written, step], dim=1)
            ended |= torch.isin(step[:, 0], self._end_ids)
        return [self._up_to_end(row) for row in written]

    def _up_to_end(self, row: torch.Tensor) -> list[int]:
        ends = torch.isin(row, self._end_ids).nonzero()[:, 0]
        return row[: int(ends[0]) + 1].tolist() if len(ends) else row.tolist()
