"""From what a person wants of the device (size, speed, memory) to bytes of the file.

A token that is generated reads every weight once (of an untied embedding one row), so on one machine the time for it
goes with the bytes. The original is run in llama.cpp here, and its rate in bytes per second says how many bytes the cut
may have. Memory is what stays resident while the model writes: each weight once (see engines/llama_cpp/loading.py), so
the file, and what the engine takes beside it. The peak while it loads may be higher by the weights that llama.cpp
repacks: then their mapped originals are resident too, which the system may drop. Both are estimates; the card has what
the result really does, and `promises` says where that falls short.
"""

from collections.abc import Mapping
from typing import Any

from smidgen.cutting.recipe import CutOptions
from smidgen.engines.llama_cpp.bench import SpeedResult, measure_speed
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import gguf_of
from smidgen.progress import say
from smidgen.sizes import format_size

_MARGIN = 0.93  # small files do not reach the rate of large ones: a token also costs time that reads no weights


def budget_of(checkpoint: Checkpoint, options: CutOptions, *, tied: bool = False) -> int:
    """Bytes of a file that meets all limits of `options`. Runs the original once, for about 10 s.

    tied: the file will have one matrix for embedding and head where the original has two.

    Raises BudgetError where the engine alone takes the memory, or where a speed is wanted and the machine is too busy
    to measure one.
    """
    (measured,) = measure_speed([gguf_of(checkpoint.path)], options.threads, repeats=3, contexts=())
    limits = {"--fit": options.fit, "--speed": _for_speed(checkpoint, options.speed, measured, tied)}
    limits["--ram"] = _for_memory(checkpoint, options.ram, measured)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    name = min(given, key=lambda one: given[one])
    rate = measured["decode_tokens_per_s"]
    speed = "" if rate is None else f"decodes {rate:.1f} tokens/s here and "
    say(
        f"The original {speed}takes {format_size(measured['resident_bytes'])}; "
        f"{name} allows a file of {format_size(given[name])}."
    )
    if options.speed is not None and measured["busy"]["sentence"] is not None:
        say(f"{measured['busy']['sentence']} So the file may become smaller than it had to be.")
    return given[name]


def _for_speed(checkpoint: Checkpoint, wanted: float | None, measured: SpeedResult, tied: bool) -> int | None:
    if wanted is None:
        return None
    if measured["decode_tokens_per_s"] is None:
        raise BudgetError(
            f"How quick the original is here cannot be told: {measured['reason']}. Or say --fit instead of --speed."
        )
    rate = measured["decode_tokens_per_s"] * measured["bytes_per_token"]
    unread = checkpoint.file.size - measured["bytes_per_token"]
    if tied:  # the embedding is read whole then
        unread -= checkpoint.file.tensors[checkpoint.gguf_name("embedding.weight")].nbytes
    return int(_MARGIN * rate / wanted) + unread


def _for_memory(checkpoint: Checkpoint, wanted: int | None, measured: SpeedResult) -> int | None:
    if wanted is None:
        return None
    beside = max(0, measured["resident_bytes"] - checkpoint.file.size)
    if wanted <= beside:
        raise BudgetError(
            f"llama.cpp takes {format_size(beside)} beside the weights of this model, so --ram {format_size(wanted)} "
            "leaves nothing for them. Ask for more."
        )
    return wanted - beside


def promises(options: CutOptions, card: Mapping[str, Any]) -> list[str]:
    """What was asked for and what the card measured, a line each."""
    lines, speed = [], card["speed"]
    for wanted, key, unit, met in (
        (options.speed, "decode_tokens_per_s", "tokens/s", lambda found, asked: found >= asked),
        (options.ram, "resident_bytes", "bytes of memory", lambda found, asked: found <= asked),
    ):
        if wanted is None:
            continue
        found = speed.get(key)
        if found is None:
            lines.append(f"Asked for {wanted:g} {unit}; not measured ({speed.get('reason')}).")
        else:
            verdict = "met" if met(found, wanted) else "missed; ask for more than you need, or a smaller --fit"
            lines.append(f"Asked for {wanted:g} {unit}, measured {found:.4g}: {verdict}.")
    return lines
