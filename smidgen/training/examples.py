"""What a model is tuned on: examples as rows of its tokens, and some of them kept aside to measure on.

Examples come from JSON Lines (`data.conversations`) in the model's own chat template. What is held out follows the
policy of all trainings (`distillation.text.held_out`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from smidgen.data.conversations import Coder, Example
from smidgen.data.tally import Tally
from smidgen.distillation.text.held_out import HeldOut, Split, is_in
from smidgen.distillation.text.packing import Document, PackedBatches, documents_sha256
from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_template, chat_templates
from smidgen.model.tokenizer import Tokenizer
from smidgen.progress import track

_ROWS, _STEPS_AN_EPOCH = 4, 16


@dataclass(frozen=True)
class TrainingExamples:
    """learned: from.  held_out: rows to measure on, of so many examples (`measured`).  context: tokens of a row.
    notes: for people.
    """

    learned: Sequence[Document]
    held_out: HeldOut
    measured: int
    context: int
    seed: int
    notes: Sequence[str]

    def sha256(self) -> str:
        """Of what is learned and of what is measured on."""
        rows = [(row.ids.tolist(), row.weights.tolist()) for row in self.held_out.rows]
        return sha256(f"{documents_sha256(self.learned)} {rows}".encode()).hexdigest()

    def batches(self, rows: int | None) -> tuple[PackedBatches, int]:
        """Examples as batches of `rows` rows, each with as many as fit; and how many rows that is.

        None for 4 rows, or fewer where an epoch would then have less than 16 steps.
        """
        if rows is None:
            rows = max(1, min(_ROWS, len(self._packed(1)) // _STEPS_AN_EPOCH))
        return self._packed(rows), rows

    def _packed(self, rows: int) -> PackedBatches:
        return PackedBatches(self.learned, None, rows, self.context, self.seed)


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
    examples: list[Document] = []
    with track("Reading examples", sum(path.stat().st_size for path in data if path.is_file()), in_bytes=True) as task:
        for path in data:
            for example in coder.read(path, tally, skip_bad):
                examples.append(_document(example))
                task.advance(tally.size - task.done)
    notes = tally.notes(context)
    if data and not examples:
        told = " ".join(notes) or "give a file with one JSON object a line, or a JSON list of them."
        raise SmidgenError(f"no line of {printable(data[0])} can be learned from; {told}")
    if valid is not None:
        given = [_document(example) for example in coder.read(valid, Tally(), skip_bad)]
        measured = _not_learned(given, examples, valid, notes)
        split = Split.apart(measured, seed)
        return TrainingExamples(examples, split.rows(context, seed), len(measured), context, seed, notes)
    split = Split.of(examples, held_out, seed)
    if held_out > 0 and examples:
        notes += split.notes("examples")
    measured = len(split.choose) + len(split.report)
    return TrainingExamples(split.learned, split.rows(context, seed), measured, context, seed, notes)


def _not_learned(valid: list[Document], learned: list[Document], path: Path, notes: list[str]) -> list[Document]:
    """Of the examples to measure on those that are not among the ones learned from; `notes` says if there were others.

    Raises SmidgenError where none is left.
    """
    if not valid:
        raise SmidgenError(f"no line of {printable(path)} can be measured on.")
    left = [example for example, known in zip(valid, is_in(valid, learned), strict=True) if not known]
    if not left:
        raise SmidgenError(
            f"Every example of {printable(path)} is in --data, too, or nearly: nothing could be measured on them. Give "
            "others, or leave out --valid."
        )
    if len(left) < len(valid):
        notes.append(
            f"{len(valid) - len(left)} of {len(valid)} examples of {printable(path)} are in --data, too, or nearly: "
            "they are not measured on."
        )
    return left


def _coder(checkpoint: Checkpoint, context: int, on_prompts: bool, raw: bool) -> Coder:
    metadata = checkpoint.file.metadata
    template = chat_template(metadata) if chat_templates(metadata) else None
    return Coder(Tokenizer.from_gguf(metadata), template, context, on_prompts, chat=not raw)


def _document(example: Example) -> Document:
    return Document(example.ids, example.name, example.weights)
