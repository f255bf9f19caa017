"""The survey's damages against measured KL divergence: one matrix at a time really encoded, in every family.

Nothing here knows how a damage is estimated. The text is short, so both sides look at the same one: what is tested is
the estimate, not how much one text is like another.

An estimate hangs on the labels that are drawn, one for each of 736 positions: from draw to draw a family's whole moves
by some 5%, a role by some 10%, and another processor's rounding is another draw. So a family in which something is
beyond a bound is drawn again, and fails where the mean is beyond it by more than its own standard error explains.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from smidgen.calibration import gradients
from smidgen.calibration.gradients import survey_blocks
from smidgen.calibration.moments import linear_of
from smidgen.calibration.sample import Sample
from smidgen.calibration.sequence import Inputs, advance_replacing
from smidgen.calibration.walk import StateShelf, Walk
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_block, load_decoder
from smidgen.model.decoder import Block, Decoder
from smidgen.model.feed_forward import Experts
from smidgen.numerics.block_types import Q5_0
from smidgen.numerics.decode import decode
from smidgen.progress import Task
from smidgen.quantization.encode import Metric, encode, encode_runs
from smidgen.quantization.survey import Survey, survey
from tests.family_models import FAMILY_MODELS, VOCABULARY, save_folder, save_tokenizer, strengthen
from tests.nano_models import save_nano

NANO = ("gemma4", "gemma4 keys")

DRAWS = 4
WINDOWS = torch.randint(0, VOCABULARY, (32, 24), generator=torch.Generator().manual_seed(1))


def shelf(folder: Path) -> StateShelf:
    folder.mkdir()
    return StateShelf(folder)


def encoded(checkpoint: Checkpoint, found: Survey) -> dict[str, Tensor]:
    """Every matrix as Q5_0 would leave it, each with the inputs that it has in the original."""
    changed: dict[str, Tensor] = {}
    walk = Walk(checkpoint, WINDOWS)
    for index in range(len(checkpoint.config.layers)):
        block = load_block(checkpoint, index)

        def keep(names: tuple[str, ...], inputs: Inputs, index: int = index, block=block) -> None:
            for name in names:
                full = f"blocks.{index}.{name}.weight"
                metric = Metric(inputs.sample(found.token_weights[full]))
                changed[full] = decode(encode([linear_of(block, name).weight], Q5_0, metric).packed, Q5_0)

        advance_replacing(block, walk.states, walk.besides(index), keep)
    for name, samples in found.ends.items():
        changed[name] = decode(encode_runs(checkpoint.tensor(name), Q5_0, list(map(Metric, samples))).packed, Q5_0)
    return changed


def log_probabilities(logits: Tensor) -> Tensor:
    return logits[:, :-1].double().log_softmax(-1)


def divergence(p: Tensor, q: Tensor) -> float:
    """Mean KL of log-probabilities, in nats per token."""
    return float((p.exp() * (p - q)).sum(-1).mean())


class Measuring:
    """A model of which one matrix at a time is changed.

    Tokens keep the experts that they have in the original: that another is chosen is a jump, which grows with the
    change and not with its square, and which no second order sees.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        for block in decoder.blocks:
            assert isinstance(block, Block)
            if block.experts is not None:
                block.experts.route = pinned(block.experts)  # type: ignore[method-assign]
        self._original = log_probabilities(decoder(WINDOWS))

    def kl(self, name: str, weight: Tensor) -> float:
        """Of the model with this matrix changed, in nats per token."""
        parameter = self._decoder.get_parameter(name)
        kept, parameter.data = parameter.data, weight
        changed = log_probabilities(self._decoder(WINDOWS))
        parameter.data = kept
        return divergence(self._original, changed)


def pinned(experts: Experts) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A router that chooses as it did the first time; the shares move."""
    first: list[Tensor] = []

    def route(x: Tensor) -> tuple[Tensor, Tensor]:
        if not first:
            first.append(Experts.route(experts, x)[1])
        return experts.router(x).gather(1, first[0]).softmax(-1), first[0]

    return route


@pytest.mark.parametrize("family", [*FAMILY_MODELS, *NANO])
def test_what_was_expected_is_what_is_measured(family: str, tmp_path: Path) -> None:
    """Of each family all in all, of each role over its layers, and of every single matrix."""
    (tmp_path / "model").mkdir()
    (save_nano if family in NANO else save_folder)(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as checkpoint:

        def drawn(seed: int) -> Survey:
            return survey(checkpoint, WINDOWS, seed, shelf(tmp_path / f"{seed}"), (Q5_0,))

        draws = [drawn(0)]
        with torch.no_grad():
            measuring = Measuring(load_decoder(checkpoint))
            measured = {name: measuring.kl(name, weight) for name, weight in encoded(checkpoint, draws[0]).items()}
        if not_as_measured(family, draws, measured):
            draws += [drawn(seed) for seed in range(1, DRAWS)]
    assert not_as_measured(family, draws, measured) == []


def not_as_measured(family: str, draws: list[Survey], measured: dict[str, float]) -> list[str]:
    """What was expected too high or too low."""
    roles: dict[str, list[str]] = {}
    for name in measured:
        roles.setdefault(name.split(".")[-2], []).append(name)
    # The tiny Phi-4 is overrated, its values most (1.22 and 1.40): open (LOG.md).
    most = {role: 1.5 if (family, role) == ("phi4", "value") else 1.3 for role in roles}
    bounds = [(name, [name], 0.6, 1.7) for name in measured]
    bounds += [(role, names, 0.75, most[role]) for role, names in roles.items()]
    bounds.append(("all", list(measured), 0.8, 1.3 if family == "phi4" else 1.2))
    found = [(what, ratios(names, draws, measured), low, high) for what, names, low, high in bounds]
    return [f"{what} {ratios.tolist()}" for what, ratios, low, high in found if not lies_within(low, ratios, high)]


def ratios(names: list[str], draws: list[Survey], measured: dict[str, float]) -> Tensor:
    """Of what was expected to what was measured, over these matrices, by each draw."""
    expected = torch.tensor([[found.damage[name]["Q5_0"] for name in names] for found in draws], dtype=torch.float64)
    return expected.sum(1) / sum(measured[name] for name in names)


def lies_within(low: float, ratios: Tensor, high: float) -> bool:
    """Whether the mean over draws is in these bounds, or beyond them by no more than two standard errors."""
    error = float(ratios.std()) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    return low - 2 * error < float(ratios.mean()) < high + 2 * error


@torch.no_grad()
def test_a_soft_cap_spares_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2 with logits well beyond the cap: what errors of the head do there, measured, expected with the slope of
    the cap, and without it.
    """
    folder = tmp_path / "model"
    model = FAMILY_MODELS["gemma2"].make().eval()
    assert isinstance(model, transformers.PreTrainedModel)
    strengthen(model)
    model.get_parameter("model.norm.weight").add_(1).mul_(4).sub_(1)  # Gemma's norms are stored around 0
    model.save_pretrained(folder)
    save_tokenizer(folder)
    with open_checkpoint(folder) as checkpoint:
        decoder, weight = load_decoder(checkpoint), checkpoint.tensor("embedding.weight")
        error = decode(encode([weight], Q5_0, unweighted(weight.shape[1])).packed, Q5_0) - weight
        expected = head_damage(checkpoint, error, tmp_path / "one")
        monkeypatch.setattr(gradients, "_cap_slope", lambda *_: 1.0)
        uncapped = head_damage(checkpoint, error, tmp_path / "two")
    hidden = decoder.hidden_states(WINDOWS)
    before = log_probabilities(decoder.logits(hidden))
    decoder.get_parameter("embedding.weight").add_(error)
    found = divergence(before, log_probabilities(decoder.logits(hidden)))
    assert 0.8 < expected / found < 1.25
    assert uncapped / found > 2


def unweighted(width: int) -> Metric:
    """Inputs of which nothing is known."""
    return Metric(Sample(torch.eye(width), torch.empty(0, width), 0, 0.0))


def head_damage(checkpoint: Checkpoint, error: Tensor, folder: Path) -> float:
    """½ Σᵥ E[pᵥ(1 − pᵥ) c'ᵥ² (Δᵥ·h)²] as the survey sees it: all tokens alike, since errors of rows are."""
    with torch.enable_grad():
        ends = survey_blocks(checkpoint, WINDOWS, lambda _: None, shelf(folder), Task("", 0))
    return 0.5 * float((ends.head_input @ error.T).square().mean())
