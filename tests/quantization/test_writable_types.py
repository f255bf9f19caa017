"""What no type may do to any matrix, however odd: give NaN, or do worse than plain rounding."""

import pytest
import torch
from torch import Tensor

from smidgen.calibration.sample import Gathering
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.decode import decode
from smidgen.numerics.grids import GRIDS
from smidgen.quantization.compensate import compensate
from smidgen.quantization.encode import Metric, encode

WRITABLE = [*GRIDS, *FORMATS]
WIDTH = 512
G = torch.Generator().manual_seed(21)
USUAL = torch.randn(12, WIDTH, generator=G) * 0.05


def metric_of(x: Tensor) -> Metric:
    """Of inputs, an eighth of which judge."""
    gathered = Gathering(WIDTH)
    gathered.add(x, torch.ones(len(x)), torch.arange(len(x)) % 8 == 7)
    return Metric(gathered.sample())


def with_outlier(size: float) -> Tensor:
    weight = USUAL.clone()
    weight[3, 77] = size
    return weight


INPUTS = torch.randn(2000, WIDTH, generator=G) @ torch.randn(WIDTH, WIDTH, generator=G) / WIDTH**0.5
WEIGHTS = {
    "usual": USUAL,
    "zero": torch.zeros(4, WIDTH),
    "some zero rows": USUAL * (torch.arange(12) % 3 != 0)[:, None],
    "constant": torch.full((3, WIDTH), -0.3),
    "each row another constant": torch.linspace(-1, 1, 5)[:, None].expand(-1, WIDTH).contiguous(),
    "all positive": USUAL.abs() + 0.01,
    "all negative": -USUAL.abs() - 0.01,
    "outlier": with_outlier(50.0),
    "huge outlier": with_outlier(-6e4),
    "subnormal scales": USUAL * 1e-5,
    "scales below float16": USUAL * 1e-12,
    "large": USUAL * 1e5,
    "one row": USUAL[:1],
}
KINDS_OF_INPUTS = {
    "usual": INPUTS,
    "none but zero": torch.zeros(300, WIDTH),
    "one token": INPUTS[:1],
    "few tokens": INPUTS[:40],
    "inputs that never occur": INPUTS * (torch.arange(WIDTH) % 5 != 0),
    "one input alone": INPUTS * (torch.arange(WIDTH) == 9),
    "very uneven": INPUTS * torch.logspace(-4, 4, WIDTH),
}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Metric]:
    return {name: metric_of(inputs) for name, inputs in KINDS_OF_INPUTS.items()}


def check(weight: Tensor, kind: BlockType, metric: Metric) -> None:
    for _, factor in metric.factors():
        assert decode(compensate(weight, kind, factor), kind).isfinite().all()
    encoded, plain = encode([weight], kind, metric), compensate(weight, kind, metric.rounding)
    errors = [decode(packed, kind) - weight for packed in (encoded.packed, plain)]
    loss, rounding = (float(metric.sample.damage(error).double().sum()) for error in errors)
    assert 0 <= loss <= rounding * (1 + 1e-5)
    nothing = float(metric.sample.damage(weight).double().sum())
    assert rounding <= nothing * (1 + 1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_odd_weights(kind: BlockType, weights: str, metrics: dict[str, Metric]) -> None:
    check(WEIGHTS[weights], kind, metrics["usual"])


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_what_no_type_can_hold_becomes_the_largest_that_it_can(kind: BlockType, metrics: dict[str, Metric]) -> None:
    """One such weight, or nothing else: no error of Python, no NaN, and the other rows are as they were."""
    metric = metrics["usual"]
    usual = compensate(USUAL[:4], kind, metric.rounding)[:3]
    for outlier in (1e10, -3.4e38):
        packed = compensate(with_outlier(outlier)[:4], kind, metric.rounding)
        assert torch.equal(packed[:3], usual)
        found = float(decode(packed, kind)[3, 77])
        assert found * outlier > 0 and 6e4 < abs(found) < 2.0**28
    for weight in (with_outlier(1e37)[2:4], USUAL[:2] / USUAL[:2].abs().max() * 3.4e38):
        assert decode(encode([weight], kind, metric).packed, kind).isfinite().all()


@pytest.mark.parametrize("inputs", KINDS_OF_INPUTS)
@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_odd_inputs(kind: BlockType, inputs: str, metrics: dict[str, Metric]) -> None:
    check(USUAL, kind, metrics[inputs])


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_rows_that_no_block_divides_are_refused(kind: BlockType) -> None:
    assert not kind.fits(kind.block + 16)
    with pytest.raises((ValueError, RuntimeError)):
        compensate(torch.zeros(2, kind.block + 16), kind, torch.ones(kind.block + 16))


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_threads_make_no_difference(kind: BlockType, metrics: dict[str, Metric]) -> None:
    (_, factor), *_ = metrics["usual"].factors()
    weight, packed, threads = USUAL.repeat(40, 1), [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            packed.append(compensate(weight, kind, factor))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*packed)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_many_rows_are_encoded_as_few_are(kind: BlockType, metrics: dict[str, Metric]) -> None:
    """However candidates are shared out over the cache: a part of one must not round the weights themselves."""
    (_, factor), *_ = metrics["usual"].factors()
    weight = USUAL[:16].repeat(300, 1)
    few, many = compensate(USUAL[:16], kind, factor), compensate(weight, kind, factor)
    errors = [decode(packed, kind) - rows for packed, rows in ((few, USUAL[:16]), (many, weight))]
    losses = [float(metrics["usual"].sample.damage(error).mean()) for error in errors]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # sums in another order may turn a tie
