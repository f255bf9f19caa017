"""What a cut cost, measured on the files as written.

`measure` is the door for people and for `cut`: it opens files. Everything behind it takes opened models, and knows no
file format, no engine and no cutter. Formats and engines are imported here alone, when `measure` is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.bounds import several
from smidgen.errors import SmidgenError
from smidgen.measuring.options import JustCut, MeasureOptions
from smidgen.model.kept import AS_USUAL, KVType, bytes_per_token, keeping_of, refuse_kv

if TYPE_CHECKING:
    from smidgen.data.languages import Language
    from smidgen.data.sources import TextSource
    from smidgen.engines.author import Author
    from smidgen.engines.llama_cpp.speed_result import SpeedResult
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.formats.hub.catalogue import ModelName
    from smidgen.measuring.card import Card
    from smidgen.measuring.run import Keeping, Subject, Texts
    from smidgen.measuring.tasks.questions import Questions
    from smidgen.model.tokenizer import Tokenizer

_MEMORY_SHARE = 0.7  # of the machine's memory that two models may take at once


def measure(
    original: ModelName, cut: ModelName, texts: str | Path | TextSource | Sequence[str | Path | TextSource] = (),
    options: MeasureOptions | None = None, *, output: str | os.PathLike[str] | None = None, made: JustCut | None = None,
    **given: Any,
) -> Card:  # fmt: skip
    """The report card of `cut` against `original`: names, paths or loaded models.

    texts: `FILE`, `NAME=FILE`, or read already; one or several. Where neither texts nor languages are given, the
    original writes a text of its own.
    given: options by their names (`tokens=2000`, `languages=["de"]`), instead of `options` or to change some of them.
    output: where to write card.json, with card.html beside it; its folder is made where it is missing.
    made: from the cut, if it was just made.
    Raises SmidgenError before any long work for files that are missing or damaged, a cut whose tokens are not among
    the original's, and languages that are not known or have no text.
    """
    from smidgen.data.sources import TextSource, read_texts
    from smidgen.engines.machine import peak_memory
    from smidgen.formats.opening import open_model
    from smidgen.measuring.card import in_words, refuse_place

    options, made = replace(options or MeasureOptions(), **given), made or JustCut()
    place = None if output is None else Path(output)
    if place is not None:
        refuse_place(place)
    sources = read_texts(several("texts", texts, TextSource))
    questions = _read_questions(options)
    with open_model(original) as before, open_model(cut) as after:
        card = _compare(before, after, sources, options, made)
        card |= _ask(before, after, questions, options)
    card = in_words(card)
    card["made"]["peak_ram_bytes"] = peak_memory()
    return card if place is None else _written(card, place, after.path, alone=not made.making.steps)


def _compare(
    before: Checkpoint, after: Checkpoint, given: Sequence[TextSource], options: MeasureOptions, made: JustCut
) -> Card:
    """The card of two opened models, but for what they answer.

    given: texts; what is missing beside them the original writes.
    Raises SmidgenError where the models do not belong together, or the cut's heads do not fit the cache.
    """
    import torch

    from smidgen.engines.machine import machine_name
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.history import history, kept_layers
    from smidgen.measuring.run import measure_subjects, refuse_other_vocabulary
    from smidgen.model.tokenizer import Tokenizer

    threads, kv = options.threads, options.kv
    kept = _keeping(after, kv)
    engine = TorchEngine(before, threads)
    depths = len(before.config.layers), len(after.config.layers)
    layers = kept_layers(before.file.metadata, after.file.metadata, *depths)
    pair = (
        _subject(before, before.origin.name, engine),
        _subject(after, made.name or after.origin.name, TorchEngine(after, kv=kv), layers),
    )
    refuse_other_vocabulary(*pair)
    tokenizer = Tokenizer.from_gguf(before.tokenizer_metadata)
    return measure_subjects(
        *pair, tokenizer, _texts(before, engine, tokenizer, given, options, made),
        cut_tokenizer=lambda: Tokenizer.from_gguf(after.tokenizer_metadata),
        noisy=lambda: TorchEngine(before, rounding=torch.bfloat16), keeping=kept,
        speed=(lambda: _speeds(before, after, threads, kv)) if options.with_speed else None,
        making=replace(made.making, history=history(after.file.metadata)),
        settings={"machine": machine_name(), "threads": torch.get_num_threads()},
    )  # fmt: skip


def _keeping(cut: Checkpoint, kv: KVType) -> Keeping:
    """How the cut keeps keys and values. Raises Unsupported where its heads do not fit."""
    from smidgen.engines.torch import TorchEngine
    from smidgen.measuring.run import Keeping

    kept = keeping_of(cut.config)
    refuse_kv(kv, kept)
    unrounded = None if kv == AS_USUAL else lambda: TorchEngine(cut)
    return Keeping(kv, bytes_per_token(kept, kv), bytes_per_token(kept, AS_USUAL), unrounded)


def _texts(
    original: Checkpoint, engine: TorchEngine, tokenizer: Tokenizer, given: Sequence[TextSource],
    options: MeasureOptions, made: JustCut,
) -> Texts:  # fmt: skip
    """What was given, and what the original writes."""
    from smidgen.engines.author import Author
    from smidgen.measuring.run import DEFAULT_TOKENS, Texts

    tokens = DEFAULT_TOKENS if options.tokens is None else options.tokens
    with Author(engine, options.threads) as author:
        writer = _Writer(author, tokenizer, original.sha256(), options.seed)
        sources, not_asked = writer.complete(given, options.languages, options.other_languages, tokens)
    return Texts(sources, not_asked, tokens, options.seed, made.calibrated_on)


def _written(card: Card, place: Path, cut: Path, *, alone: bool) -> Card:
    """The card as it was written, with its page and what the README beside it says of it.

    alone: two finished files were compared, so that a card that is replaced may know more of the cut.
    """
    from smidgen.measuring.card import make_place, write_card
    from smidgen.measuring.earlier_card import with_its_making
    from smidgen.owned import renew
    from smidgen.publishing.measured import renew_readme

    make_place(place)
    if alone:
        card = with_its_making(card, place)
    page = write_card(card, place)
    renewed = renew_readme(card, place, cut)
    renew(page.parent, (place.name, page.name, *renewed))
    return card


def _read_questions(options: MeasureOptions) -> Questions | None:
    """What both models are to be asked, checked; None where no task is named."""
    data = options.data
    if not options.tasks:
        if data is not None or options.limit is not None or options.unsafe:
            raise SmidgenError("data, limit and unsafe are for tasks: name some, such as --tasks mmlu.")
        return None
    from smidgen.measuring.tasks.questions import Questions

    return Questions(options.tasks, None if data is None else Path(data), options.limit, options.seed, options.unsafe)


def _ask(before: Checkpoint, after: Checkpoint, questions: Questions | None, options: MeasureOptions) -> dict[str, Any]:
    """What both models answer, as keys of the card; what they have answered before is not asked again."""
    if questions is None and not options.with_answers:
        return {}
    from smidgen.engines.answers import ModelAnswers
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.hub.home import answers_folder
    from smidgen.model.tokenizer import Tokenizer

    found: dict[str, Any] = {}
    with ExitStack() as stack:
        models = []
        both: tuple[tuple[Checkpoint, KVType], ...] = ((before, AS_USUAL), (after, options.kv))
        for one, kept in both:
            tokenizer = Tokenizer.from_gguf(one.tokenizer_metadata)
            engine = TorchEngine(one, kv=kept)
            model = stack.enter_context(ModelAnswers(engine, tokenizer, one.path, options.threads, kept))
            known_as = one.sha256() if kept == AS_USUAL else f"{one.sha256()} {kept}"
            models.append(RememberedAnswers(model, known_as, answers_folder()))
        if questions is not None:
            found["tasks"], found["safety"] = questions.ask(*models)
        if options.with_answers:
            found["answers"] = _side_by_side(before, after, *models)
    return found


def _side_by_side(
    before: Checkpoint, after: Checkpoint, original: RememberedAnswers, cut: RememberedAnswers
) -> dict[str, Any]:
    """Answers to the same prompts, or why there are none: what was measured before is not thrown away."""
    from smidgen.measuring.side_by_side import side_by_side
    from smidgen.progress import say

    if not _fit_together(before, after):
        return {"reason": f"the original's {before.file.size / 1e9:.1f} GB are too much for this machine"}
    try:
        return side_by_side(original, cut)
    except SmidgenError as error:
        say(f"Answers side by side could not be written: {error}")
        return {"reason": str(error)}


class _Writer:
    """The original as the author of the texts that nobody gave."""

    def __init__(self, author: Author, tokenizer: Tokenizer, sha256: str, seed: int) -> None:
        from smidgen.formats.hub.catalogue import cache_folder

        self._author, self._tokenizer, self._sha256, self._seed = author, tokenizer, sha256, seed
        self._folder = cache_folder() / "self-written"

    def complete(
        self, given: Sequence[TextSource], asked: Sequence[str], other: Sequence[str], tokens: int
    ) -> tuple[list[TextSource], list[TextSource]]:
        """The texts to measure on, and those in languages that were not asked for."""
        from smidgen.data.languages import languages_named, languages_of
        from smidgen.data.self_written import self_written
        from smidgen.measuring.run import OTHER_TOKENS

        known = {language.code for source in given for language in languages_named(source.language)}
        wanted = [language for language in languages_of(asked) if language.code not in known]
        known |= {language.code for language in wanted}
        others = [language for language in languages_of(other) if language.code not in known]
        sources = [*given, *self._write(wanted, tokens)]
        if not sources:
            who = self._author, self._tokenizer, self._sha256
            sources = [self_written(*who, tokens, self._seed, "evaluation", self._folder)]
        return sources, self._write(others, min(tokens, OTHER_TOKENS))

    def _write(self, languages: Sequence[Language], tokens: int) -> list[TextSource]:
        if not languages:
            return []
        from smidgen.data.self_written import self_written_in

        who = self._author, self._tokenizer, self._sha256
        return self_written_in(*who, languages, tokens, self._seed, "evaluation", self._folder)


def _speeds(original: Checkpoint, cut: Checkpoint, threads: int | None, kv: KVType) -> list[SpeedResult]:
    """Of the original, where this machine can run it, and of the cut, which keeps keys and values as `kv`."""
    from smidgen.engines.llama_cpp.bench import measure_speed

    paths = _runnable(original, cut)
    kept: list[KVType] = [AS_USUAL, kv]
    return measure_speed(paths, threads, kv=kept[-len(paths) :])


def _runnable(original: Checkpoint, cut: Checkpoint) -> list[Path]:
    """The files whose speed to compare: both if they fit into memory side by side, else the cut's alone."""
    from smidgen.formats.convert import gguf_of
    from smidgen.progress import say

    if _fit_together(original, cut):
        return [gguf_of(original.path), gguf_of(cut.path)]
    size = f"{original.file.size / 1e9:.1f} GB"
    say(f"The speed of the original is not measured: its {size} are too much for this machine.")
    return [gguf_of(cut.path)]


def _fit_together(original: Checkpoint, cut: Checkpoint) -> bool:
    """Whether llama.cpp can hold both at once."""
    from smidgen.memory import total_memory

    return original.file.size + cut.file.size <= _MEMORY_SHARE * total_memory()


def _subject(checkpoint: Checkpoint, name: str, engine: TorchEngine, layers: tuple[int, ...] | None = None) -> Subject:
    from smidgen.measuring.facts import ModelFacts, TensorFacts
    from smidgen.measuring.run import Subject
    from smidgen.model.tokenizers.padding import tokens_of

    file, members = checkpoint.file, checkpoint.gguf_members
    met = dict.fromkeys([*map(checkpoint.gguf_name, checkpoint.names()), *file.tensors])
    tensors = tuple(
        TensorFacts(
            info.name, info.kind.name, info.kind.bits_per_weight, prod(info.shape), info.nbytes,
            tuple(members(info.name)),
        )
        for info in (file.tensors[tensor] for tensor in met)
    )  # fmt: skip
    facts = ModelFacts(
        name, checkpoint.path, checkpoint.sha256(), file.size, checkpoint.parameters, tensors, layers
    )  # fmt: skip
    return Subject(facts, engine, tokens_of(file.metadata))
