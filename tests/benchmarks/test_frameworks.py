"""The comparison of frameworks: what is said of which folder. (What they compute is measured by the command itself.)"""

from pathlib import Path

import pytest

from benchmarks import framework_tools, frameworks, frameworks_shown
from benchmarks.bootstrap import Article
from benchmarks.frameworks import Folder

SPREAD = {"median": 10.0, "lowest": 9.0, "highest": 11.0, "runs": 3}


def folder(whose: str, *kls: float) -> Folder:
    articles = [Article(100 * place, 50, kl) for place, kl in enumerate(kls)]
    figures = {"kl_mean": sum(kls) / len(kls), "same_top1": 0.9}
    return Folder("mlx", whose, Path("folder"), {}, figures, articles)


def test_a_ratio_is_of_ours_to_their_own() -> None:
    found = frameworks.ratios([folder("smidgen", 0.1, 0.2), folder("its own quantizer", 0.2, 0.4)])
    assert found == {"mlx": {"ratio": pytest.approx(0.5), "interval": pytest.approx((0.5, 0.5))}}


def test_where_there_is_no_other_there_is_no_ratio() -> None:
    assert frameworks.ratios([folder("smidgen", 0.1)]) == {}


def test_every_folder_has_a_row() -> None:
    ours, theirs = folder("smidgen", 0.1, 0.2), folder("its own quantizer", 0.2, 0.4)
    ours.figures["to_our_decoder"] = {"kl_mean": 1e-9, "largest_difference": 3e-5}
    keys = ("load_seconds", "prompt_tokens_per_s", "decode_tokens_per_s", "peak_bytes")
    ours.figures["speed"] = dict.fromkeys(keys, SPREAD)
    told = [
        {"runtime": one.runtime, "whose": one.whose, "bytes": 10**8, "figures": one.figures} for one in (ours, theirs)
    ]
    cut = {"bytes": 9 * 10**7, "kl_mean": 0.15, "same_top1": 0.9}
    shown = frameworks_shown.table(
        [{"name": "tiny", "cut": cut, "folders": told, "ratios": frameworks.ratios([ours, theirs])}]
    )
    head, _, of_file, of_ours, of_theirs = shown.splitlines()
    assert len({line.count("|") for line in (head, of_file, of_ours, of_theirs)}) == 1
    assert "| 0.50 (0.50 to 0.50) |" in of_ours and "| 3e-05 | 10.0 | 10.0 | 10.0 | 0 |" in of_ours
    assert "mlx-lm: its own quantizer" in of_theirs and "0.50" not in of_theirs


def test_tools_are_asked_for_four_bits_in_groups_of_32() -> None:
    for runtime in framework_tools.PACKAGES:
        words = framework_tools.command(runtime, Path("python"), Path("original"), Path("new"))
        assert words[0] == "python" and "32" in " ".join(words) and "4" in " ".join(words)
