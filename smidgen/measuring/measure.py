"""What a cut cost, measured on the files as written.

`measure` is the door for people and for `cut`: it opens files. Everything behind it takes opened models, and knows no
file format, no engine and no cutter. Formats and engines are imported here alone, when `measure` is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.bounds import MOST_SEED, MOST_THREADS, one_of, several, within
from smidgen.errors import SmidgenError
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType, bytes_per_token, keeping_of, refuse_kv

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.data.languages import Language
    from smidgen.data.sources import TextSource
    from smidgen.engines.author import Author
    from smidgen.engines.llama_cpp.speed_result import SpeedResult
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.formats.hub.catalogue import ModelName
    from smidgen.measuring.card import Card
    from smidgen.measuring.run import Subject
    from smidgen.measuring.tasks.questions import Questions
    from smidgen.model.tokenizer import Tokenizer
    from smidgen.shapes import Int

_LEAST_TOKENS = 64
_MEMORY_SHARE = 0.7  # of the machine's memory that two models may take at once


def measure(
    original: ModelName,
    cut: ModelName,
    texts: str | Path | TextSource | Sequence[str | Path | TextSource] = (),
    *,
    languages: str | Sequence[str] = (),
    other_languages: str | Sequence[str] = (),
    tokens: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    with_speed: bool = True,
    with_answers: bool = True,
    tasks: str | Sequence[str] = (),
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    unsafe: bool = False,
    output: str | os.PathLike[str] | None = None,
    calibrated_on: Int[Tensor, "batch position"] | None = None,
    calibration: Sequence[Mapping[str, Any]] = (),
    steps: Sequence[Mapping[str, Any]] = (),
    cost: Mapping[str, Any] | None = None,
    cut_name: str | None = None,
    kv: KVType = AS_USUAL,
) -> Card:
    """The report card of `cut` against `original`: names, paths or loaded models.

    texts: `FILE`, `NAME=FILE`, or read already; one or several.  tokens: to score of each text.
    languages: codes of languages to measure in too; where no text has that name, the original writes one.
    other_languages: the same for languages that the cut was not asked to keep, with fewer tokens of each.
    tasks: names of tasks to ask both models (`mmlu`, `mbpp`, `xstest`, `crows_pairs`, `bbq`, or any of
        lm-evaluation-harness).  data: a folder with local copies of them.  limit: items of each in all, drawn with
        `seed`, as many of each language.
        unsafe: run what a model writes for `mbpp` without a sandbox.
    with_answers: let both models answer a few prompts, and show where they differ most (seconds to two minutes).
    Where neither texts nor languages are given, the original writes a text of its own.
    kv: how the cut keeps keys and values, q8_0 or q4_0 as llama.cpp rounds them: all that the card says of the cut is
        measured with that, and `kv` there says what it costs. The original keeps its own in float.
    output: where to write card.json, with card.html beside it; its folder is made where it is missing.
    calibrated_on, calibration, steps, cost, cut_name: from the cut, if it was just made; see `run.measure_subjects` and
        `card.build_card`.
    Raises SmidgenError before any long work for files that are missing or damaged, a cut whose tokens are not among
    the original's, and languages that are not known or have no text.
    """
    import torch

    from smidgen.data.sources import TextSource, read_texts
    from smidgen.engines.author import Author
    from smidgen.engines.machine import machine_name, peak_memory
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.history import history, kept_layers
    from smidgen.formats.opening import open_model
    from smidgen.measuring.card import in_words, make_place, refuse_place, write_card
    from smidgen.measuring.earlier_card import with_its_making
    from smidgen.measuring.run import DEFAULT_TOKENS, Keeping, measure_subjects, refuse_other_vocabulary
    from smidgen.model.tokenizer import Tokenizer
    from smidgen.owned import renew
    from smidgen.publishing.measured import renew_readme

    within("tokens", tokens, _LEAST_TOKENS)
    within("seed", seed, 0, MOST_SEED)
    within("threads", threads, 1, MOST_THREADS)
    one_of("kv", kv, KV_TYPES)
    tokens = DEFAULT_TOKENS if tokens is None else tokens
    if output is not None:
        refuse_place(Path(output))
    languages, other_languages = several("languages", languages), several("other_languages", other_languages)
    sources = read_texts(several("texts", texts, TextSource))
    questions = _read_questions(several("tasks", tasks), data, limit, seed, unsafe)
    with open_model(original) as before, open_model(cut) as after:
        kept = keeping_of(after.config)
        refuse_kv(kv, kept)
        engine = TorchEngine(before, threads)
        depths = len(before.config.layers), len(after.config.layers)
        layers = kept_layers(before.file.metadata, after.file.metadata, *depths)
        pair = (
            _subject(before, before.origin.name, engine),
            _subject(after, cut_name or after.origin.name, TorchEngine(after, kv=kv), layers),
        )
        refuse_other_vocabulary(*pair)
        tokenizer = Tokenizer.from_gguf(before.tokenizer_metadata)
        with Author(engine, threads) as author:
            writer = _Writer(author, tokenizer, before.sha256(), seed)
            sources, not_asked = writer.complete(sources, languages, other_languages, tokens)
        card = measure_subjects(
            *pair, tokenizer, sources, not_asked=not_asked,
            cut_tokenizer=lambda: Tokenizer.from_gguf(after.tokenizer_metadata),
            tokens=tokens, seed=seed, calibrated_on=calibrated_on,
            noisy=lambda: TorchEngine(before, rounding=torch.bfloat16),
            keeping=Keeping(
                kv, bytes_per_token(kept, kv), bytes_per_token(kept, AS_USUAL),
                None if kv == AS_USUAL else lambda: TorchEngine(after),
            ),
            speed=(lambda: _speeds(before, after, threads, kv)) if with_speed else None,
            steps=steps, calibration=calibration, history=history(after.file.metadata), cost=cost,
            settings={"machine": machine_name(), "threads": torch.get_num_threads()},
        )  # fmt: skip
        card |= _ask(questions, with_answers, before, after, threads, kv)
    card = in_words(card)
    card["made"]["peak_ram_bytes"] = peak_memory()
    if output is not None:
        make_place(Path(output))
        if not steps:  # two finished files were compared
            card = with_its_making(card, Path(output))
        page = write_card(card, Path(output))
        renewed = renew_readme(card, Path(output), after.path)
        renew(page.parent, (Path(output).name, page.name, *renewed))
    return card


def _read_questions(
    names: Sequence[str], data: str | os.PathLike[str] | None, limit: int | None, seed: int, unsafe: bool
) -> Questions | None:
    """What both models are to be asked, checked; None where no task is named."""
    within("limit", limit, 1)
    if not names:
        if data is not None or limit is not None or unsafe:
            raise SmidgenError("data, limit and unsafe are for tasks: name some, such as --tasks mmlu.")
        return None
    from smidgen.measuring.tasks.questions import Questions

    return Questions(names, None if data is None else Path(data), limit, seed, unsafe)


def _ask(
    questions: Questions | None, with_answers: bool, before: Checkpoint, after: Checkpoint, threads: int | None,
    kv: KVType,
) -> dict[str, Any]:  # fmt: skip
    """What both models answer, as keys of the card; what they have answered before is not asked again."""
    if questions is None and not with_answers:
        return {}
    from smidgen.engines.answers import ModelAnswers
    from smidgen.engines.remembered import RememberedAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.hub.home import answers_folder
    from smidgen.model.tokenizer import Tokenizer

    found: dict[str, Any] = {}
    with ExitStack() as stack:
        models = []
        both: tuple[tuple[Checkpoint, KVType], ...] = ((before, AS_USUAL), (after, kv))
        for one, kept in both:
            tokenizer = Tokenizer.from_gguf(one.tokenizer_metadata)
            engine = TorchEngine(one, kv=kept)
            model = stack.enter_context(ModelAnswers(engine, tokenizer, one.path, threads, kept))
            known_as = one.sha256() if kept == AS_USUAL else f"{one.sha256()} {kept}"
            models.append(RememberedAnswers(model, known_as, answers_folder()))
        if questions is not None:
            found["tasks"], found["safety"] = questions.ask(*models)
        if with_answers:
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
    from smidgen.measuring.card import ModelFacts, TensorFacts
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
