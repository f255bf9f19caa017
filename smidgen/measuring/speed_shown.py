"""Speed, memory and energy as rows of a table, for the page of a card and for the terminal.

One or two models side by side, each as `engines.llama_cpp.bench.measure_speed` gives it or as a card keeps it. Cards of
earlier versions lack some keys: rows of which nothing is known are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.measuring.figures import number, size

Model = Mapping[str, Any]
_UNKNOWN = "–"


@dataclass(frozen=True)
class Row:
    """One figure of each model.  unit: `bytes` are shown as people write sizes.

    values, bounds: one for each model: the median, and the least and the most of the rounds; None where not known.
    """

    label: str
    unit: str
    values: tuple[float | None, ...]
    bounds: tuple[tuple[float, float] | None, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The figure of each model in words, without the unit."""
        return tuple(_UNKNOWN if value is None else self._words(value) for value in self.values)

    @property
    def ranges(self) -> tuple[str, ...]:
        """From the least to the most of the rounds, or nothing where there was but one."""
        return tuple(
            "" if bounds is None or bounds[0] == bounds[1] else " to ".join(map(self._words, bounds))
            for bounds in self.bounds
        )

    def ratio(self, of: int, against: int) -> str:
        """One model's figure against another's, such as `2.1×`, by their places; nothing where one is not known."""
        one, other = self.values[of], self.values[against]
        return f"{number(one / other)}×" if one is not None and other else ""

    @property
    def title(self) -> str:
        """The label with its unit."""
        return self.label if self.unit == "bytes" else f"{self.label}, {self.unit}"

    def _words(self, value: float) -> str:
        return size(value) if self.unit == "bytes" else number(value)


@dataclass(frozen=True)
class ContextRow:
    """What was measured with a prompt of `context` tokens: reading it, writing after it, time to the first token."""

    context: int
    read: Row
    write: Row
    first: Row


def models_of(card: Mapping[str, Any]) -> list[Model]:
    """The original, where it was measured, and the cut."""
    speed, energy = card["speed"], card["energy"]
    cut = speed | {"energy": energy}
    original = speed.get("original")
    return [cut] if original is None else [original | {"energy": energy.get("original") or {}}, cut]


def speed_rows(models: Sequence[Model]) -> list[Row]:
    """With a short context."""
    read, written = (models[-1].get(key, usual) for key, usual in (("prompt_tokens", 256), ("decode_tokens", 64)))
    return _known(
        _row(models, f"reading {read} tokens", "tokens/s", "prompt_tokens_per_s"),
        _row(models, "first token after them", "s", "time_to_first_token_s"),
        _row(models, f"writing {written} tokens", "tokens/s", "decode_tokens_per_s"),
        _row(models, "limit of this memory", "tokens/s", "bandwidth_limit_tokens_per_s"),
    )


def memory_rows(models: Sequence[Model]) -> list[Row]:
    """Memory of the engine's process."""
    return _known(
        _row(models, "memory, writing", "bytes", "resident_bytes"),
        _row(models, "memory, loading", "bytes", "peak_ram_bytes"),
    )


def context_rows(models: Sequence[Model]) -> list[ContextRow]:
    """By the length of the prompt, shortest first."""
    found = [{entry["context"]: entry for entry in model.get("by_context") or ()} for model in models]
    return [
        ContextRow(
            context,
            _row([one.get(context, {}) for one in found], "reading", "tokens/s", "prompt_tokens_per_s"),
            _row([one.get(context, {}) for one in found], "writing", "tokens/s", "decode_tokens_per_s"),
            _row([one.get(context, {}) for one in found], "first token", "s", "time_to_first_token_s"),
        )
        for context in sorted(set().union(*found))
    ]


def energy_rows(models: Sequence[Model]) -> list[Row]:
    """What one token takes; processor time alone where no energy could be read."""
    rows = list[Row]()
    for kind, does in (("prefill", "reading"), ("decode", "writing")):
        one = [(model.get("energy") or {}).get(kind) or {} for model in models]
        rows += [
            _row(one, f"{does} a token", "joules", "joules_per_token"),
            _row(one, f"{does} a token, net of idle", "joules", "joules_per_token_net"),
            _row(one, f"{does} a token", "ms of processor time", "cpu_seconds_per_token", factor=1000),
        ]
    return _known(*rows)


def co2_rows(models: Sequence[Model]) -> list[Row]:
    """For 1000 tokens, where somebody stated how much a kilowatt hour causes."""
    grams = [((model.get("energy") or {}).get("co2") or {}).get("grams_per_1000_tokens") or {} for model in models]
    return _known(
        _row(grams, "reading 1000 tokens", "g of CO2", "prefill"),
        _row(grams, "writing 1000 tokens", "g of CO2", "decode"),
    )


def energy_words(models: Sequence[Model]) -> str:
    """What was counted, or why nothing was."""
    energy = models[-1].get("energy") or {}
    if energy.get("joules_per_token") is None:
        return f"Energy was not measured: {energy.get('reason') or 'no reason given'}."
    named, idle = ", ".join(energy.get("domains") or ()), energy.get("idle_watts")
    said = [f"Energy counted by: {named}." if named else "Energy of the whole processor."]
    if idle is not None:
        said.append(f"Idle it takes {number(idle)} W.")
    if (models[-1].get("busy") or {}).get("sentence"):
        said.append("What other programs took meanwhile is counted, too.")
    return " ".join(said)


def remarks(models: Sequence[Model]) -> list[str]:
    """What to know beside the rates: why there are none, or how busy the machine was; and what was left out.

    Models take turns, so one sentence is enough: of the one that had less of the processors.
    """
    said = [f"Speed was not measured: {model['reason']}." for model in models if model.get("reason")]
    busy = [model["busy"] for model in models if (model.get("busy") or {}).get("sentence")]
    if busy and not said:
        said.append(min(busy, key=lambda one: 1.0 if one["share"] is None else one["share"])["sentence"])
    said += [entry.get("note") for model in models for entry in model.get("by_context") or ()]
    said += [line for model in models for line in model.get("left_out") or ()]
    return list(dict.fromkeys(filter(None, said)))


def _row(models: Sequence[Model], label: str, unit: str, key: str, factor: float = 1.0) -> Row:
    values = [model.get(key) for model in models]
    bounds = [model.get(f"{key}_range") for model in models]
    return Row(
        label,
        unit,
        tuple(None if value is None else factor * value for value in values),
        tuple(None if pair is None else (pair[0], pair[1]) for pair in bounds),
    )


def _known(*rows: Row) -> list[Row]:
    return [row for row in rows if any(value is not None for value in row.values)]
