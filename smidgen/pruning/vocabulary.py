"""Vocabulary trimming: keep the tokens that the wanted text and languages need, in an order found by the model itself.

Leaving out the set D of tokens changes each next-token distribution p to p / (1 − p(D)) on the rest. From the original
restricted to the kept tokens this differs by nothing; from the original itself by KL(restricted ‖ original) =
−log(1 − p(D)) nats, `dropped`. But where the text has a token of D, it must be spelled in pieces in a way that the
model never saw in training, because its tokenizer always wrote the token; it finds them about `RESPELLED` nats less
likely (measured on Gemma 3 270M, see LOG.md). That is nearly all of the cost, in the unit of quantization's:

    damage = RESPELLED · (share of the text's tokens that are in D)    nats per token

Both go with the expected masses p̄(v) = E[p(v)] of what is left out: keep the tokens with the highest. Two estimates of
p̄ are mixed half and half: the mean of the model's own distribution over the positions of a text, and the shares of the
tokens in that text. The first tells of every token from a few thousand positions, where counting knows nothing of
tokens that have not occurred yet; the second does not share the model's mistakes, and wins where there is much text.
Each text has an equal say, whatever its length. The smallest of priors settles the rest: tokens in the scripts of the
wanted languages, by rank as in Zipf's law (ids are in order of merging, which is about that of frequency).

What the sizes cost is rehearsed on text that was not looked at: an order by the first half of each text is measured on
the second half. (On the text that chose it, an order looks far better than it is: new text has new names.) The order
that is used then looks at both halves.

Tokens enter the order after the tokens that they are made of (`model.tokenizers.subset`), so that every beginning of it
that holds the essential ones is a vocabulary that works.

Cost: the blocks over some thousand positions, and one and a half products of these with the whole head. Memory: two
bytes for each token and some hundred positions at a time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from smidgen.calibration.walk import Walk
from smidgen.data.languages import Language, scripts_of
from smidgen.data.sources import TextSource
from smidgen.data.text import Windows, cut_into_windows, spread, window_length
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Derived, Kept, Tokens
from smidgen.formats.parts import head_name, load_block, load_exit
from smidgen.model.attention import soft_cap
from smidgen.model.parameters import LAYER_EMBEDDING
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.subset import Pieces, subset
from smidgen.numerics.precision import fast_product_dtype, quick_products
from smidgen.progress import Task, track
from smidgen.shapes import Float, Int

MULTIPLE = 256  # of the sizes that `choose_size` proposes
RESPELLED = 10.0  # nats that a token costs which has to be spelled in pieces
TOLERANCE = 0.03  # nats per token that `choose_size` accepts: about 1% of what a token carries

_POSITIONS = 8192  # of all texts together, for the expected masses …
_POSITIONS_EACH = 1024  # … and at least so many of each
_LADDER_POSITIONS = 4096  # for what the sizes cost
_LADDER_POSITIONS_EACH = 512
_LADDER_STEPS = 48
_HEAD_ROWS = 4096
_BUFFER_BYTES = 2**28
_PRIOR = 1e-5  # weight of the prior beside the masses
_ZIPF_OFFSET = 100.0
_SCRIPT_SHARE = 0.01  # of a text's letters from which on it counts as written in a script too


@dataclass(frozen=True)
class Ranking:
    """All tokens in the order in which they are worth keeping.

    order: ids, best first; every beginning of at least `least` of them is closed.  essential: the ids that stay always.
    by_mass: ids by expected mass alone.  sizes: those for which the cost was computed, ascending, up to all.
    dropped, outside: for each text, by size: nats per token lost to what is left out; share of its tokens left out.
    """

    order: Int[np.ndarray, " vocab"]
    least: int
    essential: frozenset[int]
    by_mass: Int[np.ndarray, " vocab"]
    sizes: Int[np.ndarray, " sizes"]
    dropped: Mapping[str, Float[np.ndarray, " sizes"]]
    outside: Mapping[str, Float[np.ndarray, " sizes"]]

    def damage(self, size: int, source: str | None = None) -> float:
        """Nats per token that a vocabulary of this size costs: for one text, or for None on average over all."""
        return RESPELLED * self.outside_share(size, source)

    def dropped_nats(self, size: int, source: str) -> float:
        """How far the restricted distribution is from the whole one, in nats per token of a text."""
        return _between(self.sizes, self.dropped[source], size)

    def outside_share(self, size: int, source: str | None = None) -> float:
        """Share of the text's tokens that are left out, and so are spelled with others."""
        return _between(self.sizes, _of(self.outside, source), size)


@dataclass(frozen=True)
class VocabularyPlan:
    """kept: ids in the original, ascending.  vocabulary: tokens of the original.  special: kept whatever the text.
    pieces: kept only because other tokens are made of them.  dropped, outside: as in `Ranking`, by text.
    """

    kept: Int[np.ndarray, " kept"]
    vocabulary: int
    special: int
    pieces: int
    dropped: Mapping[str, float]
    outside: Mapping[str, float]

    def report(self) -> dict[str, Any]:
        """For the card."""
        return {
            "tokens": len(self.kept),
            "tokens_original": self.vocabulary,
            "special": self.special,
            "pieces_of_others": self.pieces,
            "dropped_nats": dict(self.dropped),
            "outside_share": dict(self.outside),
        }


def rank(checkpoint: Checkpoint, sources: Sequence[TextSource], languages: Sequence[Language], seed: int) -> Ranking:
    """Order a model's tokens by what they are worth for these texts, each with an equal say.

    languages: whose scripts come first where the texts leave it open.  seed: chooses the windows of long texts.
    Raises SmidgenError where there is no text.
    """
    if not sources:
        raise SmidgenError("No text to choose the vocabulary by. Name languages with --langs or give --text FILE.")
    metadata = checkpoint.file.metadata
    tokenizer, pieces = Tokenizer.from_gguf(metadata), Pieces(metadata)
    length = window_length(checkpoint.config.context_length)
    texts = [cut_into_windows(source.text, tokenizer, length) for source in sources]
    wholes = [windows.take(_longest(windows)) for windows in texts]
    each = max(_POSITIONS // len(sources), _POSITIONS_EACH)
    hidden = [_hidden_states(checkpoint, spread(windows, each, seed)) for windows in wholes]
    seen = [states[: len(states) // 2] for states in hidden]
    unseen = [states[len(states) // 2 :] for states in hidden]
    counts = np.stack([_counts(windows, len(tokenizer)) for windows in texts])  # [text, half, token]
    prior = _PRIOR * _prior(tokenizer, pieces, sources, languages)
    least = len(pieces.closed([]))
    sizes = _ladder(least, len(tokenizer))
    with track("Choosing the vocabulary", _costs([*seen, *unseen], unseen, sizes)) as task:
        masses = np.stack([_expected_masses(checkpoint, half, task) for half in (seen, unseen)], axis=1)
        _, rehearsal = _order(pieces, (masses[:, 0] + counts[:, 0]) / 2, prior)
        by_mass, order = _order(pieces, (masses + counts).mean(1) / 2, prior)
        lost = _lost(checkpoint, unseen, rehearsal, sizes, task)
    names = [source.name for source in sources]
    left_out = np.cumsum(counts[:, 1, rehearsal[::-1]], axis=1)[:, ::-1]  # share of the tokens from each place on
    outside = np.pad(left_out, ((0, 0), (0, 1)))[:, sizes]
    return Ranking(
        order, least, pieces.essential, by_mass, sizes,
        dict(zip(names, lost, strict=True)), dict(zip(names, outside, strict=True)),
    )  # fmt: skip


def _order(pieces: Pieces, worth: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids by what they are worth to the texts, [text, token], on average; and the same with all they are made of."""
    ranked = np.argsort(-(worth.mean(0) + prior), kind="stable")
    ordered = pieces.in_order([*sorted(pieces.essential), *ranked.tolist()])
    return ranked, np.array(list(ordered), dtype=np.int64)


def choose_size(ranking: Ranking, tolerance: float = TOLERANCE) -> int:
    """The smallest multiple of `MULTIPLE` that costs at most `tolerance` nats a token on average over the texts, and
    no text more than twice that. All tokens, where no smaller vocabulary does."""
    for size in range(-(-ranking.least // MULTIPLE) * MULTIPLE, len(ranking.order), MULTIPLE):
        worst = max(ranking.damage(size, source) for source in ranking.dropped)
        if ranking.damage(size) <= tolerance and worst <= 2 * tolerance:
            return size
    return len(ranking.order)


def plan(ranking: Ranking, size: int) -> VocabularyPlan:
    """Keep the best `size` tokens; all of them where there are no more.

    Raises SmidgenError, naming the smallest vocabulary that is possible, for a smaller one.
    """
    if size < ranking.least:
        raise SmidgenError(
            f"A vocabulary of {size} tokens cannot hold this model's bytes and special tokens; "
            f"the smallest possible is {ranking.least}. Ask for that or more with --vocab."
        )
    size = min(size, len(ranking.order))
    kept = np.sort(ranking.order[:size])
    wanted = set(ranking.by_mass[:size].tolist()) | ranking.essential
    return VocabularyPlan(
        kept,
        len(ranking.order),
        len(ranking.essential),
        sum(token not in wanted for token in kept.tolist()),
        {name: ranking.dropped_nats(size, name) for name in ranking.dropped},
        {name: ranking.outside_share(size, name) for name in ranking.outside},
    )


def apply(checkpoint: Checkpoint, plan: VocabularyPlan) -> Derived:
    """The model with the kept rows of embedding, head and the table of the layers, and the tokenizer to match."""
    file = checkpoint.file
    tokens = Tokens(*subset(file.metadata, file.metadata_types, plan.kept))
    names = {"embedding.weight", head_name(checkpoint.config)}
    config = replace(checkpoint.config, vocabulary=len(plan.kept))
    parts = {name: Kept(name, plan.kept) for name in names}
    if rows := config.layer_input_rows:  # each token gets the row that it reads today
        config = replace(config, layer_input_rows=len(plan.kept))
        parts[LAYER_EMBEDDING] = Kept(LAYER_EMBEDDING, np.where(plan.kept < rows, plan.kept, 0))
    return Derived(config, parts, tokens)


# -- what a size costs -----------------------------------------------------------------------------------------------


def _of(values: Mapping[str, np.ndarray], source: str | None) -> np.ndarray:
    return np.mean(list(values.values()), axis=0) if source is None else values[source]


def _between(sizes: np.ndarray, values: np.ndarray, size: int) -> float:
    """Linear in the logarithm of the size, which the cost nearly is."""
    return float(np.interp(math.log(max(size, 1)), np.log(sizes), values))


def _ladder(least: int, size: int) -> Int[np.ndarray, " sizes"]:
    """From the least to all, by equal factors."""
    return np.unique(np.geomspace(least, size, _LADDER_STEPS).round().astype(np.int64))


@torch.no_grad()
def _lost(
    checkpoint: Checkpoint,
    hidden: Sequence[Float[torch.Tensor, "_position hidden"]],
    order: np.ndarray,
    sizes: np.ndarray,
    task: Task,
) -> Float[np.ndarray, "source sizes"]:
    """E[−log(1 − p(D))] over positions, for each text and size, in one stream over the head in the order of worth."""
    parts = [states[torch.linspace(0, len(states) - 1, used).long()] for states, used in _ladder_positions(hidden)]
    states = torch.cat(parts)
    name, ids = head_name(checkpoint.config), torch.from_numpy(order)
    total, shift = torch.zeros(len(states), dtype=torch.float64), torch.full((len(states),), -torch.inf)
    logs: list[torch.Tensor] = []
    for start, stop in zip([0, *sizes.tolist()], sizes.tolist(), strict=False):
        for first in range(start, stop, _HEAD_ROWS):
            rows = checkpoint.gather(name, ids[first : min(first + _HEAD_ROWS, stop)])
            checkpoint.release()
            with quick_products():
                logits = soft_cap(states @ rows.T, checkpoint.config.logit_cap)
            higher = torch.maximum(shift, logits.amax(1))
            total *= (shift - higher).exp()
            total += logits.sub_(higher[:, None]).exp_().sum(1, dtype=torch.float64)
            shift = higher
        logs.append(shift + total.log())
        task.advance()
    lost = logs[-1] - torch.stack(logs)
    means = [part.mean(1) for part in lost.split([len(part) for part in parts], dim=1)]
    return torch.stack(means).numpy()


def _ladder_positions(hidden: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, int]]:
    """The states of each text, and how many of them say what the sizes cost."""
    each = max(_LADDER_POSITIONS // len(hidden), _LADDER_POSITIONS_EACH)
    return [(states, min(each, len(states))) for states in hidden]


# -- what a token is worth -------------------------------------------------------------------------------------------


def _longest(windows: Windows) -> list[int]:
    """The windows that are filled: a short rest at the end must not stand for a text. In a short text, all there is."""
    return (windows.lengths == windows.lengths.max()).nonzero()[:, 0].tolist()


def _counts(windows: Windows, vocabulary: int) -> Float[np.ndarray, "half vocab"]:
    """The share of each token in the first and in the second half of a text."""
    tokens = np.concatenate([np.asarray(row[windows.has_bos :], np.int64) for row in windows.rows()])
    halves = (tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :])
    return np.stack([np.bincount(half, minlength=vocabulary) / max(len(half), 1) for half in halves])


def _prior(
    tokenizer: Tokenizer, pieces: Pieces, sources: Sequence[TextSource], languages: Sequence[Language]
) -> Float[np.ndarray, " vocab"]:
    """Zipf's law over the tokens that are in the wanted scripts and that text can become; 0 for all others."""
    wanted = {script for language in languages for script in language.scripts}
    for source in sources:
        found = scripts_of(source.text[:100_000])
        wanted |= {script for script, count in found.items() if count >= _SCRIPT_SHARE * sum(found.values())}
    fits = np.array([scripts_of(tokenizer.decode([token])).keys() <= wanted for token in range(len(tokenizer))])
    fits &= pieces.reachable
    weights = np.where(fits, 1 / (np.cumsum(fits) + _ZIPF_OFFSET), 0.0)
    return weights / weights.sum()


@torch.no_grad()
def _hidden_states(checkpoint: Checkpoint, windows: Windows) -> Float[torch.Tensor, "position hidden"]:
    """What the head reads at every position of the text, but for that of BOS, which foretells no text in particular."""
    windows = windows.trimmed()
    walk = Walk(checkpoint, windows.ids)
    for index in range(len(checkpoint.config.layers)):
        walk.advance(load_block(checkpoint, index), index)
        checkpoint.release()
    inside = windows.real()
    if windows.has_bos:
        inside[:, 0] = False
    return load_exit(checkpoint)(walk.states[inside])


@torch.no_grad()
def _expected_masses(
    checkpoint: Checkpoint, hidden: Sequence[Float[torch.Tensor, "_position hidden"]], task: Task
) -> Float[np.ndarray, "source vocab"]:
    """p̄ for each text. The logits of some hundred positions are held whole, in two bytes each, as averages allow."""
    config = checkpoint.config
    at_once = _at_once(config.vocabulary)
    masses = np.zeros((len(hidden), config.vocabulary), dtype=np.float64)
    buffer = torch.empty(config.vocabulary, at_once, dtype=torch.bfloat16)
    for source, states in enumerate(hidden):
        for part in states.split(at_once):
            weights = buffer[:, : len(part)]
            _logits(checkpoint, part, weights)
            shift = weights.amax(0)
            total = torch.zeros(len(part))
            for chunk in weights.split(_HEAD_ROWS):
                chunk.copy_((chunk - shift).float().exp_())
                total += chunk.sum(0, dtype=torch.float32)
            share = (1 / (total * len(states))).to(weights.dtype)
            masses[source] += (weights @ share).double().numpy()
            task.advance()
    return masses


def _logits(checkpoint: Checkpoint, states: Float[torch.Tensor, "position hidden"], out: torch.Tensor) -> None:
    """Logits of all tokens (rows) at some positions (columns)."""
    config, dtype = checkpoint.config, fast_product_dtype()
    columns = states.to(dtype).T
    for start in range(0, config.vocabulary, _HEAD_ROWS):
        rows = checkpoint.rows(head_name(config), start, min(start + _HEAD_ROWS, config.vocabulary))
        checkpoint.release()
        out[start : start + len(rows)] = soft_cap(rows.to(dtype) @ columns, config.logit_cap)


def _at_once(vocabulary: int) -> int:
    return max(1, min(_POSITIONS, _BUFFER_BYTES // (2 * vocabulary)))


def _costs(weighed: Sequence[torch.Tensor], tried: Sequence[torch.Tensor], sizes: np.ndarray) -> list[int]:
    """Of the steps of `_expected_masses` with states `weighed`, then of `_lost` with `tried`: logits computed."""
    at_once, whole = _at_once(int(sizes[-1])), int(sizes[-1])
    masses = [len(part) * whole for states in weighed for part in states.split(at_once)]
    positions = sum(used for _, used in _ladder_positions(tried))
    return masses + [positions * rows for rows in np.diff(sizes, prepend=0).tolist()]
