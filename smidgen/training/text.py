"""What a student learns from: text as rows of its tokens, and some of it kept aside to measure on.

Given as files of text, as JSON Lines, or as a corpus of `smidgen data`; without any, the teacher writes it. A student
that learns from the teacher's own text sees the distribution that it is to reproduce.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smidgen.data.conversations import Coder
from smidgen.data.corpus.shards import INDEX, tokenizer_hash
from smidgen.data.self_written import self_written
from smidgen.data.sources import TextSource, read_texts
from smidgen.data.tally import Tally
from smidgen.distillation.loop.on_policy import OPENING
from smidgen.distillation.text.batch import Batches
from smidgen.distillation.text.held_out import HeldOut, Split
from smidgen.distillation.text.packing import Document, PackedBatches, documents_sha256, text_documents
from smidgen.distillation.text.sharded import ShardedBatches
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hub.catalogue import cache_folder
from smidgen.model.chat import chat_template, chat_templates
from smidgen.model.tokenizer import Tokenizer

_HELD_OUT, _MOST_HELD_OUT = 16, 16  # one document in so many is held out, and no more than fill so many rows
_SELF_WRITTEN = 2**16  # tokens at most: they are written about as slowly as they are learned from


@dataclass(frozen=True)
class TrainingText:
    """rows: of an epoch.  held_out: what no step sees.  sha256: of all of it.  notes: for people.

    prompts: of chats and completions, all up to each of their answers; of other texts their beginnings.
    """

    batches: Batches
    rows: int
    held_out: HeldOut
    sha256: str
    notes: list[str] = field(default_factory=list)
    prompts: list[Sequence[int]] = field(default_factory=list)

    def describe(self) -> str:
        """In a few words."""
        return f"{self.rows} rows of text, {len(self.held_out.rows)} more held out"


def read_training_text(
    student: Checkpoint, teacher: Checkpoint, texts: Sequence[str | Path | TextSource], data: Sequence[Path], *,
    rows: int, context: int, tokens: int, seed: int, on_answers: bool = False, asked: bool = False,
) -> TrainingText:  # fmt: skip
    """Batches of `rows` rows of `context` tokens for a student. tokens: how many the training takes in all.

    on_answers: of JSON Lines with answers, only these count.  asked: find the prompts, too, if there are such lines.
    Raises SmidgenError for a corpus that is not alone, or was made for another tokenizer, and for too little text;
    BadFile for a file that cannot be read, with the number of the line where one is malformed.
    """
    corpus = any((path / INDEX).exists() for path in data)
    if on_answers and (corpus or not data):
        raise SmidgenError("Only JSON Lines say what is an answer. Give them with --data, or leave out --on answers.")
    if corpus:
        if len(data) > 1 or texts:
            raise SmidgenError("A corpus is all the text of a training. Give it alone, or put all text into it.")
        return _of_corpus(data[0], student, rows, context, seed)
    tokenizer = Tokenizer.from_gguf(student.tokenizer_metadata)
    documents, notes = _of_json_lines(data, student, tokenizer, context, on_answers)
    sources = read_texts(texts)
    if on_answers and not documents:
        raise SmidgenError("No line of --data has an answer that can be learned from. Leave out --on answers.")
    if not documents and not sources:
        sources = [_by_the_teacher(teacher, self_written_tokens(tokens), seed)]
    texts_alone = text_documents(sources, tokenizer, context)
    documents += texts_alone
    split = _split(documents, context, seed)
    batches = PackedBatches(split.learned, None, rows, context, seed)
    notes += split.notes("texts")
    prompts: list[Sequence[int]] = []
    if asked and data:
        kept_aside = {document.name for document in (*split.choose, *split.report)}
        found = [*_marked(data, student, tokenizer, context), *texts_alone]
        prompts = [prompt for document in found if document.name not in kept_aside for prompt in _prompts(document)]
        prompts = [prompt for prompt in prompts if len(prompt) < context]
    held_out = split.rows(context, seed)
    return TrainingText(batches, len(batches), held_out, documents_sha256(documents), notes, prompts)


def _split(documents: Sequence[Document], context: int, seed: int) -> Split:
    """One document in so many, and no more than fill so many rows."""
    rows = max(1, sum(len(document.ids) for document in documents) / context)
    return Split.of(documents, min(1 / _HELD_OUT, _MOST_HELD_OUT / rows), seed, fewest=0)


def _of_corpus(folder: Path, student: Checkpoint, rows: int, context: int, seed: int) -> TrainingText:
    hashed = tokenizer_hash(student.tokenizer_metadata)
    count = ShardedBatches(folder, rows, context, seed, tokenizer=hashed).count
    aside = min(_MOST_HELD_OUT, count // _HELD_OUT)
    batches = ShardedBatches(folder, rows, context, seed, tokenizer=hashed, held_out=aside)
    held_out = [batches.held_out().rows(slice(row, row + 1)) for row in range(aside)]
    sets = HeldOut(choose=held_out[1::2], report=held_out[::2])
    notes = []
    if batches.divided:
        notes = [
            "The corpus's documents are long, so parts of those that are measured on are learned from: take its losses "
            "for a little too low."
        ]
    return TrainingText(batches, batches.count, sets, batches.corpus.index.sha256(), notes)


def _of_json_lines(
    data: Sequence[Path], student: Checkpoint, tokenizer: Tokenizer, context: int, on_answers: bool
) -> tuple[list[Document], list[str]]:
    """Every text of the files; questions are learned from like answers, unless these alone are to count."""
    tally, coder = Tally(), _coder(student, tokenizer, context, on_prompts=not on_answers)
    found = [example for path in data for example in coder.read(path, tally)]
    return [Document(example.ids, example.name, example.weights) for example in found], tally.notes(context)


def _coder(student: Checkpoint, tokenizer: Tokenizer, context: int, on_prompts: bool) -> Coder:
    template = chat_template(student.tokenizer_metadata) if chat_templates(student.tokenizer_metadata) else None
    return Coder(tokenizer, template, context, on_prompts=on_prompts)


def _marked(data: Sequence[Path], student: Checkpoint, tokenizer: Tokenizer, context: int) -> list[Document]:
    """The lines, with weights that tell answers from the rest."""
    coder = _coder(student, tokenizer, context, on_prompts=False)
    found = [example for path in data for example in coder.read(path, Tally(), skip_bad=True)]
    return [Document(example.ids, example.name, example.weights) for example in found]


def _prompts(document: Document) -> list[Sequence[int]]:
    """All before each stretch that counts; of a text of which all counts, its beginning."""
    counts = [weight > 0 for weight in document.weights or ()]
    starts = [place for place in range(1, len(counts)) if counts[place] and not counts[place - 1]]
    return [document.ids[:place] for place in starts] or [document.ids[:OPENING]]


def self_written_tokens(tokens: int) -> int:
    """How many the teacher writes for a training that takes so many."""
    return min(tokens, _SELF_WRITTEN)


def _by_the_teacher(teacher: Checkpoint, tokens: int, seed: int) -> TextSource:
    engine, tokenizer = TorchEngine(teacher), Tokenizer.from_gguf(teacher.tokenizer_metadata)
    folder = cache_folder() / "self-written"
    return self_written(engine, tokenizer, teacher.sha256(), tokens, seed, "calibration", folder)
