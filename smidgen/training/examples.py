"""What a model is tuned on: examples as rows of its tokens, and some of them kept aside to measure on.

Examples come from JSON Lines (`data.conversations`) in the model's own chat template. Equal ones stay on one side,
wherever they stand: an example that was learned from measures nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from smidgen.data.conversations import Coder, Example
from smidgen.data.tally import Tally
from smidgen.distillation.students.trainee import Objective
from smidgen.distillation.text.packing import Document, PackedBatches
from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_template, chat_templates
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import track

_ROWS, _STEPS_AN_EPOCH = 4, 16


@dataclass(frozen=True)
class TrainingExamples:
    """learned: from.  held_out: measured on.  context: tokens of a row.  notes: for people."""

    learned: Sequence[Example]
    held_out: Sequence[Example]
    context: int
    seed: int
    notes: Sequence[str]

    def sha256(self) -> str:
        """Of all of them."""
        digest = sha256()
        for example in (*self.learned, *self.held_out):
            digest.update(_fingerprint(example))
        return digest.hexdigest()

    def batches(self, rows: int | None) -> tuple[PackedBatches, int]:
        """Examples as batches of `rows` rows, each with as many as fit; and how many rows that is.

        None for 4 rows, or fewer where an epoch would then have less than 16 steps.
        """
        if rows is None:
            rows = max(1, min(_ROWS, len(self._packed(self.learned, 1)) // _STEPS_AN_EPOCH))
        return self._packed(self.learned, rows), rows

    @torch.no_grad()
    def loss(self, decoder: Decoder, objective: Objective) -> float:
        """The mean loss on held-out examples, in nats per token that counts."""
        packed, total, weight = self._packed(self.held_out, 1), 0.0, 0.0
        device = next(decoder.parameters()).device
        decoder.eval()
        for row in range(len(packed)):
            batch = packed.rows([row])
            total += float(objective(decoder, batch.to(device))[0])
            weight += batch.weight()
        decoder.train()
        return total / weight

    def _packed(self, examples: Sequence[Example], rows: int) -> PackedBatches:
        documents = [Document(example.ids, example.name, example.weights) for example in examples]
        return PackedBatches(documents, None, rows, self.context, self.seed)


def read_training_examples(
    checkpoint: Checkpoint, data: Sequence[Path], valid: Path | None, *,
    context: int, on_prompts: bool, raw: bool, skip_bad: bool, held_out: float, seed: int,
) -> TrainingExamples:  # fmt: skip
    """All examples of some files, a share `held_out` of them set apart, or those of `valid` to measure on instead.

    on_prompts, raw, skip_bad: as in `TuneOptions`.
    Raises BadFile with the line's number for a malformed line, and SmidgenError where nothing is left to learn from or
    to measure on.
    """
    tally, coder = Tally(), _coder(checkpoint, context, on_prompts, raw)
    learned: list[Example] = []
    with track("Reading examples", sum(path.stat().st_size for path in data if path.is_file()), in_bytes=True) as task:
        for path in data:
            for example in coder.read(path, tally, skip_bad):
                learned.append(example)
                task.advance(tally.size - task.done)
    notes = tally.notes(context)
    if data and not learned:
        told = " ".join(notes) or "give a file with one JSON object a line, or a JSON list of them."
        raise SmidgenError(f"no line of {printable(data[0])} can be learned from; {told}")
    aside: list[Example] = []
    if valid is not None:
        aside = list(coder.read(valid, Tally(), skip_bad))
        if not aside:
            raise SmidgenError(f"no line of {printable(valid)} can be measured on.")
    elif held_out > 0:
        learned, aside = _split(learned, held_out, seed)
    return TrainingExamples(learned, aside, context, seed, notes)


def _coder(checkpoint: Checkpoint, context: int, on_prompts: bool, raw: bool) -> Coder:
    metadata = checkpoint.file.metadata
    template = chat_template(metadata) if chat_templates(metadata) else None
    return Coder(Tokenizer.from_gguf(metadata), template, context, on_prompts, chat=not raw)


def _split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and to measure on."""
    keys = [sha256(seed.to_bytes(8, "little") + _fingerprint(example)).digest() for example in examples]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        return examples, []
    kept_aside = set(distinct[: min(max(1, round(share * len(distinct))), len(distinct) - 1)])
    return (
        [example for example, key in zip(examples, keys, strict=True) if key not in kept_aside],
        [example for example, key in zip(examples, keys, strict=True) if key in kept_aside],
    )


def _fingerprint(example: Example) -> bytes:
    return sha256(repr((example.ids, example.weights)).encode()).digest()
