"""What a distillation needs before its training, done by many workers of a Ray cluster (`distillation.team.cluster`).

The teacher writes text, where none is given, and says what it thinks of each row, where that is to be kept on disk.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from smidgen.atomic import write_whole
from smidgen.data.self_written import self_written
from smidgen.data.sources import TextSource
from smidgen.data.text import WINDOW
from smidgen.distillation.teachers.live import Teacher
from smidgen.distillation.team.cluster import Job, cache_on_ray, map_on_ray
from smidgen.distillation.team.team import Alone
from smidgen.distillation.text.batch import Batches
from smidgen.engines.torch import TorchEngine
from smidgen.formats.hub.catalogue import cache_folder, origin_of
from smidgen.formats.opening import open_model
from smidgen.model.tokenizer import Tokenizer
from smidgen.publishing.companions import WORK
from smidgen.training.day import day_of
from smidgen.training.lesson import DistillOptions, Lesson
from smidgen.training.text import self_written_tokens

_SEEDS_APART = 1_000_003  # so that the jobs of one seed are not those of the next
_TOKENS_A_JOB = 2**14  # 32 windows, which are written together


def for_any_folder(model: str) -> str:
    """A model's name that means the same to processes which run in another folder."""
    return origin_of(model).given


def prepared_on_ray(
    teacher: str, student: str | None, output: Path, options: DistillOptions, workers: int, address: str, *,
    resume: bool,
) -> tuple[DistillOptions, bool]:  # fmt: skip
    """Do what needs no training. What is left to do: the options, with text in them, and whether to resume.

    Raises what `distill` does, for the same reasons.
    """
    if not options.texts and not options.data:
        tokens = self_written_tokens(options.steps * options.batch * (options.context or WINDOW))
        options = replace(options, texts=(written_on_ray(teacher, tokens, options.seed, workers, address),))
    if not options.cache_teacher:
        return options, resume
    with ExitStack() as stack:
        day = day_of(output / WORK, resume, Alone())
        lesson = Lesson.open(teacher, student, options, stack, day)
        workspace = lesson.open_workspace(output, resume)
        _, steps = lesson.asked()
        opened = partial(_teacher_and_batches, teacher, student, options, day)
        cache_on_ray(
            opened, steps, lesson.cache_folder(workspace), workers, address, **lesson.cache_settings(),
        )  # fmt: skip
    return options, True  # with what is in the workspace


def _teacher_and_batches(
    teacher: str, student: str | None, options: DistillOptions, day: datetime
) -> tuple[Teacher, Batches]:
    """What a worker that caches a teacher loads, and has open as long as it lives."""
    lesson = Lesson.open(teacher, student, options, ExitStack(), day)
    return lesson.teacher(lesson.live_teacher()), lesson.asked()[0]


def written_on_ray(
    model: str, tokens: int, seed: int, workers: int, address: str, *, tokens_a_job: int = _TOKENS_A_JOB
) -> TextSource:
    """About `tokens` tokens of `self_written` calibration text: the same whatever the number of workers.

    Each job draws from a seed of its own, and is kept in the cache of the host that did it; all of it in ours.
    """
    with open_model(model) as checkpoint:
        name = f"{checkpoint.sha256()[:16]}-{seed}-{tokens}-in-{tokens_a_job}.txt"
    kept = cache_folder() / "self-written" / name
    if not kept.exists():
        jobs: list[Job] = [
            {"seed": seed * _SEEDS_APART + place, "tokens": min(tokens_a_job, tokens - start)}
            for place, start in enumerate(range(0, tokens, tokens_a_job))
        ]
        pieces = map_on_ray(partial(author, model), jobs, workers, address, label="Writing text")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, "\n\n".join(piece["text"] for piece in pieces))
    return TextSource.of("self-written", kept.read_bytes().decode("utf-8"))  # every line end as it is


def author(model: str) -> Callable[[Job], Job]:
    """Does a job of `written_on_ray`, with the model loaded."""
    checkpoint = open_model(model)
    engine, tokenizer = TorchEngine(checkpoint), Tokenizer.from_gguf(checkpoint.tokenizer_metadata)

    def write(job: Job) -> Job:
        source = self_written(
            engine, tokenizer, checkpoint.sha256(), job["tokens"], job["seed"], "calibration",
            cache_folder() / "self-written",
        )  # fmt: skip
        return {"text": source.text}

    return write
