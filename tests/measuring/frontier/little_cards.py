"""Cards of cuts that never were, as small as `--compare` reads them."""

import json
from pathlib import Path
from typing import Any


def score(difference: float, items: int = 200, **more: Any) -> dict[str, Any]:
    low, high = difference - 0.02, difference + 0.02
    found = {"original": 0.5, "cut": 0.5 + difference, "difference": difference, "interval": [low, high]}
    return found | {"items": items, "at_chance": False, "seed": 0} | more


def speed(rate: float, original: float | None = 40.0, **more: Any) -> dict[str, Any]:
    other = None if original is None else {"decode_tokens_per_s": original}
    found = {"decode_tokens_per_s": rate, "resident_bytes": 10**8, "threads": 2, "machine": "a box", "engine": "llama"}
    return found | {"original": other} | more


def text(kl: float, bits: float, name: str = "prose", **more: Any) -> dict[str, Any]:
    """A text of that name; its sha256 goes by the name."""
    found = {"text": name, "sha256": name.encode().hex().ljust(64, "0")[:64], "tokens": 5000, "windows": 10}
    found |= {"bytes": 20_000, "kl_mean": kl, "kl_standard_error": kl / 20, "same_top1": 0.9}
    found |= {"bits_per_byte_original": 1.0, "bits_per_byte_cut": bits, "tokens_per_byte_original": 0.25}
    return found | more


def card(name: str, size: int, *texts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of a cut of an original of 100 MB."""
    found: dict[str, Any] = {
        "schema": 1,
        "original": {"name": "big", "sha256": "ab" * 32, "bytes": 100_000_000, "parameters": 10**8},
        "cut": {"name": name, "sha256": name.encode().hex().ljust(64, "0")[:64], "bytes": size, "parameters": 10**8},
        "fidelity": list(texts), "languages": {}, "tasks": {}, "safety": {},
        "speed": {"decode_tokens_per_s": None, "reason": "not asked for"},
    }  # fmt: skip
    return found | more


def three(**more: Any) -> list[dict[str, Any]]:
    """Two on the frontier, and one that is larger and worse than the second."""
    return [
        card("small", 60_000_000, text(0.09, 1.05), **more),
        card("middle", 70_000_000, text(0.008, 1.01), **more),
        card("plain", 80_000_000, text(0.03, 1.03), **more),
    ]


def write(folder: Path, *cards: dict[str, Any]) -> list[Path]:
    """Each into a folder of its own."""
    paths = []
    for place, one in enumerate(cards):
        path = folder / f"cut{place}"
        path.mkdir()
        (path / "card.json").write_text(json.dumps(one))
        paths.append(path)
    return paths
