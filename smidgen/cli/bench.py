"""`smidgen bench`: speed, memory and energy of one model, or of two taking turns."""

import json as json_format
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smidgen.cli.options import KV, Debug, Json, Model, Quiet, Threads, kv_type
from smidgen.errors import printable
from smidgen.model.kept import AS_USUAL, KVType

if TYPE_CHECKING:
    from smidgen.measuring.speed_shown import Row

Versus = Annotated[str | None, typer.Option("--vs", metavar="MODEL", help="A second model to compare with.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, metavar="N", help="Runs of each kind; the median counts.")]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds", min=10, max=86400, metavar="N",
        help="About how long it may take. Default 120, and 60 for each GB of the models.",
    ),
]  # fmt: skip
Grid = Annotated[
    float | None,
    typer.Option(
        "--grid", min=0, max=5000, metavar="G",
        help="Grams of CO2 that a kilowatt hour of your electricity causes: says grams per 1000 tokens.",
    ),
]  # fmt: skip
_LONGEST_NAME = 24


def command(
    model: Model,
    vs: Versus = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    grid: Grid = None,
    threads: Threads = None,
    kv: KV = "f16",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Speed, memory, energy and share of the memory bandwidth limit, in llama.cpp.

    Reads a prompt of 256 tokens and writes 64, five times; then reads prompts of 128, 512 and 2048 tokens and writes 32
    after each, three times or fewer. Two models take turns, so that they meet the same moods of the machine. The limit
    is the speed at which all weights can be read from memory once per token. On a machine that is busy with other work
    the figures are marked, or left out where they would say nothing. --kv is for both models.

    \b
    Examples:
      smidgen bench gemma-3-270m
      smidgen bench gemma-small --vs gemma-3-270m
      smidgen bench gemma-small --grid 380 --json
    """
    from smidgen.bounds import within
    from smidgen.engines.energy import grams_of_co2
    from smidgen.engines.llama_cpp.bench import measure_speed
    from smidgen.formats.convert import gguf_of
    from smidgen.formats.hub.catalogue import origin_of

    within("--grid", grid, 0, 5000, whole=False)  # typer lets NaN pass
    names = [model] if vs is None else [model, vs]
    kept: list[KVType] = [kv_type(kv) for _ in names]
    origins = [origin_of(name) for name in names]
    paths = [gguf_of(origin) for origin in origins]
    found = measure_speed(paths, threads, repeats, seconds=seconds, kv=kept)
    results: list[dict[str, Any]] = [
        {"name": origin.name} | {key: value for key, value in one.items() if key != "path"}
        for origin, one in zip(origins, found, strict=True)
    ]
    if grid is not None:
        for result, one in zip(results, found, strict=True):
            result["energy"] = {**one["energy"], "co2": grams_of_co2(one["energy"], grid)}
    if json:
        print(json_format.dumps({"models": results}))
    else:
        _print_results(names, results, grid)


def _print_results(names: Sequence[str], results: Sequence[dict[str, Any]], grid: float | None) -> None:
    from smidgen.measuring.figures import number
    from smidgen.measuring.speed_shown import (
        co2_rows,
        context_rows,
        energy_rows,
        energy_words,
        memory_rows,
        remarks,
        speed_rows,
    )

    tables = [("", [*speed_rows(results), *memory_rows(results)])]
    tables += [
        (f"with a prompt of {row.context} tokens", [row.read, row.first, row.write]) for row in context_rows(results)
    ]
    tables += [
        ("energy", energy_rows(results)),
        (f"with {number(grid)} g of CO2 for a kilowatt hour", co2_rows(results)),
    ]
    _print_tables(names, tables)
    print()
    first = results[0]
    for name, result in zip(names, results, strict=True):
        if result["share_of_bandwidth_limit"] is not None:
            print(
                f"{printable(name)} reaches {result['share_of_bandwidth_limit']:.0%} of the limit: it reads "
                f"{result['bytes_per_token'] / 1e6:.0f} MB of weights for each token, at "
                f"{result['read_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s."
            )
    for line in (*remarks(results), energy_words(results)):
        print(line)
    if grid is not None and not co2_rows(results):
        print("CO2 is not known, since energy was not measured.")
    rounds = "one round" if first["repeats"] == 1 else f"median of {first['repeats']} rounds (slowest to quickest)"
    if first["kv"] != AS_USUAL:
        rounds += f", keys and values kept as {first['kv']}"
    threads = "1 thread" if first["threads"] == 1 else f"{first['threads']} threads"
    print(f"In {first['seconds']:.0f} s: {rounds}, {threads}, {first['engine']},")
    print(f"{first['machine']}.")


def _print_tables(names: Sequence[str], tables: "Sequence[tuple[str, Sequence[Row]]]") -> None:
    """Rows below each other, models beside each other; of two the first against the second."""
    lines = [["", *(_short(name) for name in names), *(["ratio"] if len(names) > 1 else [])]]
    for title, rows in tables:
        if rows and title:
            lines.append([title])
        for row in rows:
            cells = [
                f"{cell} ({spread})" if spread else cell for cell, spread in zip(row.cells, row.ranges, strict=True)
            ]
            ratio = [row.ratio(0, 1)] if len(names) > 1 else []
            lines.append([f"{'  ' if title else ''}{row.title}", *cells, *ratio])
    table = [line for line in lines if len(line) > 1]
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip())


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
