"""`smidgen bench`: speed and memory of one model, or of two taking turns."""

import json as json_format
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import Debug, Json, Model, Quiet, Threads

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.bench import SpeedResult

Versus = Annotated[str | None, typer.Option("--vs", metavar="MODEL", help="A second model to compare with.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, metavar="N", help="Runs of each kind; the median counts.")]


def command(
    model: Model,
    vs: Versus = None,
    repeats: Repeats = 5,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Speed, memory and share of the memory bandwidth limit, in llama.cpp.

    Reads a prompt of 256 tokens and writes 64, five times. Two models take turns, so that they meet the same moods of
    the machine. The limit is the speed at which all weights can be read from memory once per token.

    \b
    Examples:
      smidgen bench gemma-3-270m
      smidgen bench gemma-small --vs gemma-3-270m
      smidgen bench gemma-small --json
    """
    from smidgen.engines.llama_cpp.bench import measure_speed
    from smidgen.formats.convert import gguf_of
    from smidgen.formats.hub.catalogue import origin_of

    names = [model] if vs is None else [model, vs]
    origins = [origin_of(name) for name in names]
    results = measure_speed([gguf_of(origin) for origin in origins], threads, repeats)
    if json:
        figures = [{key: value for key, value in result.items() if key != "path"} for result in results]
        named = [{"name": origin.name, **one} for origin, one in zip(origins, figures, strict=True)]
        print(json_format.dumps({"models": named}))
        return
    for name, result in zip(names, results, strict=True):
        _print_result(name, result)
    if vs is not None:
        _print_ratio(names, results)
    first = results[0]
    print(f"Median of {repeats} (slowest to quickest), {first['threads']} threads, {first['engine']},")
    print(f"{first['machine']}.")
    if first["energy"]["joules_per_token"] is None:
        print(f"Energy: not measured ({first['energy']['reason']}).")


def _print_result(name: str, result: "SpeedResult") -> None:
    print(name)
    for label, key in (("prompt", "prompt_tokens_per_s"), ("decode", "decode_tokens_per_s")):
        slowest, quickest = result[f"{key}_range"]
        print(f"  {label:<10}{result[key]:>8.1f} tokens/s  ({slowest:.1f} to {quickest:.1f})")
    print(
        f"  {'limit':<10}{result['bandwidth_limit_tokens_per_s']:>8.1f} tokens/s  decode reaches "
        f"{result['share_of_bandwidth_limit']:.0%} of it: {result['bytes_per_token'] / 1e6:.0f} MB per token at "
        f"{result['read_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    )
    print(
        f"  {'memory':<10}{result['resident_bytes'] / 1e6:>8.0f} MB while it writes, "
        f"{result['peak_ram_bytes'] / 1e6:.0f} MB at most, while it loads"
    )
    joules = result["energy"]["joules_per_token"]
    if joules is not None:
        print(f"  {'energy':<10}{joules:>8.2f} J/token, the whole processor")


def _print_ratio(names: list[str], results: "list[SpeedResult]") -> None:
    one, other = results
    print(
        f"{names[0]} against {names[1]}: decode {one['decode_tokens_per_s'] / other['decode_tokens_per_s']:.2f} times, "
        f"prompt {one['prompt_tokens_per_s'] / other['prompt_tokens_per_s']:.2f} times, "
        f"memory {one['resident_bytes'] / other['resident_bytes']:.2f} times."
    )
