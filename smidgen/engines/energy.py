"""Energy: what a token took, by the counters that this machine has (see energy_counters.py).

Gross is all that the counters counted while the engine worked; net is without what the machine took just before, while
the loaded engine waited: net = gross − idle watts · seconds.

Graphics cards count only where the engine computes on them. A battery counts where nothing else can be read, since it
feeds all the others. Where nothing can be read there is a reason, and the processor time of a token beside it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, TypedDict

from smidgen.closing import Closing
from smidgen.engines.energy_counters import Counter, batteries, gpu_counters, rapl_counters

_JOULES_PER_KWH = 3.6e6

NONE_READABLE = (
    "the RAPL energy counters are readable by root only; "
    "`sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` changes that until the next start"
)
NONE_THERE = "this machine shows no energy counter: no RAPL, and no battery in use"
NO_GPU_COUNTED = (
    "the engine computes on a graphics card, whose energy cannot be read; "
    "for one of NVIDIA's `pip install nvidia-ml-py` may help"
)

Joules = Mapping[str, float]  # by the name of the counter


class EnergyMeter(Closing):
    """All counters of this machine that can be read.  reason: why, if there are none.

    with_gpus: whether the engine computes on graphics cards.
    """

    def __init__(self, with_gpus: bool = False) -> None:
        self._stack = ExitStack()
        counters, refused = rapl_counters()
        self.reason = NONE_READABLE if refused else NONE_THERE
        if with_gpus:
            gpus = gpu_counters()
            counters = [*counters, *gpus] if gpus else []
            self.reason = self.reason if gpus else NO_GPU_COUNTED
        if not counters:
            counters = [self._stack.enter_context(battery) for battery in batteries()]
        self._counters: Sequence[Counter] = counters
        self.idle_watts: Joules | None = None

    def close(self) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """What is counted."""
        return [counter.name for counter in self._counters]

    def read(self) -> Joules | None:
        """What all counters show; None where there are none, or one cannot be read any more."""
        try:
            return {counter.name: counter.joules() for counter in self._counters} or None
        except OSError:
            self.reason, self._counters = "an energy counter could no longer be read", ()
            return None

    def watch_idle(self, before: Joules | None, seconds: float) -> None:
        """Keep as `idle_watts` what was taken since the reading `before`, so many seconds ago."""
        spent = difference(before, self.read())
        self.idle_watts = None if spent is None else {name: joules / seconds for name, joules in spent.items()}


def difference(before: Joules | None, after: Joules | None) -> Joules | None:
    """What was taken between two readings; None unless both are there."""
    if before is None or after is None or before.keys() != after.keys():
        return None
    return {name: after[name] - before[name] for name in after}


class TokenEnergy(TypedDict):
    """What one token takes, medians of the rounds: joules by all counters together and by each, and processor time.

    None where it was not measured; `Energy.reason` says why.
    """

    joules_per_token: float | None
    joules_per_token_net: float | None
    joules_per_token_by_domain: dict[str, float] | None
    cpu_seconds_per_token: float | None


class Energy(TypedDict):
    """joules_per_token: gross, while decoding; null with a reason.  domains: what was counted, see above.

    prefill: of a token that is read in a prompt.  decode: of one that is written.
    idle_watts: of the machine just before, by all counters together.
    """

    joules_per_token: float | None
    reason: str | None
    domains: list[str]
    idle_watts: float | None
    prefill: TokenEnergy
    decode: TokenEnergy


def not_said(reason: str) -> Energy:
    """Nothing at all, where what was counted says nothing about a model: threads that wait in vain compute, too."""
    nothing = TokenEnergy(
        joules_per_token=None, joules_per_token_net=None, joules_per_token_by_domain=None, cpu_seconds_per_token=None
    )
    return Energy(
        joules_per_token=None, reason=reason, domains=[], idle_watts=None, prefill=nothing, decode=nothing
    )  # fmt: skip


class Spent:
    """One round of work: so many tokens, seconds on the clock, seconds of processor time, and joules."""

    def __init__(self, tokens: int, seconds: float, cpu_seconds: float, joules: Joules | None) -> None:
        self.tokens, self.seconds, self.cpu_seconds, self.joules = tokens, seconds, cpu_seconds, joules

    def per_token(self, idle_watts: float = 0.0) -> float | None:
        """Joules, without what so many watts took in that time."""
        if self.joules is None:
            return None
        return (sum(self.joules.values()) - idle_watts * self.seconds) / self.tokens


def energy_of(prefill: Sequence[Spent], decode: Sequence[Spent], meter: EnergyMeter) -> Energy:
    """Put together what some rounds of reading and of writing took."""
    idle = None if meter.idle_watts is None else sum(meter.idle_watts.values())
    read, written = _per_token(prefill, idle), _per_token(decode, idle)
    joules = written["joules_per_token"]
    return Energy(
        joules_per_token=joules,
        reason=None if joules is not None else "the energy counters did not move" if meter.names else meter.reason,
        domains=meter.names if joules is not None else [],
        idle_watts=idle,
        prefill=read,
        decode=written,
    )


def _per_token(rounds: Sequence[Spent], idle_watts: float | None) -> TokenEnergy:
    moved = [one for one in rounds if one.joules is not None and sum(one.joules.values()) > 0]
    return TokenEnergy(
        joules_per_token=_median([one.per_token() for one in moved]),
        joules_per_token_net=None if idle_watts is None else _median([one.per_token(idle_watts) for one in moved]),
        joules_per_token_by_domain={
            name: median([one.joules[name] / one.tokens for one in moved if one.joules is not None])
            for name in moved[0].joules or ()
        }
        if moved
        else None,
        cpu_seconds_per_token=_median([one.cpu_seconds / one.tokens for one in rounds]),
    )


def grams_of_co2(energy: Energy, grams_per_kwh: float) -> dict[str, Any]:
    """For 1000 tokens, gross, with electricity of so many grams a kilowatt hour: what a person has stated."""
    found = {
        kind: None if joules is None else 1000 * joules / _JOULES_PER_KWH * grams_per_kwh
        for kind, joules in (
            ("prefill", energy["prefill"]["joules_per_token"]), ("decode", energy["decode"]["joules_per_token"]),
        )
    }  # fmt: skip
    return {"grid_grams_per_kwh": grams_per_kwh, "grams_per_1000_tokens": found, "reason": energy["reason"]}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
