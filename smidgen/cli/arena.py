"""`smidgen arena`: which of several models do people, or a judge model, prefer?"""

from pathlib import Path
from typing import Annotated

import typer

from smidgen.cli.options import Debug, EverySeed, Json, Quiet, Threads, show
from smidgen.errors import SmidgenError, printable
from smidgen.shell import path_of

_JUDGED = "Votes from a judge model"
Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="With --votes: names in the files, to rank these alone. With --judge: the models that are to answer.",
        show_default=False,
    ),
]
Votes = Annotated[
    list[Path] | None,
    typer.Option(
        "--votes", metavar="FILE", parser=path_of,
        help="CSV or JSON Lines with model_a, model_b and winner (model_a, model_b, tie, both_bad, a name), or the "
        "SQLite file of `smidgen ui`; repeatable.",
    ),
]  # fmt: skip
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that are of no use, and count them.")]
Anchor = Annotated[
    str | None,
    typer.Option("--anchor", metavar="NAME=1000", help="Fix this model's score.  [default: their mean is 1000]"),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PAGE.html", parser=path_of, help="Write the ranking as a page, too."),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", parser=path_of, rich_help_panel=_JUDGED,
        help="Prompts to answer: one a line, or JSON Lines with prompt.",
    ),
]  # fmt: skip
Judge = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="MODEL", rich_help_panel=_JUDGED, help="The model that compares the answers, in both orders."
    ),
]
VotesOut = Annotated[
    Path | None,
    typer.Option(
        "--votes-out", metavar="FILE.jsonl", parser=path_of, rich_help_panel=_JUDGED, help="New file for its votes."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", rich_help_panel=_JUDGED, help="Ask N of the prompts, drawn by --seed."),
]
MaxTokens = Annotated[
    int,
    typer.Option(
        "--max-tokens", "-n", min=1, max=2048, metavar="N", rich_help_panel=_JUDGED, help="Longest answer, in tokens."
    ),
]


def command(
    models: Models = None,
    votes: Votes = None,
    skip_bad: SkipBad = False,
    anchor: Anchor = None,
    output: Output = None,
    prompts: Prompts = None,
    judge: Judge = None,
    votes_out: VotesOut = None,
    limit: Limit = None,
    max_tokens: MaxTokens = 256,
    seed: EverySeed = 0,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank models by votes between two of them, each with how sure its score is.

    Votes come from files, which people's choices were written to, or from a judge model that compares the models'
    answers to your prompts. Scores are Bradley-Terry on the scale of Elo ratings: 400 points are odds of ten to one.

    \b
    Examples:
      smidgen arena --votes votes.jsonl
      smidgen arena gemma-3-270m gemma-small --votes votes.csv --anchor gemma-3-270m=1000
      smidgen arena smollm2-135m-instruct smollm-small --prompts prompts.txt --judge qwen2.5-coder-1.5b
    """
    from smidgen.measuring.arena.arena import arena

    result = arena(
        models or (), votes=votes or (), skip_bad=skip_bad, prompts=prompts, judge=judge, votes_out=votes_out,
        limit=limit, max_tokens=max_tokens, anchor=None if anchor is None else _anchor(anchor), output=output,
        seed=seed, threads=threads,
    )  # fmt: skip
    show(result, json)
    if output is not None and not json:
        print(f"\nPage: {printable(output)}")


def _anchor(said: str) -> tuple[str, float]:
    """`NAME=1000` → name and score; a name may have = in it."""
    name, _, value = said.rpartition("=")
    try:
        score = float(value)
    except ValueError:
        score = float("nan")
    if not name or not abs(score) < 1e6:
        raise SmidgenError(f"--anchor {printable(said, 60)} is not NAME=SCORE, such as gemma-3-270m=1000.")
    return name, score
