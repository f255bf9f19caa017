"""llama.cpp's best file of at most so many bytes, found without measuring every mixture in full.

- Each body is measured once with the embedding left at F16, each embedding once with the body left at F16, on a short
  text: the quick look.
- Mixtures whose file fits are ranked by the sum of the two, and the first few (`finalists`) are measured in full.

All of it is done on the evaluation text itself: what is chosen by that can only look better than it is, and it is the
other side that gets this gift.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.artefacts import name_of
from benchmarks.documents import Evaluation
from benchmarks.llama_cpp_mixtures import BODIES, EMBEDDINGS, Body, Mixture, Quantizer, alone, candidates, only
from benchmarks.meter import Meter
from smidgen.errors import SmidgenError
from smidgen.progress import say

_NEAR = 0.05  # a mixture that leaves more than this share of the size unused is not a candidate for it


@dataclass(frozen=True)
class Measured:
    """One file of llama.cpp's, measured in full."""

    mixture: Mixture
    path: Path
    nbytes: int
    figures: dict[str, Any]
    command: str

    def result(self) -> dict[str, Any]:
        """As it goes into the results."""
        return {
            "mixture": str(self.mixture), "file": self.path.name, "bytes": self.nbytes, **self.figures,
            "command": self.command,
        }  # fmt: skip


def chosen_bodies(names: str) -> list[Body]:
    """Those of BODIES with these names, with commas between. Raises ValueError with the first that is none of them."""
    known = {str(body): body for body in BODIES}
    return [known[name] for name in _known(known, names)]


def chosen_embeddings(names: str) -> list[str]:
    """The same of EMBEDDINGS."""
    return _known(EMBEDDINGS, names)


def _known(known: Collection[str], names: str) -> list[str]:
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return asked


class Search:
    """The search on one original, with one imatrix and one text.

    sizes: mixture → bytes, of all that may be tried.  looks: how much of the text is read for the quick look.
    costs: body or embedding → KL in nats, the rest of the model left at F16, as far as it was looked at.
    """

    def __init__(
        self, quantizer: Quantizer, meter: Meter, text: Evaluation, bodies: Sequence[Body], embeddings: Sequence[str],
        look_tokens: int, finalists: int,
    ) -> None:  # fmt: skip
        self._quantizer, self._meter, self._text = quantizer, meter, text
        self._look, self._finalists = text.first(look_tokens), finalists
        self.sizes = quantizer.expected_sizes(candidates(bodies, embeddings))
        self.costs: dict[str, float] = {}

    def near(self, size: int) -> list[Mixture]:
        """What fits a size and uses most of it. Raises SmidgenError where there is nothing."""
        found = [mixture for mixture, nbytes in self.sizes.items() if (1 - _NEAR) * size < nbytes <= size]
        if not found:
            known = sorted(self.sizes.values())
            below, above = ([n for n in known if n <= size], [n for n in known if n > size])
            raise SmidgenError(
                f"No mixture of llama.cpp's comes near {size:,} bytes: the next smaller one has "
                f"{max(below, default=0):,}, the next larger one {min(above, default=0):,}; choose another size."
            )
        return found

    def best(self, size: int) -> list[Measured]:
        """The most promising mixtures of at most `size` bytes, measured in full, best first."""
        near = self.near(size)
        self._screen(near)
        promising = [mixture for mixture in near if not any(self._outdoes(other, mixture) for other in near)]
        ranked = sorted(promising, key=lambda mixture: self.costs[str(mixture.body)] + self.costs[mixture.embedding])
        measured = [one for one in map(self._in_full, ranked[: self._finalists]) if one.nbytes <= size]
        if not measured:
            raise SmidgenError(f"llama.cpp's files are larger than foretold, and over {size} bytes; ask for another.")
        return sorted(measured, key=lambda one: one.figures["kl_mean"])

    def _screen(self, mixtures: Iterable[Mixture]) -> None:
        """Look at every body and every embedding that occurs."""
        for mixture in mixtures:
            if (name := str(mixture.body)) not in self.costs:
                self.costs[name] = self._quick_look(alone(mixture.body), self._quantizer.made)
            if (name := mixture.embedding) not in self.costs:
                self.costs[name] = self._quick_look(only(mixture.embedding), self._made_for_now)

    def _quick_look(self, mixture: Mixture, make: Callable[[Mixture], Path]) -> float:
        key = f"quick look {name_of(**self._quantizer.inputs(mixture), ids=self._look.rows())}"
        if key not in self._meter.known:
            self._meter.remember(key, self._meter.figures(make(mixture), self._look, f"quick look at {mixture}"))
        found = self._meter.known[key]["kl_mean"]
        say(f"quick look, KL {found:.4f}: {mixture}")
        return found

    def _made_for_now(self, mixture: Mixture) -> Path:
        """A file that the next one overwrites: it is almost as large as the model, and not asked for again."""
        path = self._quantizer.shelf.folder / "embedding.gguf"
        self._quantizer.make(mixture, path)
        return path

    def _in_full(self, mixture: Mixture) -> Measured:
        path = self._quantizer.made(mixture)
        figures = self._meter.by_article(path, self._text, str(mixture))
        command = record.shown(self._quantizer.command(mixture, self._quantizer.original, Path("quantized.gguf")))
        say(f"{path.stat().st_size:,} bytes, KL {figures['kl_mean']:.4f}: {mixture}")
        return Measured(mixture, path, path.stat().st_size, figures, command)

    def _outdoes(self, other: Mixture, mixture: Mixture) -> bool:
        """Whether `other` has the same body with an embedding that costs less and is no larger."""
        cheaper = self.costs[other.embedding] < self.costs[mixture.embedding]
        return cheaper and other.body == mixture.body and self.sizes[other] <= self.sizes[mixture]
