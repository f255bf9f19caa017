"""A card on which every figure is, for the page: made up, but of the shapes that measuring gives."""

from dataclasses import asdict
from typing import Any

import torch

from smidgen.measuring.card import in_words
from smidgen.measuring.histogram import histogram
from smidgen.measuring.side_by_side import Pair
from smidgen.measuring.tasks.paired import compare_items
from tests.measuring.test_card import full_card


def whole_card() -> dict[str, Any]:
    """`full_card` with what only long measuring finds: tasks, safety, answers, and how the divergence is spread."""
    card = full_card()
    nats = torch.exp(2 * torch.randn(8192, generator=torch.Generator().manual_seed(0)) - 4)
    for text in (*card["fidelity"], *card["languages"].values()):
        text |= {
            "kl_median": 0.018, "kl_p90": 0.24, "kl_histogram": dict(histogram(nats)),
            "by_sureness": [
                {"least": low, "most": low + 0.25, "tokens": 2048, "kl_mean": 0.2 - low / 5, "same_top1": 0.5 + low / 2}
                for low in (0.0, 0.25, 0.5, 0.75)
            ],
        }  # fmt: skip
    card["noise_floor"] = {
        "text": "prose", "rounding": "bfloat16 after each layer", "tokens": 1024, "kl_mean": 0.0004,
        "kl_median": 0.0001, "kl_p99": 0.003, "same_top1": 0.992,
    }  # fmt: skip
    made = {"cut_off": 0, "changed": [{"item": "mmlu_law 7", "original": "B", "cut": "D"}], "harness": "a", "seed": 0}
    card["tasks"] = {
        "mmlu": {**compare_items([True] * 120 + [False] * 80, [False] * 9 + [True] * 119 + [False] * 72, 0.25), **made},
        "mbpp": {**compare_items([True] * 6 + [False] * 14, [True] * 5 + [False] * 15), **made},
        "mgsm": {
            **compare_items([True] * 50 + [False] * 50, [False] * 6 + [True] * 45 + [False] * 49), **made,
            "by_language": {
                "ja": compare_items([True] * 25 + [False] * 25, [False] * 5 + [True] * 20 + [False] * 25),
                "de": compare_items([True] * 25 + [False] * 25, [True] * 25 + [False] * 25),
            },
        },
        "arc_easy": {"reason": "the engine ended"},
    }  # fmt: skip
    refused = compare_items([True] * 90 + [False] * 10, [False] * 12 + [True] * 78 + [False] * 10)
    card["safety"] = {
        "refusals": {
            "judge": "rule on the first words of the answer",
            "judge_agreement": {"share": 0.92, "kappa": 0.82, "answers": 900, "source": "a study"},
            "notes": ["the chat templates of the two models differ"],
            "refused_unsafe": refused,
            "refused_safe": compare_items([False] * 95 + [True] * 5, [False] * 94 + [True] * 6),
        },
        "stereotypes": compare_items([True] * 60 + [False] * 40, [True] * 62 + [False] * 38),
        "bbq_bias_ambiguous": {
            "original": -0.02, "cut": 0.03, "difference": 0.05, "interval": [-0.02, 0.12], "items": 200, "note": None,
        },
    }  # fmt: skip
    card["answers"] = {
        "prompts": 12, "same": 9, "form": "chat", "tokens": 48, "reason": None,
        "shown": [
            asdict(Pair("What is 6 times 7?", "en", "6 times 7 is 42.", "6 times 7 is 36.", 1.31)),
            asdict(Pair("日本の四季を説明してください。", "ja", "春は桜が咲きます。\n夏は暑いです。", "春", 0.42)),
            asdict(Pair("مرحبا", "ar", "أهلا", "", None)),
        ],
    }  # fmt: skip
    return in_words(card)
