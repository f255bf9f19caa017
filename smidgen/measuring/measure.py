"""What a cut cost, measured on the files as written.

`measure` is the door for people and for `cut`: it opens files (subjects.py). Everything behind it takes opened models,
and knows no file format, no engine and no cutter. Formats and engines are imported in these two alone, when `measure`
is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.bounds import several
from smidgen.errors import SmidgenError
from smidgen.measuring.options import JustCut, MeasureOptions

if TYPE_CHECKING:
    from smidgen.data.languages import Language
    from smidgen.data.sources import TextSource
    from smidgen.engines.author import Author
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.formats.hub.catalogue import ModelName
    from smidgen.measuring.card import Card
    from smidgen.measuring.run import Texts
    from smidgen.measuring.subjects import Cut
    from smidgen.measuring.tasks.questions import Questions
    from smidgen.model.tokenizer import Tokenizer


def measure(
    original: ModelName, cut: ModelName, texts: str | Path | TextSource | Sequence[str | Path | TextSource] = (),
    options: MeasureOptions | None = None, *, output: str | os.PathLike[str] | None = None, made: JustCut | None = None,
    **given: Any,
) -> Card:  # fmt: skip
    """The report card of `cut` against `original`: names, paths or loaded models.

    cut: also a folder that another framework runs, for mlx-lm, transformers with compressed-tensors, ONNX Runtime GenAI
        or OpenVINO; it is measured as that computes it, and the card says by what.
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
    from smidgen.measuring.subjects import open_cut

    options, made = replace(options or MeasureOptions(), **given), made or JustCut()
    place = None if output is None else Path(output)
    if place is not None:
        refuse_place(place)
    sources = read_texts(several("texts", texts, TextSource))
    questions = _read_questions(options)
    with open_model(original) as before, open_cut(cut, before, options) as after:
        card = _compare(before, after, sources, options, made)
        card |= _ask(before, after, questions, options)
    card = in_words(card)
    card["made"]["peak_ram_bytes"] = peak_memory()
    return card if place is None else _written(card, place, after.path, alone=not made.making.steps)


def _compare(
    before: Checkpoint, after: Cut, given: Sequence[TextSource], options: MeasureOptions, made: JustCut
) -> Card:
    """The card of two opened models, but for what they answer.

    given: texts; what is missing beside them the original writes.
    """
    import torch

    from smidgen.engines.machine import machine_name
    from smidgen.engines.torch import TorchEngine
    from smidgen.measuring.run import measure_subjects
    from smidgen.measuring.subjects import subject_of
    from smidgen.model.tokenizer import Tokenizer

    engine = TorchEngine(before, options.threads)
    tokenizer = Tokenizer.from_gguf(before.tokenizer_metadata)
    return measure_subjects(
        subject_of(before, before.origin.name, engine), after.subject(made.name), tokenizer,
        _texts(before, engine, tokenizer, given, options, made),
        cut_tokenizer=lambda: Tokenizer.from_gguf(after.tokenizer_metadata),
        noisy=lambda: TorchEngine(before, rounding=torch.bfloat16), keeping=after.keeping,
        speed=after.speeds if options.with_speed else None,
        making=replace(made.making, history=after.history),
        settings={"machine": machine_name(), "threads": torch.get_num_threads()},
    )  # fmt: skip


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


def _ask(before: Checkpoint, after: Cut, questions: Questions | None, options: MeasureOptions) -> dict[str, Any]:
    """What both models answer, as keys of the card; what they have answered before is not asked again."""
    if questions is None and not options.with_answers:
        return {}
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.formats.hub.home import answers_folder
    from smidgen.measuring.subjects import answering

    found: dict[str, Any] = {}
    with ExitStack() as stack:
        original = stack.enter_context(answering(before, options.threads))
        asked = (original, before.sha256()), (stack.enter_context(after.answering()), after.known_as)
        models = [RememberedAnswers(model, known_as, answers_folder()) for model, known_as in asked]
        if questions is not None:
            found["tasks"], found["safety"] = questions.ask(*models)
        if options.with_answers:
            found["answers"] = _side_by_side(before, after, *models)
    return found


def _side_by_side(
    before: Checkpoint, after: Cut, original: RememberedAnswers, cut: RememberedAnswers
) -> dict[str, Any]:
    """Answers to the same prompts, or why there are none: what was measured before is not thrown away."""
    from smidgen.measuring.side_by_side import side_by_side
    from smidgen.measuring.subjects import fit_together
    from smidgen.progress import say

    if not fit_together(before, after.bytes):
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
