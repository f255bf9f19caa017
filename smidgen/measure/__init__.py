"""What a cut cost, measured on the files as written.

`measure` is the door for people and for `cut`: it opens files. Everything behind it takes opened models, and knows no
file format, no engine and no cutter. Formats and engines are imported here alone, when `measure` is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.measure.card import Card
    from smidgen.measure.run import Subject
    from smidgen.shapes import Int

_MEMORY_SHARE = 0.7  # of the machine's memory that two models may take at once


def measure(
    original: str | Path,
    cut: str | Path,
    texts: Sequence[str] = (),
    *,
    tokens: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    with_speed: bool = True,
    output: Path | None = None,
    calibrated_on: Int[Tensor, "batch position"] | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
    cost: Mapping[str, Any] | None = None,
    cut_name: str | None = None,
) -> Card:
    """The report card of `cut` against `original`: models as `catalogue.locate` takes them.

    texts: `FILE` or `NAME=FILE`; none for text that the original writes itself.  tokens: to score of each text.
    output: where to write card.json, with card.html beside it.
    calibrated_on, steps, cost, cut_name: from the cut, if it was just made; see `run.measure_subjects` and
        `card.build_card`.
    Raises SmidgenError before any long work for files that are missing, damaged, or do not share a vocabulary.
    """
    import torch

    from smidgen.data.self_written import self_written
    from smidgen.data.sources import read_texts
    from smidgen.engines.llama_cpp_bench import measure_speed
    from smidgen.engines.machine import machine_name, peak_memory
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.catalogue import cache_folder
    from smidgen.formats.checkpoint import load
    from smidgen.measure.card import write_card
    from smidgen.measure.run import DEFAULT_TOKENS, measure_subjects, refuse_other_vocabulary
    from smidgen.model.tokenizer import Tokenizer

    tokens = DEFAULT_TOKENS if tokens is None else tokens
    sources = read_texts(texts)
    with load(original) as before, load(cut) as after:
        engine = TorchEngine(before, threads)
        pair = _subject(before, _name(original), engine), _subject(after, cut_name or _name(cut), TorchEngine(after))
        refuse_other_vocabulary(*pair)
        tokenizer = Tokenizer.from_gguf(before.file.metadata)
        if not sources:
            folder = cache_folder() / "self-written"
            sources = [self_written(engine, tokenizer, before.sha256(), tokens, seed, "evaluation", folder)]
        card = measure_subjects(
            *pair, tokenizer, sources, tokens=tokens, seed=seed, calibrated_on=calibrated_on,
            speed=(lambda: measure_speed(_runnable(before, after), threads)) if with_speed else None,
            steps=steps, cost=cost,
            settings={"machine": machine_name(), "threads": torch.get_num_threads()},
        )  # fmt: skip
    card["made"]["peak_ram_bytes"] = peak_memory()
    if output is not None:
        write_card(card, output)
    return card


def _runnable(original: Checkpoint, cut: Checkpoint) -> list[Path]:
    """The files whose speed to compare: both if they fit into memory side by side, else the cut's alone."""
    from smidgen.engines.machine import total_memory
    from smidgen.formats.convert import gguf_of
    from smidgen.progress import say

    if original.file.size + cut.file.size <= _MEMORY_SHARE * total_memory():
        return [gguf_of(original.path), gguf_of(cut.path)]
    size = f"{original.file.size / 1e9:.1f} GB"
    say(f"The speed of the original is not measured: its {size} are too much for this machine.")
    return [gguf_of(cut.path)]


def _name(given: str | Path) -> str:
    """The catalogue's name, or that of the file or of the folder that `cut` wrote."""
    from smidgen.formats.catalogue import entry_of

    entry, path = entry_of(given), Path(given).expanduser().resolve()
    if entry is not None:
        return entry.name
    return path.parent.name if path.name == "model.gguf" else path.name.removesuffix(".gguf")


def _subject(checkpoint: Checkpoint, name: str, engine: TorchEngine) -> Subject:
    from smidgen.measure.card import ModelFacts, TensorFacts
    from smidgen.measure.run import Subject
    from smidgen.model.parameters import is_matrix

    stored = dict.fromkeys(checkpoint.gguf_name(name) for name in checkpoint.names() if is_matrix(name))
    infos = [checkpoint.file.tensors[tensor] for tensor in stored]
    tensors = tuple(
        TensorFacts(info.name, info.kind.name, info.kind.bits_per_weight, prod(info.shape), info.nbytes)
        for info in infos
    )
    facts = ModelFacts(name, checkpoint.path, checkpoint.sha256(), checkpoint.file.size, checkpoint.parameters, tensors)
    vocabulary = checkpoint.file.metadata.get("tokenizer.ggml.tokens")
    return Subject(facts, engine, vocabulary if isinstance(vocabulary, list) else [])
