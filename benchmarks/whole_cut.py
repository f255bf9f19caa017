"""`smidgen cut` as people call it, from start to report card: time, memory with everything counted, bytes, and speed.

This is the part of real_size.py behind `--card`, and described there.
"""

import argparse
import json
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import llama_cpp_tools, record, staged
from benchmarks.artefacts import name_of, sha256
from benchmarks.kept_parts import Parts
from benchmarks.options import environment_of
from benchmarks.process_tree import Watch
from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.errors import SmidgenError
from smidgen.progress import say, track

THEIR_TYPES = ("Q2_K", "Q3_K_S")
_PROMPT, _DECODE = 256, 64  # tokens, as on a card
_OURS = "smidgen"


def cut(options: argparse.Namespace) -> dict[str, Any]:
    """The cut, in a home of its own, so that nothing of an earlier one is taken: the text is written anew."""
    folder, home = (options.work / f"{name}-{options.instructions}" for name in ("cut", "home"))
    log = options.work / f"cut-{options.instructions}.log"
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = record.smidgen("cut", options.original, "--fit", str(options.fit), "-o", folder, "--threads",
                             str(options.threads), "--seed", str(options.seed))  # fmt: skip
    command += ["--tokens", str(options.tokens)] if options.tokens else []
    command += ["--langs", options.langs] if options.langs else []
    environment = environment_of(options.instructions)
    say(f"{record.shown(command)} ({log})")
    taken = staged.run(command, log, {**environment, "SMIDGEN_HOME": str(home)})
    shutil.rmtree(home, ignore_errors=True)
    size = (folder / "model.gguf").stat().st_size
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return {
        "command": record.shown(command), "environment": environment, **vars(taken), "bytes": size,
        "unused_share_of_fit": 1 - size / options.fit, "card": what_the_card_says(card),
    }  # fmt: skip


def what_the_card_says(card: Mapping[str, Any]) -> dict[str, Any]:
    """Of a card what is no sample of text and no list of tensors. The figures of fidelity mean nothing here."""
    names = ("made", "speed", "energy", "notes", "verdict", "fidelity", "settings", "calibration")
    kept = {name: card[name] for name in names if name in card}
    answers = card.get("answers", {})
    return {**kept, "answers": {name: answers.get(name) for name in ("prompts", "form", "tokens", "reason")}}


def their_file(options: argparse.Namespace, tools: llama_cpp_tools.Tools, kind: str) -> Path:
    """Where llama.cpp's file of a type is."""
    made_of = {"original": options.original.name, "type": kind, "llama_cpp": tools.version()}
    return options.work / f"{kind}-{name_of(**made_of)}.gguf"


def quantize(options: argparse.Namespace, tools: llama_cpp_tools.Tools, kind: str) -> dict[str, Any]:
    """llama.cpp's file of a type, without an imatrix: its speed is the same."""
    path = their_file(options, tools, kind)
    command = [tools.quantize, options.original, path, kind, str(options.threads)]
    cost = record.run(command, options.work / "llama-quantize.log")
    return {"command": record.shown(command), "bytes": path.stat().st_size, "cost": cost}


def bench(options: argparse.Namespace, tools: llama_cpp_tools.Tools, files: Mapping[str, Path]) -> dict[str, Any]:
    """llama-bench of each file, in turns whose order is drawn anew: rates, and the memory of its process."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    order = random.Random(options.seed)
    with track("llama-bench", options.repeats * len(files)) as task:
        for _ in range(options.repeats):
            for name in order.sample(list(files), len(files)):
                found[name].append(_bench_once(options, tools, files[name]))
                task.advance()
    return {
        "prompt_tokens": _PROMPT,
        "decode_tokens": _DECODE,
        "files": {name: _of(*all_) for name, all_ in found.items()},
    }


def _of(*turns: dict[str, Any]) -> dict[str, Any]:
    rates = {name: record.spread([turn[name] for turn in turns]) for name in ("prompt", "decode")}
    return {**rates, "peak": max((turn["peak"] for turn in turns), key=lambda held: held.whole)}


def _bench_once(options: argparse.Namespace, tools: llama_cpp_tools.Tools, path: Path) -> dict[str, Any]:
    command = [tools.bench, "-m", path, "-p", str(_PROMPT), "-n", str(_DECODE), "-r", "1", "-o", "json",
               "-t", str(options.threads)]  # fmt: skip
    with (options.work / "llama-bench.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        with Watch(process.pid) as watch:
            try:
                answer, _ = process.communicate()
            except BaseException:
                process.kill()
                process.wait()
                raise
    if process.returncode:
        raise SmidgenError(f"llama-bench failed with {path.name}; see {log.name}.")
    rates = {"decode" if test["n_gen"] else "prompt": test["avg_ts"] for test in json.loads(answer)}
    return {**rates, "peak": watch.peak.held}


def as_smidgen_runs_it(options: argparse.Namespace, files: Mapping[str, Path]) -> dict[str, Any]:
    """The memory of each file while it writes, loaded as `smidgen run` and `serve` load it."""
    names = ("resident_bytes", "resident_parts", "peak_ram_bytes", "loading")
    held = {}
    for name, path in files.items():
        (one,) = measure_speed([path], options.threads, repeats=1, contexts=())
        held[name] = {key: one[key] for key in names}
    return {"context": 512, "files": held}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All parts, as the object that is saved; it is saved after each of them, too."""
    about = {
        **record.facts(llama_cpp=f"{llama_cpp_tools.PACKAGE} {llama_cpp_tools.VERSION}"), "shape": options.shape,
        "model": options.made, "fit": options.fit, "threads": options.threads, "tokens": options.tokens,
        "seed": options.seed, "instructions": options.instructions,
    }  # fmt: skip
    parts = Parts(options.work / "parts.json", lambda found: record.save(options.output, {**about, **found}))
    asked = {name: getattr(options, name) for name in ("fit", "tokens", "threads", "seed", "instructions")}
    ours = options.work / f"cut-{options.instructions}" / "model.gguf"
    parts.measure("cut", lambda: cut(options), ours, original=options.original.name, **asked)
    if options.cut_alone:
        return {**about, **parts.found}
    tools = llama_cpp_tools.find_or_build(options.tools, llama_cpp_tools.BENCH)
    files = {_OURS: ours}
    for kind in THEIR_TYPES:
        path = files[kind] = their_file(options, tools, kind)
        parts.measure(f"quantize {kind}", lambda kind=kind: quantize(options, tools, kind), path, file=path.name)
    made_of = {name: sha256(path) for name, path in files.items()}
    timed = {"threads": options.threads, "repeats": options.repeats, "llama_cpp": tools.version(), "files": made_of}
    parts.measure("llama-bench", lambda: bench(options, tools, files), **timed)
    parts.measure("memory", lambda: as_smidgen_runs_it(options, files), **timed)
    return {**about, **parts.found}


def show(result: Mapping[str, Any]) -> str:
    """The stages of the cut, and the files beside each other."""
    cut = result["cut"]
    rows = [_row(stage["name"], stage, stage["peak_bytes"], stage["peak_anonymous_bytes"]) for stage in cut["stages"]]
    held = cut["peak"]["held"]
    rows.append(_row("all", cut, held["anonymous"] + held["mapped"], cut["peak_anonymous_bytes"]))
    head = ("stage", "seconds", "processor seconds", "memory of all, GB", "of it anonymous, GB")
    told = f"{cut['bytes']:,} bytes, {cut['unused_share_of_fit']:.2%} of --fit unused"
    tables = [record.table(head, rows), told]
    if "memory" in result:
        tables.append(_files(result))
    return "\n\n".join(tables)


def _row(name: str, taken: Mapping[str, Any], *sizes: int | None) -> tuple[str, ...]:
    memory = ("" if size is None else f"{size / 1e9:.2f}" for size in sizes)
    return name, f"{taken['seconds']:.0f}", f"{taken['cpu_seconds']:.0f}", *memory


def _files(result: Mapping[str, Any]) -> str:
    rows = []
    for name, one in result["llama-bench"]["files"].items():
        size = result["cut" if name == _OURS else f"quantize {name}"]["bytes"]
        rates = (f"{one[rate]['median']:.2f} ({one[rate]['lowest']:.2f}-{one[rate]['highest']:.2f})"
                 for rate in ("decode", "prompt"))  # fmt: skip
        peak = one["peak"]["anonymous"] + one["peak"]["mapped"]
        resident = result["memory"]["files"][name]["resident_bytes"]
        rows.append((name, f"{size / 1e9:.2f}", *rates, f"{peak / 1e9:.2f}", f"{resident / 1e9:.2f}"))
    head = ("file", "GB", "decode, tokens/s", "prompt, tokens/s", "llama-bench's peak, GB", "smidgen run, GB")
    return record.table(head, rows)
