"""Which of several models do people, or a judge model, prefer?

`arena` is the door for people: it opens files and models. Votes come from files, or are made here: the models answer
prompts, and a judge compares the answers. Models are opened one after the other, so that one at a time is in memory.
"""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.atomic import refuse_unwritable, write_whole
from smidgen.bounds import MOST_SEED, MOST_THREADS, several, within
from smidgen.data import json_lines
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.measuring.arena.bradley_terry import require_library
from smidgen.progress import say
from smidgen.votes import Vote, append_vote

if TYPE_CHECKING:
    from smidgen.engines.answers import ModelAnswers
    from smidgen.formats.hub.catalogue import ModelName
    from smidgen.formats.hub.origin import Origin
    from smidgen.measuring.arena.judge import Judging
    from smidgen.measuring.arena.reading import Ballots

_LARGEST_PROMPTS = 64 << 20  # bytes of the file
_MOST_TOKENS = 2048  # of an answer
ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Arena:
    """A ranking. facts: all of it, as plain lists and dicts; what `smidgen arena --json` prints."""

    facts: dict[str, Any]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.facts, ensure_ascii=False)

    def describe(self) -> str:
        """What a person reads."""
        from smidgen.measuring.arena.shown import describe

        return describe(self.facts)


def arena(
    models: Sequence[ModelName] = (),
    *,
    votes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    skip_bad: bool = False,
    prompts: str | os.PathLike[str] | None = None,
    judge: ModelName | None = None,
    votes_out: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    max_tokens: int = ANSWER_TOKENS,
    anchor: tuple[str, float] | None = None,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Arena:
    """Rank models by votes between two of them: from files, or from a judge model.

    From files: `votes`, CSV or JSON Lines with `model_a`, `model_b` and `winner`; `models` are names in them, and all
    are ranked where none are named.  skip_bad: leave out rows that are of no use, and count them.
    From a judge: `models` (two or more names, paths or loaded models) answer the `prompts`, a file with one prompt a
    line or JSON Lines with `prompt`, in at most `max_tokens` each; the `judge` reads each two answers in both orders.
    votes_out: a new file for its votes.  limit: ask so many of the prompts, drawn with `seed`.
    anchor: a model and the score that it shall have; otherwise the mean of the ranked models is 1000.
    output: where to write the ranking as a page (.html).
    seed: of the intervals, which are drawn at random, and of the prompts.
    Raises SmidgenError for files without votes or with bad ones, models that were never compared with one another, and
    options that do not go together.
    """
    from smidgen.measuring.arena.page import refuse_page
    from smidgen.measuring.arena.ranking import rank
    from smidgen.measuring.arena.reading import read_votes

    within("seed", seed, 0, MOST_SEED)
    within("threads", threads, 1, MOST_THREADS)
    within("limit", limit, 1)
    within("max_tokens", max_tokens, 1, _MOST_TOKENS)
    require_library()
    page = None if output is None else Path(output)
    if page is not None:
        refuse_page(page)
    files = [Path(path) for path in several("votes", votes)]
    named = several("models", models)
    if files:
        if judge is not None or prompts is not None or votes_out is not None or limit is not None:
            raise SmidgenError("prompts, judge, votes_out and limit make new votes; give them or votes, not both.")
        only = [os.fspath(one) for one in named]
        return _finished(rank(read_votes(files, skip_bad=skip_bad), only, anchor, seed), page)
    if judge is None or prompts is None:
        raise SmidgenError("There are no votes: give --votes FILE, or --prompts FILE and --judge MODEL to make some.")
    kept = None if votes_out is None else _new_file(Path(votes_out))
    asked = _drawn(read_prompts(Path(prompts)), limit, seed)
    ballots, judging = _hold(named, judge, asked, kept, max_tokens, threads, None if anchor is None else anchor[0])
    if not ballots.total:
        said = (
            f" It said, for example: {printable(judging.unparsed_example, 80)!r}." if judging.unparsed_example else ""
        )
        raise SmidgenError(
            f"{printable(judging.model)} judged no pair: {judging.unparsed} verdicts were not understood, "
            f"{judging.too_long} pairs were too long.{said} Choose a stronger judge."
        )
    return _finished(rank(ballots, (), anchor, seed) | {"judge": judging.as_object()}, page)


def _finished(facts: dict[str, Any], page: Path | None) -> Arena:
    from smidgen.measuring.arena.page import render

    if page is not None:
        write_whole(page, render(facts))
    return Arena(facts)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: JSON Lines with `prompt`, or one a line. Each is asked once.

    Raises BadFile where there are none, and for files that are missing, too large or not UTF-8.
    """
    with _readable(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadFile(f"{printable(path)} is not a regular file; give a file with one prompt a line.")
        if path.stat().st_size > _LARGEST_PROMPTS:
            raise BadFile(f"{printable(path)} is larger than {_LARGEST_PROMPTS >> 20} MiB, too much for prompts.")
    lines = [
        (number, json_lines.decoded(line, f"{printable(path)} line {number}", _refuse) or "")
        for number, line in json_lines.lines(path, _refuse)
    ]
    lines = [(number, text.strip()) for number, text in lines if text.strip()]
    if not lines:
        raise BadFile(f"{printable(path)} is empty; write one prompt a line.")
    found = [text for _, text in lines]
    if found[0].startswith("{"):
        found = [_prompt_in(row.value, row.where) for row in json_lines.objects(path, _refuse)]
    return list(dict.fromkeys(found))


def _prompt_in(row: dict[str, Any], where: str) -> str:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadFile(f"{where} has no text under prompt.")
    return prompt


def _refuse(message: str) -> None:
    raise BadFile(message)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadFile(f"Cannot read {printable(path)}: {error.strerror}.") from error


def _drawn(prompts: list[str], limit: int | None, seed: int) -> list[str]:
    if limit is None or limit >= len(prompts):
        return prompts
    return [prompts[place] for place in sorted(random.Random(seed).sample(range(len(prompts)), limit))]


def _new_file(path: Path) -> Path:
    refuse_unwritable(path)
    if path.exists():
        raise SmidgenError(f"{printable(path)} is there already; choose a new file for the votes.")
    return path


def _hold(
    models: Sequence[Any], judge: ModelName, prompts: Sequence[str], output: Path | None, tokens: int,
    threads: int | None, anchor: str | None,
) -> tuple[Ballots, Judging]:  # fmt: skip
    """Let the models answer and the judge compare. The votes, also in `output`, and what the judge did."""
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.measuring.arena.judge import answer_all, judge_all
    from smidgen.measuring.arena.reading import Ballots

    if len(models) < 2:
        raise SmidgenError("Name at least two models to compare.")
    origins = [origin_of(model) for model in models]
    names = _names(origins)
    if anchor is not None and anchor not in names:
        raise SmidgenError(f"The anchor {printable(anchor, 60)} is none of the models: {', '.join(names)}.")
    judge_origin = origin_of(judge)
    for origin in (*origins, judge_origin):
        _refuse_speechless(origin)
    answers = []
    for name, origin in zip(names, origins, strict=True):
        with _answering(origin, threads) as model:
            answers.append(answer_all(name, model, prompts, tokens))
    ballots = Ballots()

    def keep(vote: Vote) -> None:
        ballots.add(vote.model_a, vote.model_b, vote.winner)
        if output is not None:
            append_vote(output, vote)

    with _answering(judge_origin, threads) as model:
        judging = judge_all(judge_origin.name, model, prompts, answers, keep)
    voted_on = set(ballots.models)
    for name in (name for name in names if name not in voted_on):
        judging.notes.append(f"{printable(name, 60)} is not ranked: no pair with it could be judged.")
    if judge_origin.path in [origin.path for origin in origins]:
        judging.notes.append("The judge is one of the judged models, and models tend to prefer their own answers.")
    if judging.reason is not None:
        judging.notes.append(f"It did not finish: {judging.reason}")
        say(f"The judge did not finish: {judging.reason}")
    return ballots, judging


def _names(origins: Sequence[Origin]) -> list[str]:
    """What the models are called in votes. Raises SmidgenError for the same model twice, and for equal names."""
    names = [origin.name for origin in origins]
    for place, name in enumerate(names):
        if name in names[:place]:
            same = origins[place].path == origins[names.index(name)].path
            what = "is given twice" if same else "is the name of two models; give one of the files another name"
            raise SmidgenError(f"{printable(name, 60)} {what}.")
    return names


def _refuse_speechless(origin: Origin) -> None:
    """Raises SmidgenError for a model without a chat template, before any long work."""
    from smidgen.formats.opening import open_model
    from smidgen.model.chat import chat_template

    with open_model(origin) as checkpoint:
        try:
            chat_template(checkpoint.tokenizer_metadata)
        except SmidgenError as error:
            raise SmidgenError(f"{printable(origin.name, 60)} cannot take part: {error}") from error


@contextmanager
def _answering(origin: Origin, threads: int | None) -> Iterator[ModelAnswers]:
    from smidgen.engines.answers import ModelAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.opening import open_model
    from smidgen.model.tokenizer import Tokenizer

    with open_model(origin) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
        with ModelAnswers(TorchEngine(checkpoint), tokenizer, checkpoint.path, threads) as model:
            yield model
