"""Keys and values in 8 and 4 bits: memory of the engine, what they cost in KL, and how quick it writes.

    python -m benchmarks.kv_cache smollm2-135m-instruct gemma-3-270m --evaluation FILE [--no-speed]

For each model and each `--kv`: bytes of the cache and of the whole process for contexts of 4096 and 8192 tokens, read
from an engine with an almost empty context (llama.cpp takes the whole cache at once); KL(with a float cache ‖ with this
one) of the same file, in nats, by smidgen's decoder, which rounds keys, values and queries as llama.cpp does; and
tokens a second of writing with a short context and after a prompt of 2048 tokens, all types taking turns.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import options, record
from benchmarks.texts import take
from smidgen.data.text import cut_into_windows
from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.llama_cpp.engine import read_facts
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.engines.torch import TorchEngine
from smidgen.formats.convert import gguf_of
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.divergence import compare
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType, bytes_per_token, cache_bytes
from smidgen.model.tokenizer import Tokenizer

CONTEXTS, PROMPT, WINDOW = (4096, 8192), 2048, 512
_SECONDS = 3600.0  # a benchmark may take its time


def memory(path: Path, threads: int) -> dict[str, dict[str, Any]]:
    """By type: bytes of a token, and for each context of the cache and of the process."""
    kept = read_facts(path).kept
    found: dict[str, dict[str, Any]] = {}
    for kv in KV_TYPES:
        contexts = {str(context): _memory(path, context, kv, threads) for context in CONTEXTS}
        for context, known in contexts.items():
            known["cache_bytes"] = cache_bytes(kept, int(context), kv)
        found[kv] = {"bytes_per_token": bytes_per_token(kept, kv), "contexts": contexts}
    return found


def _memory(path: Path, context: int, kv: KVType, threads: int) -> dict[str, Any]:
    with LlamaServer(path, ctx_size=context, threads=threads, template=BUILT_IN_TEMPLATE, kv=kv) as server:
        server.call("/completion", {"prompt": [1, 2, 3], "n_predict": 4})
        return {"resident_bytes": server.memory()["resident_bytes"]}


def costs(path: Path, text: str) -> dict[str, dict[str, Any]]:
    """By type: KL of the same file, with a float cache and with this one."""
    found = {}
    with open_checkpoint(path) as checkpoint:
        windows = cut_into_windows(text, Tokenizer.from_gguf(checkpoint.tokenizer_metadata), WINDOW)
        for kv in KV_TYPES:
            if kv != AS_USUAL:
                result = compare(TorchEngine(checkpoint), TorchEngine(checkpoint, kv=kv), windows, f"{path.name}, {kv}")
                keys = ("tokens", "kl_mean", "kl_standard_error", "kl_p99", "same_top1")
                found[kv] = {key: getattr(result, key) for key in keys}
    return found


def speeds(path: Path, threads: int, repeats: int) -> dict[str, dict[str, Any]]:
    """By type: tokens a second of writing, with a short context and after a long prompt; why not, where it is busy."""
    kinds: list[KVType] = list(KV_TYPES)
    results = measure_speed([path] * len(kinds), threads, repeats, contexts=(PROMPT,), seconds=_SECONDS, kv=kinds)
    return {
        kv: {
            "decode_tokens_per_s": one["decode_tokens_per_s"],
            "after_long_prompt": one["by_context"],
            "reason": one["reason"],
            "busy": one["busy"],
        }
        for kv, one in zip(kinds, results, strict=True)
    }


def compared(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One model, in every type."""
    path = gguf_of(name)
    with open_checkpoint(path) as checkpoint:
        piece = take(chosen.evaluation, chosen.evaluation_tokens, Tokenizer.from_gguf(checkpoint.tokenizer_metadata))
        known = {"model": name, "sha256": checkpoint.sha256(), "evaluation": piece.description}
    quick = {"reason": "--no-speed"} if chosen.no_speed else speeds(path, chosen.threads, chosen.repeats)
    return {**known, "memory": memory(path, chosen.threads), "kl": costs(path, piece.text), "speed": quick}


def show(result: dict[str, Any]) -> str:
    """A row for each model and type."""
    rows = []
    for one in result["models"]:
        for kv, held in one["memory"].items():
            cost, speed = one["kl"].get(kv), one["speed"].get(kv, {})
            long = next(iter(speed.get("after_long_prompt") or ()), {})
            sizes = [part for context in held["contexts"].values() for part in context.values()]
            rows.append(
                (
                    one["model"], kv, *(f"{size / 1e6:.1f}" for size in sizes),
                    "" if cost is None else f"{cost['kl_mean']:.5f} ± {cost['kl_standard_error'] or 0:.5f}",
                    *(_rate(rate) for rate in (speed.get("decode_tokens_per_s"), long.get("decode_tokens_per_s"))),
                )
            )  # fmt: skip
    head = ["model", "--kv"]
    for context in CONTEXTS:
        head += [f"process at {context}, MB", f"cache at {context}, MB"]
    return record.table((*head, "KL, nats", "tokens/s", f"tokens/s after {PROMPT}"), rows)


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = options.parser_of(__doc__, "kv_cache.json")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    options.add_evaluation(parser, 4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-speed", action="store_true", help="leave out how quick it is")
    chosen = parser.parse_args(arguments)
    settings = {"threads": chosen.threads, "repeats": chosen.repeats, "tokens_per_window": WINDOW}
    result = {**record.facts(**settings), "models": [compared(name, chosen) for name in chosen.models]}
    record.save(chosen.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
