"""What the benchmark of promises counts as kept."""

from typing import Any

import pytest

from benchmarks.promises import measured


def result(**speed: Any) -> dict[str, Any]:
    card = {"speed": {"busy": None, **speed}, "fidelity": [{"kl_mean": 0.1}]}
    return {"card": card, "bytes": 10**8, "plan": "Plan: …"}


@pytest.mark.parametrize(
    ("option", "wanted", "speed", "kept"),
    [
        ("--speed", 100.0, {"decode_tokens_per_s": 95.5}, True),
        ("--speed", 100.0, {"decode_tokens_per_s": 94.0}, False),
        ("--speed", 100.0, {"decode_tokens_per_s": None}, None),
        ("--ram", 1e8, {"resident_bytes": 104_000_000}, True),
        ("--ram", 1e8, {"resident_bytes": 106_000_000}, False),
    ],
)
def test_within_five_percent_is_kept(option: str, wanted: float, speed: dict[str, Any], kept: bool | None) -> None:
    assert measured(option, wanted, result(**speed))["kept"] is kept
