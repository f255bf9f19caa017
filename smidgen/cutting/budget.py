"""From what a person wants of the device (size, speed, memory) to limits that a plan can keep to.

Speed. A token that is written reads every matrix once (of an untied embedding one row, of a mixture the experts that
are used), and how long a byte takes depends on its type (`engines.llama_cpp.type_rates`):

    seconds a token = Σ bytes read · seconds a byte of their type + the rest.

The rest (attention, sampling, what threads wait for each other) is what the original takes beyond its own matrices.

Memory is what stays resident while the model writes: each weight once (see engines/llama_cpp/loading.py), and what the
engine takes beside them: keys and values, buffers, vocabulary. That, too, is found with the original. The peak while it
loads may be higher by the weights that llama.cpp repacks: then their mapped originals are resident too, which the
system may drop.

Both are predictions, so a plan is tried before it is carried out (`cutting.rehearsal`). What cannot be had is refused
here, before any work; the card has what the result really does.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.plan import choose_quickest, largest_size, layout, matrices, possible_types, smallest_size
from smidgen.cutting.reach import within_reach
from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.rehearsal import refuse_missed, rehearse
from smidgen.engines.llama_cpp.bench import SpeedResult, measure_speed
from smidgen.engines.llama_cpp.type_rates import type_rates
from smidgen.errors import BudgetError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.traffic import is_table, shares_read
from smidgen.progress import say
from smidgen.sizes import format_size

_TRUSTED = 0.85  # of the seconds there are: a quickest file that needs more is tried before any work
_TOLERANCE = 0.05  # of what was asked
_TINY = 1e-9  # seconds: where nothing is left for the weights, a trial decides


def limits_of(original: Checkpoint, begun: Checkpoint, options: CutOptions, folder: Path) -> Limits:
    """What a file must keep to that does all that `options` ask. Runs the original once, for about 10 s.

    begun: the original as the first step takes it.  folder: for a file that is tried.

    Raises BudgetError where what is asked cannot be had by other types alone and nothing else is to be left out, and
    where a speed is wanted and the machine is too busy to measure one.
    """
    if not options.promised:
        assert options.fit is not None
        return Limits(options.fit, options.pace, options.surveyed_kinds)
    (measured,) = measure_speed([gguf_of(original.path)], options.threads, repeats=3, contexts=(), kv=[options.kv])
    sizes = [size for size in (options.fit, _for_memory(original, begun, options, measured)) if size is not None]
    nbytes = min(sizes, default=largest_size(begun, options.kinds))
    limits = Limits(nbytes, _for_speed(original, begun, options, measured))
    say(_told(measured, limits, options))
    if only_bits(options):
        limits = _possible(begun, limits, options, folder)
    return replace(limits, kinds=within_reach(begun, options.kinds, limits))


def only_bits(options: CutOptions) -> bool:
    """Whether nothing is left out of the model, so that types alone decide what can be had."""
    return set(options.chain) <= {"quantize", "heal"}


def _for_speed(original: Checkpoint, begun: Checkpoint, options: CutOptions, measured: SpeedResult) -> Pace | None:
    if options.speed is None:
        return None
    rate = measured["decode_tokens_per_s"]
    if rate is None:
        raise BudgetError(
            f"How quick the original is here cannot be told: {measured['reason']}. Or say --fit instead of --speed."
        )
    kinds = {kind for possible in possible_types(begun, options.kinds).values() for kind in possible}
    kinds |= {original.file.tensors[tensor].kind for tensor in matrices(original)}
    rates = type_rates({kind.stored for kind in kinds}, options.threads)
    layers = len(original.config.layers)
    kept = (options.pruning.layers or layers) / layers  # of what a token takes beside its weights, too
    rest = kept * max(0.0, 1 / rate - _seconds_of_matrices(original, Pace(1.0, rates)))
    left = 1 / options.speed - rest
    if left <= 0 and not only_bits(options):
        raise BudgetError(
            f"A token of this model takes {1000 * rest:.3g} ms here beside its weights, so --speed {options.speed:g} "
            f"cannot be had. Ask for less than {1 / rest:.3g}."
        )
    return Pace(max(left, _TINY), rates)


def _seconds_of_matrices(checkpoint: Checkpoint, pace: Pace) -> float:
    """That reading them as they are takes for each token."""
    shares, tensors = shares_read(checkpoint.file), checkpoint.file.tensors
    return sum(pace.seconds(tensors[name].kind, shares[name] * tensors[name].nbytes) for name in matrices(checkpoint))


def _for_memory(original: Checkpoint, begun: Checkpoint, options: CutOptions, measured: SpeedResult) -> int | None:
    if options.ram is None:
        return None
    resident = sum(info.nbytes for name, info in original.file.tensors.items() if not is_table(name, original.file))
    beside = max(0, measured["resident_bytes"] - resident)
    if options.ram <= beside and not only_bits(options):
        raise BudgetError(
            f"llama.cpp takes {format_size(beside)} beside the weights of this model, so --ram "
            f"{format_size(options.ram)} leaves nothing for them. Ask for more."
        )
    return options.ram - beside + _not_resident(begun, options)


def _not_resident(begun: Checkpoint, options: CutOptions) -> int:
    """Bytes of a file that are not in memory while it writes: its header, and tables of which single rows are read.

    How large these will be is not known yet: the smallest that they can be.
    """
    tensors = begun.file.tensors
    header = layout(begun, {}).size - sum(info.nbytes for info in tensors.values())
    possible = possible_types(begun, options.kinds)
    tables = [name for name in tensors if is_table(name, begun.file)]
    smallest = [
        min(tensors[name].nbytes * kind.bits_per_weight / tensors[name].kind.bits_per_weight
            for kind in possible.get(name, (tensors[name].kind,)))
        for name in tables
    ]  # fmt: skip
    return header + int(sum(smallest))


def _possible(begun: Checkpoint, limits: Limits, options: CutOptions, folder: Path) -> Limits:
    """The limits, at least as wide as the best possible file needs. Raises BudgetError where that is not good enough.

    Where the arithmetic says that the quickest file will hardly do, that file is tried, and what it does counts.
    """
    smallest = smallest_size(begun, options.kinds)
    if options.ram is not None and smallest > limits.nbytes + _TOLERANCE * options.ram:
        needed = options.ram + smallest - limits.nbytes
        raise BudgetError(
            f"The smallest possible file is {smallest} bytes and takes about {format_size(needed)} of memory here, so "
            f"--ram {format_size(options.ram)} cannot be had. Ask for --ram {format_size(int(1.02 * needed))} or more, "
            "or leave out layers or tokens too."
        )
    pace = limits.pace
    if pace is None or options.speed is None or smallest > limits.nbytes:
        return limits
    quickest = choose_quickest(begun, options.kinds, limits)
    needed = sum(choice.seconds for choice in quickest)
    if needed <= _TRUSTED * pace.limit:
        return limits
    found = rehearse(begun, quickest, folder, options)
    refuse_missed(found, options, "The quickest possible file")
    spare = 0.0 if found.tokens_per_s is None else max(0.0, 1 / options.speed - 1 / found.tokens_per_s)
    return replace(limits, pace=replace(pace, limit=(1 + _TINY) * needed + spare))


def _told(measured: SpeedResult, limits: Limits, options: CutOptions) -> str:
    rate = measured["decode_tokens_per_s"]
    speed = "" if rate is None else f"decodes {rate:.1f} tokens/s here and "
    told = f"The original {speed}takes {format_size(measured['resident_bytes'])} of memory{options.kept_in_words}."
    if limits.pace is not None and options.speed is not None:
        left = "no time" if limits.pace.limit <= _TINY else f"{1000 * limits.pace.limit:.3g} ms"
        told += f" --speed {options.speed:g} leaves {left} of {1000 / options.speed:.3g} ms for the weights of a token."
    if options.fit is not None or options.ram is not None:
        told += f" The file may have {format_size(max(0, limits.nbytes))}."
    if options.speed is not None and measured["busy"]["sentence"] is not None:
        told += f" {measured['busy']['sentence']} So the file may become smaller than it had to be."
    return told


def promises(options: CutOptions, card: Mapping[str, Any]) -> list[str]:
    """What was asked for and what the card measured, a line each."""
    lines, speed = [], card["speed"]
    for wanted, key, unit, met in (
        (options.speed, "decode_tokens_per_s", "tokens/s", lambda found, asked: found >= (1 - _TOLERANCE) * asked),
        (options.ram, "resident_bytes", "bytes of memory", lambda found, asked: found <= (1 + _TOLERANCE) * asked),
    ):
        if wanted is None:
            continue
        found = speed.get(key)
        if found is None:
            lines.append(f"Asked for {wanted:g} {unit}; not measured ({speed.get('reason')}).")
        else:
            verdict = "met" if met(found, wanted) else "missed; ask for more than you need, or a smaller --fit"
            lines.append(f"Asked for {wanted:g} {unit}, measured {found:.4g}{options.kept_in_words}: {verdict}.")
    return lines
