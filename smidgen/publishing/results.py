"""`model-index`: the figures of a report card as the Hugging Face hub reads them in the front matter of a README.md.

The form is that of https://github.com/huggingface/hub-docs/blob/main/modelcard.md: a list of results, each with a task,
a data set and metrics. None of ours is verified by the hub, and each says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smidgen.publishing.wording import plain_name

_TASK = {"type": "text-generation", "name": "Text generation"}
#: Name of a task on the card → identifier and name of the data, kind and name of the metric.
_TASKS = {
    "mmlu": ("mmlu", "MMLU", "accuracy", "accuracy, 5 examples"),
    "mbpp": ("mbpp", "MBPP", "pass@1", "first answer that passes the tests, 3 examples"),
}


def model_index(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to write under `model-index`; empty where the card has no result."""
    results = [*map(_of_text, _texts(card)), *_of_tasks(card["tasks"])]
    name = plain_name(str(card["cut"].get("name") or "")) or "model"
    return [{"name": name, "results": results}] if results else []


def _texts(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All texts of the card: those of `fidelity`, then languages that are not among them."""
    known = {text["sha256"] for text in card["fidelity"]}
    return [*card["fidelity"], *(text for text in card["languages"].values() if text["sha256"] not in known)]


def _of_text(text: Mapping[str, Any]) -> dict[str, Any]:
    by = ", written by the original itself" if text.get("self_written") else ""
    name = f"{plain_name(text['text'])} ({text['tokens']:,} tokens, sha256 {text['sha256'][:12]}{by})"
    before = f"{text['bits_per_byte_original']:.4f}"
    return _result(
        {"type": "text", "name": name},
        [
            ("bits_per_byte", f"bits per byte (the original has {before})", text["bits_per_byte_cut"]),
            ("kl_divergence", "KL divergence from the original, nats per token", text["kl_mean"]),
            ("same_top_token", "share of positions with the original's likeliest next token", text["same_top1"]),
        ],
    )


def _of_tasks(tasks: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, score in tasks.items():
        if score.get("cut") is None:
            continue
        plain = plain_name(name)
        kind, title, metric, what = _TASKS.get(name, (plain, plain, "score", "share of right answers"))
        drawn = "" if score.get("seed") is None else f", seed {score['seed']}"
        before = f"{score['original']:.4f}"
        data = {"type": kind, "name": f"{title} ({score['items']:,} items{drawn})"}
        yield _result(data, [(metric, f"{what} (the original has {before})", score["cut"])])


def _result(data: Mapping[str, str], metrics: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    return {
        "task": _TASK,
        "dataset": dict(data),
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 6), "verified": False}
            for kind, name, value in metrics
        ],
    }
