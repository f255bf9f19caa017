"""Scores of `smidgen arena` on a public file of human comparisons, against arena-rank and a longhand fit.

    python -m benchmarks.arena crowd-comparisons.csv --arena-rank OTHER/bin/python

The file is `crowd-comparisons.csv` of github.com/dustalov/llmfao (CC BY 4.0), or any other that `smidgen arena --votes`
reads. OTHER is an environment of its own with arena-rank in it (`pip install arena-rank`), which pins its versions of
jax and numpy. It is asked twice: as it comes, and with 64 bits and tolerances that let it reach the maximum. The
longhand fit is Newton's method on the likelihood. All have mean 1000; compared is the largest difference of any model,
in points. How wide the intervals are is compared with arena-rank's (a sandwich estimate), as the median ratio.
"""

import csv
import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import options as shared
from benchmarks import record
from smidgen.errors import SmidgenError
from smidgen.measuring.arena.arena import arena
from smidgen.measuring.arena.reading import read_votes

_ARENA_RANK = """
import importlib.metadata, json, sys
if sys.argv[2] == "tight":
    import jax
    jax.config.update("jax_enable_x64", True)
import pandas
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.utils.data_utils import PairDataset

data = PairDataset.from_pandas(pandas.read_csv(sys.argv[1], keep_default_na=False))
options = {"ftol": 1e-15, "gtol": 1e-12, "max_iter": 10000} if sys.argv[2] == "tight" else {}
model = BradleyTerry(n_competitors=len(data.competitors), **options)
found = model.compute_ratings_and_cis(data)
names = [str(name) for name in data.competitors]
print(json.dumps({
    "scores": dict(zip(names, map(float, found["ratings"]))),
    "widths": dict(zip(names, map(float, found["rating_upper"] - found["rating_lower"]))),
    "versions": {name: importlib.metadata.version(name) for name in ("arena-rank", "jax", "numpy")},
}))
"""
_STEPS = 50


def longhand(votes: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    """Newton's method on the log likelihood of all votes. votes: better, worse, weight; both ways for a tie."""
    names = sorted({name for vote in votes for name in vote[:2]})
    place = {name: number for number, name in enumerate(names)}
    theta = np.zeros(len(names))
    for _ in range(_STEPS):
        slope, curvature = np.zeros(len(names)), np.zeros((len(names), len(names)))
        for better, worse, weight in votes:
            i, j = place[better], place[worse]
            missing = 1 / (1 + np.exp(theta[i] - theta[j]))
            slope[i] += weight * missing
            slope[j] -= weight * missing
            bend = weight * missing * (1 - missing)
            curvature[[i, j], [i, j]] += bend
            curvature[[i, j], [j, i]] -= bend
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        theta += step
        if np.abs(step).max() < 1e-12:
            break
    points = 1000 + 400 / np.log(10) * (theta - theta.mean())
    return dict(zip(names, map(float, points), strict=True))


def arena_rank(python: Path, table: Path, how: str) -> dict[str, Any]:
    """Scores and widths of intervals by that library, in its own environment. how: `tight`, or `as it comes`."""
    done = subprocess.run([python, "-c", _ARENA_RANK, table, how], capture_output=True, text=True)
    if done.returncode:
        raise SmidgenError(f"arena-rank failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(file: Path, python: Path, folder: Path) -> dict[str, Any]:
    """All fits of one file of votes."""
    ballots = read_votes([file])
    ranking = arena(votes=file).facts
    rows = [(*vote, count) for vote, count in ballots.counts.items()]
    table = folder / "votes.csv"
    with table.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("model_a", "model_b", "winner"))
        for *vote, count in rows:
            writer.writerows([vote] * count)
    points = [
        (one, other, count * share)
        for a, b, winner, count in rows
        for one, other, share in ((a, b, _share(winner, "model_a")), (b, a, _share(winner, "model_b")))
        if share
    ]
    theirs = {how: arena_rank(python, table, how) for how in ("as it comes", "tight")}
    ours = {one["model"]: one["score"] for one in ranking["models"]}
    widths = {one["model"]: one["interval"][1] - one["interval"][0] for one in ranking["models"]}
    return {
        **record.facts(),
        "file": ranking["votes"]["files"][0],
        "models": len(ours),
        "ties": ranking["votes"]["ties"],
        "versions": {**theirs["tight"]["versions"], "choix": version("choix")},
        "largest_difference_points": {
            "longhand": _apart(ours, longhand(points)),
            **{f"arena-rank, {how}": _apart(ours, found["scores"]) for how, found in theirs.items()},
        },
        "width_of_intervals_to_arena_rank": median(
            width / theirs["tight"]["widths"][name] for name, width in widths.items()
        ),
        "scores": ours,
    }


def _share(winner: str, side: str) -> float:
    return float(winner == side) if winner in ("model_a", "model_b") else 0.5


def _apart(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    return max(abs(ours[name] - theirs[name]) for name in ours)


def show(result: Mapping[str, Any]) -> str:
    """A row for each other fit."""
    differences = result["largest_difference_points"].items()
    return record.table(
        ("against", "largest difference, points"), [(name, f"{apart:.6f}") for name, apart in differences]
    )


def main() -> None:
    """Run the benchmark."""
    parser = shared.parser_of(__doc__, "arena.json")
    parser.add_argument("votes", type=Path, help="file of human comparisons")
    parser.add_argument("--arena-rank", type=Path, required=True, metavar="PYTHON", help="a Python with arena-rank")
    options = parser.parse_args()
    with shared.work_folder("arena") as work:
        result = compare(options.votes, options.arena_rank, work)
    shared.finish(options.output, result, show(result))


if __name__ == "__main__":
    main()
