"""Whether `smidgen cut --speed` and `--ram` do what was asked: whole cuts, and what their cards measured.

    python -m benchmarks.promises smollm2-135m-instruct gemma-3-270m --text FILE

Each model is run as it is. Then it is asked to be so many times as quick (`--quicker`), and to take such a part of the
memory (`--share`); each is a cut of its own, from the command line to the card. What was asked is met if the card is
within 5% of it, or if it was refused before any work, with the best that can be had. A cut that is worse than that was
a promise not kept, and the exit code is 1.

Speeds mean nothing on a busy machine: there the cut refuses to measure, and so does this.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import options, record
from benchmarks.speeds import rates
from smidgen.formats.convert import gguf_of

_TOLERANCE = 0.05
_REFUSED = 2


def asked(name: str, option: str, value: float, chosen: argparse.Namespace) -> dict[str, Any]:
    """One cut: what was asked, and what became of it.  value: tokens a second, or bytes."""
    said = f"{value:.4g}" if option == "--speed" else f"{value:.0f}"
    with TemporaryDirectory() as folder:
        command = record.smidgen(
            "cut", name, option, said, "--text", chosen.text, "--tokens", str(chosen.tokens),
            "--threads", str(chosen.threads), "--json", "-o", str(Path(folder) / "cut"),
        )  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    known = {"command": record.shown(command), "option": option, "asked": float(said), "seconds": seconds}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        refused = done.returncode == _REFUSED
        best_is_named = refused and "ask for" in last.lower()
        return {**known, "measured": None, "refused": last, "kept": best_is_named or (None if refused else False)}
    return known | measured(option, float(said), json.loads(done.stdout))


def measured(option: str, wanted: float, result: dict[str, Any]) -> dict[str, Any]:
    """What the card says of it.  kept: within 5%; None where the machine was too busy to say."""
    speed = result["card"]["speed"]
    found = speed["decode_tokens_per_s" if option == "--speed" else "resident_bytes"]
    short = None if found is None else (wanted / found if option == "--speed" else found / wanted) - 1
    return {
        "measured": found, "short": short, "kept": None if short is None else short <= _TOLERANCE, "refused": None,
        "bytes": result["bytes"], "plan": result["plan"], "kl_mean": result["card"]["fidelity"][0]["kl_mean"],
        "busy": speed["busy"],
    }  # fmt: skip


def promises(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One model, and all that is asked of it."""
    (original,) = rates([gguf_of(name)], chosen.threads, chosen.repeats)
    speed, memory = original["decode_tokens_per_s"], original["resident_bytes"]
    assert speed is not None
    wanted = [("--speed", factor * speed) for factor in chosen.quicker]
    wanted += [("--ram", share * memory) for share in chosen.share]
    found = []
    for option, value in wanted:
        found.append(asked(name, option, value, chosen))
        print(show({"models": [{"model": name, "asked": found[-1:]}]}), file=sys.stderr)
    return {"model": name, "decode_tokens_per_s": speed, "resident_bytes": memory, "asked": found}


def show(result: dict[str, Any]) -> str:
    """A row for each cut."""
    rows = []
    for model in result["models"]:
        for one in model["asked"]:
            unit, scale = ("tokens/s", 1.0) if one["option"] == "--speed" else ("MB", 1e6)
            figure = "refused" if one["measured"] is None else f"{one['measured'] / scale:.1f} {unit}"
            verdict = {True: "kept", False: "not kept", None: "not measured"}[one["kept"]]
            size = f"{one['bytes'] / 1e6:.1f}" if "bytes" in one else ""
            rows.append((model["model"], one["option"], f"{one['asked'] / scale:.1f} {unit}", figure, size, verdict))
    return record.table(("model", "option", "asked", "measured", "file, MB", ""), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = options.parser_of(__doc__, "promises.json")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", type=Path, required=True, help="to calibrate and to measure on")
    parser.add_argument("--tokens", type=int, default=2048, help="of calibration")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quicker", type=float, nargs="*", default=[1.05, 1.2, 2.0], help="times the original's speed")
    parser.add_argument("--share", type=float, nargs="*", default=[0.9, 0.8, 0.3], help="of the original's memory")
    chosen = parser.parse_args(arguments)
    settings = {"threads": chosen.threads, "tokens": chosen.tokens, "text": chosen.text.name}
    result = {**record.facts(**settings), "models": [promises(name, chosen) for name in chosen.models]}
    record.save(chosen.output, result)
    print(show(result))
    return int(any(one["kept"] is False for model in result["models"] for one in model["asked"]))


if __name__ == "__main__":
    sys.exit(main())
