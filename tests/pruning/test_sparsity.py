"""Weight sparsity: patterns as people write them, exact counts, whole models thinned in order, resumed to the bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.calibration.moments import linear_of
from smidgen.calibration.sequence import Inputs
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.derived import Changed, Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_block
from smidgen.formats.workspace import Workspace
from smidgen.model.parameters import block_linears
from smidgen.numerics.factor import inverse_factor
from smidgen.pruning import sparsity
from smidgen.pruning.masks import Pattern, magnitude, sparsegpt, wanda
from smidgen.pruning.sparsity import METHODS, Method, check, sparsify
from tests.tiny_models import LLAMA_CONFIG, write_gemma3, write_llama

PATTERNS = ["50%", "33%", "2:4", "4:8", "1:4"]


def windows(seed: int = 0, count: int = 6) -> Tensor:
    return torch.randint(3, 290, (count, 40), generator=torch.Generator().manual_seed(seed))


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zeros", "group", "shown"),
    [
        ("50%", 0.5, None, "50%"), ("0.5", 0.5, None, "50%"), (".25", 0.25, None, "25%"),
        ("12.5%", 0.125, None, "12.5%"),
        ("2:4", 0.5, 4, "2:4"), (" 4:8 ", 0.5, 8, "4:8"), ("1:3", 2 / 3, 3, "1:3"),
    ],
)  # fmt: skip
def test_patterns(text: str, zeros: float, group: int | None, shown: str) -> None:
    pattern = Pattern.parse(text)
    assert (pattern.zeros, pattern.group, str(pattern)) == (pytest.approx(zeros), group, shown)
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("half", "neither a share such as 50% nor a pattern such as 2:4"),
        ("50", "neither a share"), ("1.5", "neither a share"), ("-0.5", "neither a share"), ("", "neither a share"),
        ("2:4\n", None), ("٢:٤", "neither a share"), ("nan", "neither a share"), ("1e-3", "neither a share"),
        ("0%", "all weights or none"), ("100%", "all weights or none"), ("400%", "all weights or none"),
        ("4:4", "0 < N < M"), ("0:4", "0 < N < M"), ("4:2", "0 < N < M"), ("2:99", "0 < N < M"),
    ],
)  # fmt: skip
def test_patterns_that_are_none(text: str, words: str | None) -> None:
    if words is None:
        assert Pattern.parse(text) == Pattern.parse(text.strip())
        return
    with pytest.raises(SmidgenError, match=words) as caught:
        Pattern.parse(text)
    assert "\n" not in str(caught.value)


def test_groups_have_to_fill_the_rows() -> None:
    with pytest.raises(SmidgenError, match=r"4:9 needs rows divisible by 9; blocks.0.attention.query has 64 columns"):
        check(LLAMA_CONFIG, Pattern.parse("4:9"))
    odd = replace(LLAMA_CONFIG.layers[0], ffn_width=100)
    config = replace(LLAMA_CONFIG, layers=(LLAMA_CONFIG.layers[0], odd))
    with pytest.raises(SmidgenError, match=r"blocks.1.feed_forward.down has 100 columns"):
        check(config, Pattern.parse("4:8"))
    check(config, Pattern.parse("2:4"))


# -- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("method", METHODS)
def test_exactly_as_many_zeros_as_asked(method: Method, text: str) -> None:
    pattern, weight, x = Pattern.parse(text), random(24, 312), random(700, 312, seed=2)
    energy, hessian = x.square().mean(0), x.T @ x / len(x)
    thinned = {
        "magnitude": lambda: magnitude(weight, pattern),
        "wanda": lambda: wanda(weight, energy, pattern),
        "sparsegpt": lambda: sparsegpt(weight, inverse_factor(hessian), pattern),
    }[method]()
    zeros = thinned == 0
    if pattern.group is not None:
        assert (zeros.unflatten(1, (-1, pattern.group)).sum(2) == pattern.group * pattern.zeros).all()
    elif method == "magnitude":
        assert int(zeros.sum()) == round(24 * 312 * pattern.zeros)
    else:
        assert (zeros.sum(1) == round(312 * pattern.zeros)).all()
    if method != "sparsegpt":
        assert torch.equal(thinned[~zeros], weight[~zeros])


def test_what_goes() -> None:
    weight = torch.tensor([[1.0, -4, 2, -3], [-8, 5, 7, 6]])
    assert magnitude(weight, Pattern.parse("50%")).tolist() == [[0, 0, 0, 0], [-8, 5, 7, 6]]
    assert magnitude(weight, Pattern.parse("2:4")).tolist() == [[0, -4, 0, -3], [-8, 0, 7, 0]]
    energy = torch.tensor([100.0, 1, 1, 1])
    assert wanda(weight, energy, Pattern.parse("50%")).tolist() == [[1, -4, 0, 0], [-8, 0, 7, 0]]


def test_inputs_that_never_occur() -> None:
    """Weights on them cost nothing and go first, and nothing becomes infinite."""
    weight, x = random(8, 64), random(300, 64, seed=3)
    x[:, ::2] = 0
    thinned = sparsegpt(weight, inverse_factor(x.T @ x / len(x)), Pattern.parse("50%"))
    assert torch.isfinite(thinned).all() and (thinned[:, ::2] == 0).double().mean() > 0.9


@pytest.mark.parametrize("alike", [True, False])
def test_tokens_that_judge_decide_whether_to_compensate(alike: bool, tmp_path: Path) -> None:
    """What the tokens that are fitted to say of two inputs is not made use of where those that judge say another."""
    x, judging, pattern = random(400, 64, seed=5), torch.arange(400) >= 300, Pattern.parse("50%")
    x += 3 * random(400, 32, seed=7).repeat_interleave(2, 1)  # neighbours go together
    if not alike:
        x[judging, ::2] *= -1
    with open_checkpoint(write_llama(tmp_path / "dense.gguf")) as dense:
        block = load_block(dense, 0)
        weight, inputs = block.attention.query.weight.detach().clone(), Inputs([x], judging)
        sparsity._Thinner(block, pattern, "sparsegpt", torch.ones(400), torch.float32).replace(
            ("attention.query",), inputs
        )
    thinned = block.attention.query.weight
    assert torch.equal(thinned, wanda(weight, inputs.energy(torch.ones(400)), pattern)) == (not alike)


@pytest.mark.parametrize("tokens", [24, 1200])
@pytest.mark.parametrize("text", ["50%", "2:4"])
def test_never_worse_than_plain_zeros_on_tokens_that_judge(text: str, tokens: int, tmp_path: Path) -> None:
    """Of fewer tokens than columns SparseGPT learns by heart what holds of these alone."""
    pattern, ones = Pattern.parse(text), torch.ones(tokens + 400)
    x = random(len(ones), 64, seed=5) @ random(64, 64, seed=4) + random(len(ones), 64, seed=6)
    fitted, unseen, inputs = x[:tokens], x[tokens:], Inputs([x], torch.arange(len(x)) >= tokens)
    names = ("attention.query", "attention.key", "attention.value")
    with open_checkpoint(write_llama(tmp_path / "dense.gguf")) as dense:
        block = load_block(dense, 0)
    weights = {name: linear_of(block, name).weight.detach().clone() for name in names}
    sparsity._Thinner(block, pattern, "sparsegpt", ones, torch.float32).replace(names, inputs)
    alone = inverse_factor(fitted.T @ fitted / tokens, 1e-4)
    for name, weight in weights.items():
        tried = sparsegpt(weight, alone, pattern), wanda(weight, inputs.energy(ones), pattern)
        bold, plain, taken = (
            float((unseen @ (one - weight).T).square().sum())
            for one in (*tried, linear_of(block, name).weight.detach())
        )
        assert taken <= 1.0001 * plain
        assert bold > 1.5 * plain if tokens == 24 else taken < 0.95 * plain


def test_small_rows_keep_their_part() -> None:
    """A row that is a hundredth of the others' size is thinned like them, not wiped out."""
    weight, x = random(16, 256), random(600, 256, seed=3)
    weight[0] *= 0.01
    thinned = sparsegpt(weight, inverse_factor(x.T @ x / len(x)), Pattern.parse("60%"))
    assert int((thinned[0] == 0).sum()) == round(0.6 * 256)


# -- whole models ----------------------------------------------------------------------------------------------------


def thin(checkpoint: Checkpoint, folder: Path, method: Method, text: str = "2:4") -> Path:
    workspace = Workspace.start(folder / "work", {})
    derived = sparsify(checkpoint, Pattern.parse(text), method, windows(), workspace)
    path = folder / f"{method}.gguf"
    write_derived(checkpoint, derived, path, {"step": "weights"})
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("write", [write_gemma3, write_llama], ids=["gemma3", "llama"])
def test_only_the_linears_of_the_blocks_change(write, method: Method, tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "dense.gguf")) as dense:
        with open_checkpoint(thin(dense, tmp_path, method)) as thinned:
            linears = {
                f"blocks.{i}.{name}.weight"
                for i, layer in enumerate(dense.config.layers)
                for name in block_linears(layer)
            }
            for name in dense.names():
                same = torch.equal(dense.tensor(name), thinned.tensor(name))
                assert same == (name not in linears)
                if name in linears:
                    assert ((thinned.tensor(name) == 0).unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_sparsegpt_keeps_more_of_the_model_than_magnitude(tmp_path: Path) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "dense.gguf")) as dense:
        before, lost = TorchEngine(dense).hidden_states(windows(9)), {}
        for method in METHODS:
            with open_checkpoint(thin(dense, tmp_path, method, "50%")) as thinned:
                lost[method] = float((TorchEngine(thinned).hidden_states(windows(9)) - before).norm())
    assert lost["sparsegpt"] < lost["magnitude"] and lost["wanda"] < lost["magnitude"]


def values(derived: Derived) -> dict[str, Tensor]:
    return {name: part.values() for name, part in derived.parts.items() if isinstance(part, Changed)}


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("crash", ["block-1", "states"])
def test_resumed_to_the_bit(method: Method, crash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the second block is saved, or after it, before what leaves it is: nothing finished is done again."""
    with open_checkpoint(write_llama(tmp_path / "dense.gguf")) as dense:
        pattern = Pattern.parse("2:4")
        whole = values(sparsify(dense, pattern, method, windows(), Workspace.start(tmp_path / "one", {})))
        save, seen = Workspace.save_tensors, []

        def killed(self: Workspace, part: str, *rest) -> None:
            seen.append(part)
            if part == crash and "block-1" in seen:
                raise KeyboardInterrupt
            save(self, part, *rest)

        workspace = Workspace.start(tmp_path / "two", {})
        with monkeypatch.context() as patched:
            patched.setattr(Workspace, "save_tensors", killed)
            with pytest.raises(KeyboardInterrupt):
                sparsify(dense, pattern, method, windows(), workspace)
        loaded: list[int] = []
        load = sparsity.load_block
        monkeypatch.setattr(sparsity, "load_block", lambda c, index: loaded.append(index) or load(c, index))
        resumed = values(sparsify(dense, pattern, method, windows(), workspace))
    assert loaded == [1, 2]
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_thinned_model_can_be_thinned_again(tmp_path: Path) -> None:
    """What was zero stays zero, under SparseGPT as good as always: it has less to lose."""
    (tmp_path / "again").mkdir()
    with open_checkpoint(write_llama(tmp_path / "dense.gguf")) as dense:
        once = thin(dense, tmp_path, "wanda", "50%")
    with open_checkpoint(once) as checkpoint:
        with open_checkpoint(thin(checkpoint, tmp_path / "again", "wanda", "75%")) as twice:
            name = "blocks.1.feed_forward.up.weight"
            before, after = checkpoint.tensor(name) == 0, twice.tensor(name) == 0
    assert (after | ~before).all() and int(after.sum()) == 96 * 48
