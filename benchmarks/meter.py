"""Measures files against an original, article by article, and remembers: each measurement takes minutes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import bootstrap
from benchmarks.artefacts import name_of, sha256
from benchmarks.bootstrap import Article
from benchmarks.documents import Evaluation
from smidgen.data.text import Windows
from smidgen.engines.torch import TorchEngine
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.measuring.divergence import scored
from smidgen.progress import Task
from smidgen.shapes import Float, Int


class Remembering(TorchEngine):
    """A model whose hidden states are computed once for each text: the other half of every measurement is a new file's.

    They are kept in memory: 4 bytes for each token and hidden channel.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._states: dict[str, Float[Tensor, "batch position hidden"]] = {}

    def hidden_states(
        self, windows: Int[Tensor, "batch position"], progress: Task | None = None
    ) -> Float[Tensor, "batch position hidden"]:
        """What the head reads, as the engine has it."""
        name = name_of(ids=windows.tolist())
        if name not in self._states:
            self._states[name] = super().hidden_states(windows, progress)
        elif progress is not None:
            progress.skip(len(self.config.layers))
        return self._states[name]


class Meter:
    """One original, and what is known of files that were made of it.

    memory: file of what was measured, by the hashes of original, file and text.
    """

    def __init__(self, original: Path, memory: Path) -> None:
        self.original = Remembering(open_checkpoint(original))
        self.memory = memory
        self.known: dict[str, dict[str, Any]] = json.loads(memory.read_text()) if memory.exists() else {}

    def figures(self, model: Path, windows: Windows, label: str) -> dict[str, Any]:
        """The fidelity figures of one file (`Divergence.figures`), with `by_window`: positions and mean KL of each."""
        text = name_of(ids=windows.rows())
        key = f"{self.original.checkpoint.sha256()} {sha256(model)} {text} by window"
        if key not in self.known:
            with open_checkpoint(model) as checkpoint:
                found = scored(self.original, TorchEngine(checkpoint), windows, label)
            figures = found.divergence().figures()
            figures |= {"text_bytes": figures.pop("bytes"), "by_window": found.by_window()}
            self.remember(key, figures)
        return dict(self.known[key])

    def by_article(self, model: Path, evaluation: Evaluation, label: str) -> dict[str, Any]:
        """The same with `articles`, and `kl_interval`: 95% for the mean, over articles."""
        figures = self.figures(model, evaluation.windows, label)
        articles = articles_of(evaluation, figures.pop("by_window"))
        interval = bootstrap.mean_interval(articles)
        return {**figures, "kl_interval": interval, "articles": [asdict(article) for article in articles]}

    def remember(self, key: str, figures: dict[str, Any]) -> None:
        """Keep figures for a repeated run."""
        self.known[key] = figures
        self.memory.write_text(json.dumps(self.known, indent=1))


def paired(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Ratio of two files' means on the same articles (`Meter.by_article`), with its 95% interval."""
    mine, other = ([Article(**one) for one in side["articles"]] for side in (ours, theirs))
    interval = bootstrap.ratio_interval(mine, other)
    return {"ratio": bootstrap.mean(mine) / bootstrap.mean(other), "ratio_interval": interval, "articles": len(mine)}


def articles_of(evaluation: Evaluation, windows: list[tuple[int, float]]) -> list[Article]:
    """What each article cost, of what each of its windows did: positions, and the mean of their KL."""
    found = []
    for number, at in enumerate(evaluation.places):
        own = [one for one, article in zip(windows, evaluation.article_of, strict=True) if article == number]
        tokens = sum(count for count, _ in own)
        found.append(Article(at, tokens, sum(count * kl for count, kl in own) / tokens))
    return found
