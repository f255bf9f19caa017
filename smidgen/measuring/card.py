"""The report card as data: `card.json`, schema 1 (DESIGN 5). Keys may be added, never change meaning.

What was not measured is null beside a "reason"; nothing here estimates. Added to the contract's keys: `cut.tensors`,
every tensor of the cut with its type in both files; `speed.original`, the same figures for the original;
`speed.resident_bytes`, what stays in memory while the model writes, and its parts (`peak_ram_bytes` is the most it
takes, while it loads); `speed.by_context`, `time_to_first_token_s`, `busy` and `left_out`, and in `energy` the domains
and what a token takes, `prefill` and `decode` apart (engines/llama_cpp/speed_result.py, engines/energy.py); `made`,
where the card is from; `history`, the steps that the cut's own file tells of; and in each text `windows`, `bytes`,
`kl_standard_error`, `seen_in_calibration`, `asked`, `self_written`, and what became of its tokens: `dropped_mass`,
`padding_mass_original`, `padding_mass_cut`, `aligned`, `tokens_dropped`, `tokens_per_byte_original`,
`tokens_per_byte_cut` (measuring/divergence.py); `calibration`, how many tokens of each text the cut learned from;
`kl_median`, `kl_p90` and `by_sureness` of each text; `noise_floor`, how far the original is from itself where it is
computed in 16 bits; `parts`, the bytes of each part of the model in both files (parts.py); `answers`, answers to the
same prompts that lost most (side_by_side.py); `verdict` and `notes`, the words of the page; `kv`, how the cut kept
keys and values while it was measured (`type`), bytes of a token in all layers, so and in float16, and on the same
windows of the first text the KL divergence with that cache, with one that is not rounded, and their difference;
`cut.runtime`, where another framework computed the cut, its packages with their versions: of such a folder `tensors`
and `parts` are empty, and `parameters` may be null.

`languages` has every text whose language is known, also those that the cut was not asked to keep (`asked` is false),
which are not in `fidelity`.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from smidgen.atomic import refuse_unmakeable, refuse_unwritable, write_whole
from smidgen.errors import SmidgenError, printable
from smidgen.measuring.facts import NOT_KNOWN, Fidelity, Making, ModelFacts, TensorFacts
from smidgen.measuring.notes import notes
from smidgen.measuring.parts import bytes_by_part
from smidgen.measuring.verdict import judged
from smidgen.owned import refuse_others

SCHEMA = 1
Card = dict[str, Any]
SPEED_KEYS = (
    "prompt_tokens_per_s", "decode_tokens_per_s", "resident_bytes", "peak_ram_bytes", "threads", "machine", "engine"
)  # fmt: skip
KV_COST = ("text", "tokens", "kl_mean", "kl_mean_f16", "kl_difference")
_HISTORY_LENGTH = 2**16  # characters of JSON
_HISTORY_STEPS, _HISTORY_KEYS, _HISTORY_CHARACTERS, _LARGEST_NUMBER = 32, 16, 300, 1e18
_OWN_KEYS = {"original", "cut", "fidelity", "languages", "speed", "made"}  # every card has these
_OWN_PAGE = b'<meta name="generator" content="smidgen">'  # as in page/card.html.j2, near its beginning
_LARGEST_CARD, _HEAD_OF_PAGE = 2**26, 2**12  # bytes
_VERSIONS = ("smidgen", "torch", "xllamacpp", "gguf", "tokenizers", "numpy")


def build_card(
    original: ModelFacts,
    cut: ModelFacts,
    fidelity: Sequence[Fidelity],
    *,
    making: Making = NOT_KNOWN,
    noise_floor: Mapping[str, Any] | None = None,
    kv: Mapping[str, Any] | None = None,
    speed: Sequence[Mapping[str, Any]] | None = None,
    speed_reason: str = "not asked for",
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Everything that is known about a cut.

    noise_floor: the original against itself, computed in 16 bits; None where that was not measured.
    kv: how the cut kept keys and values, and what that cost; None where that is not known.
    speed: of the original (if this machine can run it) and of the cut, as `engines.llama_cpp.bench.measure_speed` gives
    it; else `speed_reason`.
    settings: of the measurement (seed, threads, …).
    """
    card: Card = {
        "schema": SCHEMA,
        "original": original.figures(),
        "cut": cut.figures() | {"tensors": _types_side_by_side(original, cut)},
        "parts": bytes_by_part(original, cut) if cut.tensors else {},
        "steps": [dict(step) for step in making.steps],
        "calibration": [dict(text) for text in making.calibration],
        "history": bounded_history(making.history),
        "fidelity": [text.entry() for text in fidelity if text.asked],
        "noise_floor": None if noise_floor is None else dict(noise_floor),
        "kv": _or_nothing(kv, ("type", "bytes_per_token", "bytes_per_token_f16", *KV_COST), "not known"),
        "languages": _languages(fidelity),
        "tasks": {},
        "safety": {},
        "answers": {"reason": "not asked for"},
        "speed": _speed(speed, speed_reason),
        "energy": _energy(speed, speed_reason),
        "cost": _or_nothing(making.cost, ("seconds", "peak_ram_bytes"), "only compared, not cut here"),
        "made": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
            **(settings or {}),
        },
    }
    return in_words(card)


def _or_nothing(figures: Mapping[str, Any] | None, keys: Sequence[str], reason: str) -> dict[str, Any]:
    """Figures as they are; where there are none, these keys and why."""
    return dict(figures) if figures else {**dict.fromkeys(keys), "reason": reason}


def in_words(card: Card) -> Card:
    """The card with the words that its figures give; said anew once figures were added."""
    return card | {"verdict": judged(card), "notes": notes(card)}


def bounded_history(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The history of a file that may come from a stranger.

    As it is where that is short; else so many steps, each with only so many short values.
    """
    try:
        if len(json.dumps(list(steps), ensure_ascii=False, allow_nan=False)) <= _HISTORY_LENGTH:
            return [dict(step) for step in steps]
    except (ValueError, RecursionError):  # infinite, or thousands of digits
        pass
    return [
        {printable(key, 40): _bounded(value) for key, value in list(step.items())[:_HISTORY_KEYS]}
        for step in steps[:_HISTORY_STEPS]
    ]


def _bounded(value: Any) -> str | int | float | bool | None:
    """A plain value as it is, anything else as a short text."""
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER):
        return value
    return printable(value, _HISTORY_CHARACTERS)


def refuse_place(path: Path) -> None:
    """Raises SmidgenError where `make_place` and `write_card` could not write, or would replace what is no card.

    Reads little and writes nothing, so it can be asked before the work.
    """
    refuse_unmakeable(path.parent, "Choose another place with -o.")
    if path.parent.exists():
        refuse_unwritable(path)
        refuse_unwritable(path.with_suffix(".html"))
    refuse_replacing(path)


def make_place(path: Path) -> None:
    """Make the folder of a card that is to be written, where it is missing."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{printable(folder)} cannot be made: {error.strerror}"
        raise SmidgenError(f"{why}. Choose another place with -o.") from error


def refuse_replacing(path: Path) -> None:
    """Raises SmidgenError where a card at `path` would replace a file, there or at its page's, that is no such card.

    Reads little and writes nothing, so it can be asked before the work.
    """
    refuse_others(path.parent, (path.name, path.with_suffix(".html").name), _is_card_or_page)


def _is_card_or_page(path: Path) -> bool:
    """Whether a file is what `write_card` writes, by its content."""
    try:
        if not path.is_file():
            return False
        if path.suffix == ".html":
            with path.open("rb") as page:
                return _OWN_PAGE in page.read(_HEAD_OF_PAGE)
        if path.stat().st_size > _LARGEST_CARD:
            return False
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and card.get("schema") == SCHEMA and card.keys() >= _OWN_KEYS


def write_card(card: Card, path: Path) -> Path:
    """Write `path` (JSON) and the page beside it with the ending .html; returns the page's path.

    Each file appears whole or not at all. Raises SmidgenError where they cannot be written.
    """
    from smidgen.measuring.report import render

    page = path.with_suffix(".html")
    write_whole(path, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(page, render(card))
    return page


def _types_side_by_side(original: ModelFacts, cut: ModelFacts) -> list[dict[str, Any]]:
    """Each tensor of the cut beside the one that it was in the original, where that is known."""
    before = {_place(tensor, tensor.layer): tensor for tensor in original.tensors}
    entries: list[dict[str, Any]] = []
    for tensor in cut.tensors:
        layer = None if tensor.layer is None or cut.layers is None else cut.layers[tensor.layer]
        source = before.get(_place(tensor, layer))
        entries.append(
            {
                "name": tensor.name,
                "layer": tensor.layer,
                "original_layer": layer,
                "role": tensor.role,
                "kind": tensor.kind,
                "bits_per_weight": tensor.bits_per_weight,
                "parameters": tensor.parameters,
                "bytes": tensor.bytes,
                "original_kind": None if source is None else source.kind,
                "original_bytes": None if source is None else source.bytes,
            }
        )
    return entries


def _place(tensor: TensorFacts, layer: int | None) -> tuple[int | None, str]:
    """Where a tensor is in a model, whatever the number of its layer in the file: by role, else by name."""
    return layer, tensor.role or tensor.name


def _languages(fidelity: Sequence[Fidelity]) -> dict[str, Any]:
    """The texts whose language is known, the one that lost most first.

    By KL divergence; where the vocabulary was trimmed, by the rise in bits per byte, since KL then leaves out what the
    missing tokens cost.
    """
    named = [text for text in fidelity if text.language is not None]
    trimmed = any(text.figures.get("dropped_mass") for text in named)
    named.sort(key=lambda text: -(_rise(text.figures) if trimmed else float(text.figures["kl_mean"] or 0.0)))
    return {str(text.language): text.entry() for text in named}


def _rise(figures: Mapping[str, float | int | None]) -> float:
    return float(figures["bits_per_byte_cut"] or 0.0) - float(figures["bits_per_byte_original"] or 0.0)


def _speed(speed: Sequence[Mapping[str, Any]] | None, reason: str) -> dict[str, Any]:
    """The cut's figures under the contract's keys, the original's under "original"."""
    if speed is None:
        nothing: dict[str, Any] = dict.fromkeys(SPEED_KEYS)
        return nothing | {"reason": reason, "original": None}
    *original, cut = ({key: value for key, value in one.items() if key not in ("path", "energy")} for one in speed)
    return cut | {"original": original[0] if original else None}


def _energy(speed: Sequence[Mapping[str, Any]] | None, reason: str) -> dict[str, Any]:
    if speed is None:
        return {"joules_per_token": None, "reason": reason}
    *original, cut = (dict(one["energy"]) for one in speed)
    return cut | {"original": original[0] if original else None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
