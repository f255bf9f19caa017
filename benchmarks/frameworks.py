"""The same weights in other frameworks, each computed by the framework itself, beside what its own quantizer makes.

    python -m benchmarks.frameworks original.gguf CUT --name NAME --evaluation FILE --work DIR --tools DIR

CUT: a cut of that original, best with `--types portable`. For each framework: the folder that `smidgen export` writes
of CUT, and the one that the framework's own quantizer makes of the original in 16 bits, with `--tools`
(framework_tools.py makes a Python for each in that folder, once). Of each folder: its bytes, KL(original ‖ folder) over
articles with the framework's own logits, the ratio of ours to theirs with its interval (bootstrap.py), and speed and
memory in that framework (framework_speed.py), all folders taking turns. Of ours also how far its logits are from those
of smidgen's decoder on CUT: KL, and the largest difference of a log-probability. CUT in llama.cpp is the first row.

Frameworks are found as `smidgen measure` finds them: SMIDGEN_MLX_PYTHON and so on, or environments made for them.
`--again` keeps the KL of an earlier result of the same files, and measures what is missing in it, and speed.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import bootstrap, documents, framework_tools, frameworks_shown, options, record
from benchmarks.bootstrap import Article
from benchmarks.documents import Evaluation
from benchmarks.meter import articles_of
from smidgen.data.text import Windows
from smidgen.engines.base import LogitScorer, Scorer
from smidgen.engines.frameworks.engine import FrameworkEngine
from smidgen.engines.frameworks.environment import python_with
from smidgen.engines.frameworks.known import FRAMEWORKS
from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.exporting.export import Format, export
from smidgen.formats.convert import gguf_of
from smidgen.formats.exported import Runtime, describe_exported
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.divergence import scored
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.divergence import soft_cap_
from smidgen.progress import say

_FORMATS: dict[Runtime, Format] = {
    "mlx": "mlx",
    "onnx": "onnx",
    "openvino": "openvino",
    "transformers": "vllm",
    "litert": "litert",
}
_SPEED = Path(__file__).with_name("framework_speed.py")
_PROMPT, _LOOK = 256, 128  # tokens


@dataclass
class Folder:
    """One that a framework loads.

    whose: "smidgen" or the framework's own quantizer.  made_by: versions and the command.  figures: what it costs.
    """

    runtime: Runtime
    whose: str
    path: Path
    made_by: dict[str, Any]
    figures: dict[str, Any]
    articles: list[Article]

    def result(self) -> dict[str, Any]:
        """As it goes into the results."""
        known = {key: value for key, value in asdict(self).items() if key not in ("path", "articles")}
        return {**known, "bytes": describe_exported(self.path).bytes}


def folders(
    chosen: argparse.Namespace, cut: Path, tools: dict[Runtime, Path], failed: dict[Runtime, str]
) -> Iterator[Folder]:
    """Ours of each framework, and theirs where there is a tool. What is there already is not made again.

    failed: is told why a tool could not make its own.
    """
    original = chosen.work / "original-16-bit"
    if tools and not original.exists():
        export(chosen.original, "hf", original)
        _name_a_pre_tokenizer(original / "tokenizer.json")
    for runtime, to in _FORMATS.items():
        ours = chosen.work / f"smidgen-{to}"
        if not ours.exists():
            export(cut, to, ours)
        yield Folder(runtime, "smidgen", ours, {"command": f"smidgen export CUT --to {to}"}, {}, [])
        if runtime not in tools:
            continue
        theirs = chosen.work / f"own-{to}"
        words = framework_tools.command(runtime, tools[runtime], original, theirs)
        if not theirs.exists() and (why := _failed(words, chosen.work / "tools.log", theirs)):
            failed[runtime] = why
            continue
        made_by = {"command": record.shown(words), "packages": framework_tools.versions(runtime, tools[runtime])}
        yield Folder(runtime, "its own quantizer", theirs, made_by, {}, [])


def _name_a_pre_tokenizer(path: Path) -> None:
    """litert-torch 0.10 fails at a tokenizer without one, and then takes hours over 262,144 tokens. This does nothing:
    Gemma's spaces are other characters by then; it is what Google's own file has."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("pre_tokenizer") is None:
        step = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        path.write_text(json.dumps(found | {"pre_tokenizer": step}), encoding="utf-8")


def _failed(words: list[str], log: Path, made: Path) -> str | None:
    """Run a tool; why it failed, if it did. Nothing half-made is left."""
    try:
        record.run(words, log)
    except SmidgenError:
        shutil.rmtree(made, ignore_errors=True)
        return log.read_text(errors="replace").strip().splitlines()[-1]
    return None


@contextmanager
def engine_of(folder: Folder, threads: int) -> Iterator[FrameworkEngine]:
    """It, run by its framework."""
    with FrameworkEngine.open(describe_exported(folder.path), threads) as engine:
        yield engine


def fidelity(
    original: Scorer, cut: Scorer | LogitScorer, texts: Evaluation, label: str
) -> tuple[dict[str, Any], list[Article]]:  # fmt: skip
    """KL of one model to the original, over all articles and of each."""
    found = scored(original, cut, texts.windows, label)
    figures = found.divergence().figures()
    articles = articles_of(texts, found.by_window())
    kept = {key: figures[key] for key in ("tokens", "kl_mean", "kl_p99", "same_top1", "bits_per_byte_cut")}
    return {**kept, "kl_interval": bootstrap.mean_interval(articles)}, articles


@torch.no_grad()
def distance(cut: TorchEngine, engine: FrameworkEngine, windows: Windows) -> dict[str, float]:
    """Between our decoder's distributions and the framework's, for the same weights, over one window."""
    ids = windows.ids[:1, :_LOOK]
    logits = cut.hidden_states(ids)[0] @ cut.head_rows(0, cut.config.vocabulary).T
    ours = soft_cap_(logits, cut.config.logit_cap).double().log_softmax(-1)
    theirs = torch.cat([part.double() for part in engine.logits(ids.tolist())]).log_softmax(-1)[:, : ours.shape[1]]
    likely = ours > ours.amax(-1, keepdim=True) - 10  # beyond that nobody draws a token
    return {
        "kl_mean": float((ours.exp() * (ours - theirs)).sum(-1).mean()),
        "largest_difference": float((ours - theirs).abs()[likely].max()),
    }


def speed(folder: Folder, threads: int, prompt: Path, litert_lm: Path) -> dict[str, float]:
    """One round in a fresh process of the framework.  litert_lm: a Python that has it."""
    python = litert_lm if folder.runtime == "litert" else python_with(FRAMEWORKS[folder.runtime])
    return record.json_from_python([str(_SPEED), folder.runtime, str(folder.path), str(threads), str(prompt)], python)


def speeds(everyone: Sequence[Folder], threads: int, rounds: int, prompt: Path, litert_lm: Path) -> None:
    """All in turns, into their figures."""
    found: list[list[dict[str, float]]] = [[] for _ in everyone]
    for number in range(rounds):
        for folder, own in zip(everyone, found, strict=True):
            say(f"Speed {number + 1}/{rounds}: {folder.path.name}")
            own.append(speed(folder, threads, prompt, litert_lm))
    for folder, own in zip(everyone, found, strict=True):
        folder.figures["speed"] = {key: record.spread([one[key] for one in own]) for key in own[0]}


def compared(chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes into the results."""
    torch.set_num_threads(chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    cut_path = gguf_of(str(chosen.cut))
    with open_checkpoint(chosen.original) as original, open_checkpoint(cut_path) as cut:
        tokenizer = Tokenizer.from_gguf(original.tokenizer_metadata)
        texts = documents.take(chosen.evaluation, chosen.articles, chosen.evaluation_tokens, tokenizer)
        before, ours = TorchEngine(original), TorchEngine(cut)
        earlier = json.loads(chosen.again.read_text()) if chosen.again else {"cut": {}, "folders": []}
        own_file = earlier["cut"] or fidelity(before, ours, texts, cut_path.name)[0]
        known = {
            "name": chosen.name,
            "original": {"file": chosen.original.name, "sha256": original.sha256(), "weights": original.parameters},
            "cut": {**own_file, "bytes": cut_path.stat().st_size, "sha256": cut.sha256()},
            "evaluation": texts.description,
        }
        tools = framework_tools.tools_in(chosen.tools) if chosen.tools else {}
        if earlier["folders"] and any(earlier[key] != known[key] for key in ("original", "evaluation")):
            raise SmidgenError(f"{chosen.again} is of another original, or of other articles.")
        failed: dict[Runtime, str] = {}
        everyone = list(folders(chosen, cut_path, tools, failed))
        known_before = taken_earlier(everyone, earlier["folders"])
        for folder in everyone:
            if folder.runtime in known_before:
                continue
            with engine_of(folder, chosen.threads) as engine:
                folder.made_by["runtime"] = engine.runtime
                folder.figures, folder.articles = fidelity(before, engine, texts, folder.path.name)
                if folder.whose == "smidgen":
                    folder.figures["to_our_decoder"] = distance(ours, engine, texts.windows)
            say(f"{folder.path.name}: KL {folder.figures['kl_mean']:.5f}")
    if not chosen.no_speed:
        prompt = chosen.work / "prompt.json"
        prompt.write_text(json.dumps(texts.ids[:_PROMPT]))
        litert_lm = framework_tools.python_in((chosen.tools or chosen.work) / "litert-lm", [framework_tools.LITERT_LM])
        speeds(everyone, chosen.threads, chosen.rounds, prompt, litert_lm)
        [speed] = measure_speed([cut_path], chosen.threads, chosen.rounds, contexts=())
        known["cut"]["speed"] = {**speed, "path": cut_path.name}
    kept = {runtime: ratio for runtime, ratio in earlier.get("ratios", {}).items() if runtime in known_before}
    found = {**kept, **ratios([folder for folder in everyone if folder.articles])}
    return {**known, "folders": [folder.result() for folder in everyone], "ratios": found, "failed": failed}


def taken_earlier(everyone: Sequence[Folder], earlier: Sequence[dict[str, Any]]) -> set[str]:
    """Frameworks all of whose folders have the figures of an earlier session. A ratio takes both sides, article by
    article, so where one is new both are measured."""
    runtimes = {folder.runtime for folder in everyone}
    taken = {folder.path: take_earlier(folder, earlier) for folder in everyone}
    return {one for one in runtimes if all(taken[folder.path] for folder in everyone if folder.runtime == one)}


def take_earlier(folder: Folder, earlier: Sequence[dict[str, Any]]) -> bool:
    """Whether a result of an earlier session has the folder's figures, which are then its own."""
    for one in earlier:
        if (one["runtime"], one["whose"], one["bytes"]) == (folder.runtime, folder.whose, folder.result()["bytes"]):
            folder.figures, folder.made_by = one["figures"], one["made_by"]
            return True
    return False


def ratios(everyone: Sequence[Folder]) -> dict[str, dict[str, Any]]:
    """KL of ours over that of the framework's own quantizer, by framework."""
    found = {}
    for theirs in everyone:
        ours = next(one for one in everyone if one.runtime == theirs.runtime)
        if theirs is not ours:
            interval = bootstrap.ratio_interval(ours.articles, theirs.articles)
            ratio = ours.figures["kl_mean"] / theirs.figures["kl_mean"]
            found[theirs.runtime] = {"ratio": ratio, "interval": interval}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = options.parser_of(__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("cut", type=Path)
    parser.add_argument("--name", required=True, help="of the model: the result is results/frameworks_NAME.json")
    options.add_evaluation(parser, 3072)
    parser.add_argument("--articles", type=int, default=30)
    options.add_work(parser, "folders that are kept, about six times the original in 16 bits", "frameworks-work")
    parser.add_argument("--tools", type=Path, metavar="DIR", help="compare with each framework's own quantizer")
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument(
        "--again", type=Path, metavar="RESULT", help="keep its KL, and measure speed and what is missing"
    )
    parser.add_argument("--no-speed", action="store_true", help="leave out how quick they are")
    chosen = parser.parse_args(arguments)
    try:
        result = {**record.facts(threads=chosen.threads, rounds=chosen.rounds), **compared(chosen)}
    except SmidgenError as error:
        parser.exit(2, f"{error}\n")
    options.finish(
        chosen.output or record.RESULTS / f"frameworks_{chosen.name}.json", result, frameworks_shown.table([result])
    )


if __name__ == "__main__":
    main()
