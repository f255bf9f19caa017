"""The tables of results on the pages, made from results/*.json: `python -m benchmarks.tables --write`.

Each stands between markers that carry its name (`benchmarks.marked`), in the pages of PAGES. Nothing in them is typed
in by hand but the names of rows and columns; the prose around them is.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median
from typing import Any

from benchmarks import equal_bytes_shown, frameworks_shown
from benchmarks.equal_bytes import models
from benchmarks.equal_bytes_picture import picture
from benchmarks.marked import write
from benchmarks.record import REPOSITORY, RESULTS

#: Where tables stand.
_NAMES = ("docs/costs.md", "docs/serve.md", "docs/where-to-run.md", "README.md")
PAGES = tuple(REPOSITORY / name for name in _NAMES)
#: KL against bytes, beside the table `equal-bytes`.
PICTURE = REPOSITORY / "docs" / equal_bytes_shown.PICTURE

_LEFT, _RIGHT = "---", "--:"


@cache
def result(name: str) -> dict[str, Any]:
    """One file of results/."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rules = [_LEFT if place < left else _RIGHT for place in range(len(head))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _divergence(side: dict[str, Any]) -> str:
    return f"{side['kl_mean']:.4f} ± {side['kl_standard_error']:.4f}"


def _best(size: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's file of least divergence."""
    return min(size["llama_cpp"], key=lambda side: side["kl_mean"])


def quality() -> str:
    """Equal bytes: smidgen against llama.cpp's best mixture, without healing."""
    rows: list[list[str]] = []
    for size in (result("quality_vs_llama_cpp_160MB")["sizes"][0], result("quality_vs_llama_cpp")["sizes"][1]):
        best = _best(size)
        for label, side in (("**smidgen**", size["smidgen"]), (f"llama.cpp: {best['mixture']}", best)):
            ours = side is size["smidgen"]
            rows.append([
                label, f"{side['bytes']:,}", _divergence(side), f"{side['kl_p99']:.2f}", _percent(side["same_top1"]),
                f"{side['bits_per_byte_original']:.4f} → {side['bits_per_byte_cut']:.4f}",
                f"{side['kl_mean'] / best['kl_mean']:.2f}" if ours else "1",
            ])  # fmt: skip
    head = ["file", "bytes", "KL, nats", "99th percentile", "same top token", "bits per byte", "ratio of KL"]
    return _table(head, rows)


def time_and_memory() -> str:
    """A cut against llama-imatrix + llama-quantize."""
    rows = []
    for name, label, tokens in (
        ("cut_speed", "off-lattice Gemma 3 270M → 160 MB", 16_384),
        ("real_size_gemma-2-2b_gguf", "Gemma 2 2B's shape, random weights, 5.2 GB → 1.5 GB", 4096),
    ):
        found = result(name)
        theirs, ours = found["llama.cpp both"], found["smidgen cut"]
        rows.append([
            label, f"{found.get('tokens', tokens):,}",
            f"{theirs['seconds']['median']:.0f} s, {_gigabytes(theirs['peak_ram_bytes']['median'])}",
            f"{ours['seconds']['median']:,.0f} s, {_gigabytes(ours['peak_ram_bytes']['median'])}",
            f"{found['time_ratio']:.1f}",
        ])  # fmt: skip
    return _table(
        ["model", "calibration tokens", "llama.cpp: imatrix + quantize", "`smidgen cut`", "ratio of time"], rows
    )


def startup() -> str:
    """What a person waits for before anything is done."""
    inspect = result("real_size_gemma-2-2b_gguf")["inspect"]
    helped = result("startup")["seconds"]["smidgen --help"]
    rows = [
        ["`smidgen --help`", f"{helped['median']:.2f} s"],
        [
            "`smidgen inspect` of a file of 5.2 GB",
            f"{inspect['seconds']:.1f} s, {_megabytes(inspect['peak_ram_bytes'])}",
        ],
    ]
    return _table(["command", "time, peak memory"], rows)


def vocabulary() -> str:
    """A trimmed vocabulary against llama.cpp's best of twice the bytes."""
    rows = []
    for name, label in (
        ("english_prose", "English prose (Austen)"),
        ("german_english", "German and English"),
        ("code", "program code"),
    ):
        found = result(f"vocabulary_{name}")
        ours, best = found["smidgen"], _best(found)
        rows.append([
            label, _megabytes(ours["bytes"]), f"{ours['vocabulary'][0]['parameters']['tokens']:,}",
            f"{ours['kl_mean']:.3f}", f"{best['kl_mean']:.3f} ({_megabytes(best['bytes'])})",
            f"{ours['bits_per_byte_original']:.3f} → {ours['bits_per_byte_cut']:.3f} ({best['bits_per_byte_cut']:.3f})",
            f"{found['speed']['times']:.2f}",
        ])  # fmt: skip
    head = ["text", "smidgen", "tokens kept", "KL", "llama.cpp at twice the bytes: KL", "bits per byte (llama.cpp)",
            "times the stock file's tokens/s"]  # fmt: skip
    return _table(head, rows)


def vocabulary_speed() -> str:
    """Decoding speed by the size of the vocabulary alone."""
    sizes = result("vocabulary_speed")["sizes"]
    rows = []
    for size in sizes:
        rate, (slowest, *_, quickest) = size["decode_tokens_per_s"], sorted(size["decode_tokens_per_s_range"])
        rows.append([
            f"{size['vocabulary']:,}", f"{size['bytes'] / 1e9:.2f} GB", f"{rate:.1f} ({slowest:.1f}-{quickest:.1f})",
            f"{rate / sizes[0]['decode_tokens_per_s']:.2f}",
        ])  # fmt: skip
    return _table(["tokens", "file", "tokens/s, median (range)", "times"], rows, left=0)


def pruning() -> str:
    """Layers and channels taken out, without training."""
    found = result("pruning_curves_SmolLM2-135M-Instruct.Q4_1")
    rows = []
    for point in (*found["depth"], *found["width"]):
        deep = "removed" in point
        label = f"{point['removed']} of 30 layers out" if deep else f"feed-forward 1536 → {point['ffn']}"
        cheap, of = (
            ("block influence", "plain, by block influence") if deep else ("mean activation", "plain, by activation")
        )
        rows.append([
            label, f"{point['compensated']['kl_mean']:.3f}", f"{point['plain']['kl_mean']:.3f}",
            f"{point[of]['kl_mean']:.3f} ({cheap})", f"{median(one['kl_mean'] for one in point['random']):.3f}",
        ])  # fmt: skip
    return _table(["", "refitted", "plainly removed", "the field's cheap ranking, plain", "at random (median)"], rows)


def sparsity() -> str:
    """Perplexity with half of the weights zero, without training."""
    names = {"gemma": "Gemma 3 270M", "SmolLM": "SmolLM2 135M"}
    rows = []
    for model in result("sparsity")["models"]:
        label = next(shown for start, shown in names.items() if model["model"]["file"].startswith(start))
        found = {(one["pattern"], one["method"]): one["perplexity"] for one in model["results"]}
        for pattern in dict.fromkeys(pattern for pattern, _ in found):
            spans = [found[pattern, method] for method in ("magnitude", "wanda", "sparsegpt")]
            rows.append([label, pattern, f"{model['perplexity_dense']:.1f}", *map(_span, spans)])
    return _table(["model", "zeros", "none", "magnitude", "Wanda", "SparseGPT"], rows, left=2)


def _span(found: dict[str, float]) -> str:
    """Lowest and highest, or the one number where there is one."""
    digits = 1 if found["highest"] < 100 else 0
    lowest, highest = f"{found['lowest']:.{digits}f}", f"{found['highest']:.{digits}f}"
    return lowest if lowest == highest else f"{lowest}-{highest}"


def healing() -> str:
    """Equal bytes: healed files against llama.cpp's best mixture."""
    rows = []
    for model, files, parameters in (
        ("Gemma 3 270M", ("gemma_160MB", "gemma_168MB", "gemma_184MB"), 268_098_176),
        ("SmolLM2 135M", ("smollm2_78MB", "smollm2_84MB", "smollm2_92.5MB"), 134_515_008),
    ):
        for file in files:
            size = result(f"healing_{file}")["sizes"][0]
            ours, best = size["smidgen"], _best(size)
            rows.append([
                model, f"{ours['bytes']:,}", f"{8 * ours['bytes'] / parameters:.2f}", _divergence(ours),
                _divergence(best), f"{size['ratio']:.2f}",
                f"{_percent(ours['same_top1'])} ({_percent(best['same_top1'])})",
                f"{ours['bits_per_byte_original']:.3f} → {ours['bits_per_byte_cut']:.3f} "
                f"({best['bits_per_byte_cut']:.3f})",
                f"{ours['healing']['processor_seconds'] / 60:.0f} min",
            ])  # fmt: skip
    head = ["model", "bytes", "bits a weight", "healed: KL", "llama.cpp: KL", "ratio", "same top token (llama.cpp)",
            "bits per byte (llama.cpp)", "processor time"]  # fmt: skip
    return _table(head, rows)


def recovery() -> str:
    """What training wins back of 8 removed layers, on text of the kind learned from and on another."""
    found = result("pruned_recovery")
    rows = [
        [label, f"{found[key]['bits_per_byte']:.3f}", f"{found[key]['elsewhere_bits_per_byte']:.3f}"]
        for label, key in (("original", "original"), ("pruned", "pruned"))
    ]
    for label, key in (
        ("taught by the original (`--heal`)", "taught"),
        ("taught, half the loss from the text (`distill --hard 0.5`)", "taught, half text"),
        ("by the text alone", "text alone"),
        ("from scratch, by the text alone", "from scratch, text"),
    ):
        point = found["students"][key]["points"][-1]
        shares = ["", ""] if "scratch" in key else [
            f" ({100 * point[name]:.0f}%)" for name in ("won_back", "elsewhere_won_back")
        ]  # fmt: skip
        rows.append(
            [label, f"{point['bits_per_byte']:.3f}{shares[0]}", f"{point['elsewhere_bits_per_byte']:.3f}{shares[1]}"]
        )
    return _table(["", "WikiText-2", "Austen"], rows)


def student() -> str:
    """A small student, from scratch and distilled, by tokens read."""
    students = result("small_student")["students"]
    shown = ("from scratch", "distilled", "distilled, half text", "distilled, begun with slices")
    rows = []
    for points in zip(*(students[name]["points"] for name in shown), strict=True):
        tokens = points[0]["tokens"]
        if tokens in (39_936, 119_808, 200_192):
            rows.append([f"{tokens:,}", *(f"{point['bits_per_byte']:.3f}" for point in points)])
    return _table(["tokens", "from scratch", "distilled", "distilled, half the loss from the text",
                   "distilled, begun with slices of the teacher"], rows, left=0)  # fmt: skip


def adapters() -> str:
    """What an adapter learned, and what merging keeps of it."""
    labels = {
        "16 bits, untuned": "16 bits, untuned",
        "quantized, untuned": "four bits, untuned",
        "PEFT, 16 bits": "PEFT's adapter on 16 bits",
        "smidgen, beside": "smidgen's adapter beside four bits",
        "smidgen, merged": "**merged by `smidgen tune --merge`**",
        "rounded, own scales": "merged by rounding, the file's scales",
        "quantized anew": "merged and quantized anew (gguf's Q4_0)",
    }
    sides = result("adapters")["sides"]
    rows = [
        [label, _within(sides[side]["exact"]), _within(sides[side]["chosen"]), f"{sides[side]['loss']['mean']:.3f}"]
        for side, label in labels.items()
    ]
    return _table(["model", "right, word for word", "right of the five names", "loss of the answer, nats"], rows)


def _within(found: dict[str, Any]) -> str:
    """A share with its interval."""
    low, high = (100 * bound for bound in found["interval"])
    return f"{_percent(found['mean'])} [{low:.1f}, {high:.1f}]"


def training_step() -> str:
    """A step of distillation against plain loops."""
    sides = result("training_step")["sides"]
    ours = sides["smidgen"]["tokens_per_s"]["median"]
    rows = []
    for label, name in (
        ("smidgen", "smidgen"),
        ("transformers, full logits", "transformers"),
        ("the same under bfloat16 autocast", "transformers, autocast"),
    ):
        rate = sides[name]["tokens_per_s"]
        rows.append([
            label, f"{rate['median']:.0f} ({rate['lowest']:.0f}-{rate['highest']:.0f})",
            _gigabytes(sides[name]["peak_ram_bytes"]["median"]),
            "" if name == "smidgen" else f"{ours / rate['median']:.2f} times as quick",
        ])  # fmt: skip
    return _table(["", "tokens/s (range)", "peak memory", "smidgen is"], rows)


def memory() -> str:
    """Memory while a model writes, loaded by smidgen and in other ways."""
    ways = {
        "smidgen": "as `run`, `chat` and `serve` load it",
        "llama.cpp": "llama.cpp's default",
        "not mapped": "read into memory",
        "not repacked": "not repacked",
    }
    rows = []
    for model in result("memory")["models"]:
        for way, label in ways.items():
            found = model["loadings"][way]
            rows.append([
                f"{model['model']}, {_megabytes(model['bytes'])}", label, _megabytes(found["resident_bytes"]),
                _megabytes(found["peak_ram_bytes"]), f"{found['decode_tokens_per_s']['median']:.0f}",
            ])  # fmt: skip
    return _table(
        ["model", "loaded", "while it writes", "at most, while it loads", "tokens/s, one thread"], rows, left=2
    )


def real_card() -> str:
    """A model on which tasks mean something: smidgen's file and llama.cpp's best, both against the original."""
    found = result("real_card")
    rows = []
    for label, name in (("**smidgen**", "smidgen"), (f"llama.cpp: {found['llama_cpp'][0]['mixture']}", "llama.cpp")):
        card = found["cards"][name]
        divergences = [f"{text['kl_mean']:.4f}, {_percent(text['same_top1'])}" for text in card["fidelity"]]
        rows.append([label, f"{card['cut']['bytes']:,}", *divergences, *map(_score, card["tasks"].values())])
    texts = [f"{text['text']}: KL, same top token" for text in found["cards"]["smidgen"]["fidelity"]]
    tasks = [f"{task.upper()}, {score['items']} items" for task, score in found["cards"]["smidgen"]["tasks"].items()]
    return _table(["file", "bytes", *texts, *tasks], rows)


def _score(score: dict[str, Any]) -> str:
    """Shares of right answers, difference with its interval in points, flips."""
    low, high = (f"{100 * bound:+.1f}" for bound in score["interval"])
    flips = f"{score['flips']['right_to_wrong']} lost, {score['flips']['wrong_to_right']} won"
    shares = f"{_percent(score['original'])} → {_percent(score['cut'])}"
    return f"{shares}: {100 * score['difference']:+.1f} [{low}, {high}]; {flips}"


def vllm_cpu() -> str:
    """vLLM on a CPU next to llama.cpp."""
    found = result("vllm_cpu")
    rows = [
        [engine, f"{found['start_seconds'][engine]:.1f} s", *(f"{rate['median']:.0f}" for rate in rates.values())]
        for engine, rates in found["tokens_per_s"].items()
    ]
    return _table(["engine", "to start", "tokens/s, one client", "tokens/s, four clients together"], rows)


def frameworks() -> str:
    """The same weights in other frameworks, beside what these make themselves."""
    return frameworks_shown.table([result(path.stem) for path in sorted(RESULTS.glob("frameworks_*.json"))])


#: Name of the markers → what makes the table between them.
TABLES: dict[str, Callable[[], str]] = {
    "quality": quality,
    "time-and-memory": time_and_memory,
    "startup": startup,
    "memory": memory,
    "vocabulary": vocabulary,
    "vocabulary-speed": vocabulary_speed,
    "pruning": pruning,
    "sparsity": sparsity,
    "healing": healing,
    "recovery": recovery,
    "student": student,
    "adapters": adapters,
    "training-step": training_step,
    "real-card": real_card,
    "vllm-cpu": vllm_cpu,
    "frameworks": frameworks,
    "equal-bytes": lambda: equal_bytes_shown.at_home(models()),
    "equal-bytes-elsewhere": lambda: equal_bytes_shown.elsewhere(models()),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all tables, or write them into the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them between the markers of the pages")
    made = {name: make() for name, make in TABLES.items()}
    if parser.parse_args(arguments).write:
        if found := models():
            PICTURE.write_text(picture(found), encoding="utf-8")
        return max(write(page, made) for page in PAGES)
    for name, table in made.items():
        print(f"{name}\n\n{table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
