"""Training through the lattice: what is trained is what is written, bit for bit."""

from pathlib import Path

import pytest
import torch

from smidgen.distillation.students.lattice import LatticeStudent, not_trained
from smidgen.formats.derived import Derived, Packed, Part, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.parameters import is_matrix
from smidgen.numerics.block_types import PORTABLE, TQ2_0, BlockType
from smidgen.numerics.grids import GRIDS
from smidgen.numerics.lattice import Lattice
from smidgen.numerics.portable import has_portable_scales
from smidgen.quantization.compensate import compensate
from tests.gguf_forms import of_types, plain
from tests.tiny_models import VOCABULARY, write_gemma3, write_llama

IDS = torch.randint(4, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


def quantized(path: Path, kind: BlockType) -> Path:
    """A tiny model with every matrix whose rows fit in `kind`, the others in Q8_0 or as they were."""
    with open_checkpoint(path) as checkpoint:
        parts: dict[str, Part] = {}
        for name in filter(is_matrix, checkpoint.names()):
            weight = checkpoint.tensor(name)
            width = weight.shape[1]
            fitting = [one for one in (kind, *GRIDS) if one.fits(width)]
            if fitting:
                rows = compensate(weight, fitting[0], torch.ones(width))
                parts[name] = Packed(fitting[0], lambda rows=rows: rows)
        write_derived(checkpoint, Derived(checkpoint.config, parts), path.with_suffix(".q.gguf"), {"step": "quantize"})
    return path.with_suffix(".q.gguf")


@pytest.fixture(params=[write_gemma3, write_llama], ids=["gemma3", "llama"], scope="module")
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("lattice") / "model.gguf")


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_the_written_file_is_the_trained_model(tiny: Path, kind: BlockType, tmp_path: Path) -> None:
    train_and_write(tiny, kind, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in GRIDS if kind.block == 256], ids=lambda kind: kind.name)
def test_so_it_is_where_rows_fit_blocks_of_256(kind: BlockType, tmp_path: Path) -> None:
    (tmp_path / "wide.gguf").write_bytes(plain().as_bytes())
    train_and_write(tmp_path / "wide.gguf", kind, tmp_path)


def train_and_write(tiny: Path, kind: BlockType, tmp_path: Path) -> None:
    """With places and units moved at random."""
    with open_checkpoint(quantized(tiny, kind)) as checkpoint, open_checkpoint(tiny) as original:
        student = LatticeStudent(checkpoint, original=original)
        student.prepare()
        assert torch.equal(student.decoder(IDS), load_decoder(checkpoint)(IDS))  # nothing has changed yet
        generator = torch.Generator().manual_seed(1)
        for name, tensor in student.tensors().items():
            tensor += torch.randn(tensor.shape, generator=generator) * (0.01 if ":" in name else 0.5)
        student.prepare()
        trained = student.decoder(IDS)
        assert not torch.equal(trained, load_decoder(checkpoint)(IDS))
        write_derived(checkpoint, Derived(checkpoint.config, student.parts()), tmp_path / "new.gguf", {"step": "heal"})
        with open_checkpoint(tmp_path / "new.gguf") as written:
            assert {name: written.kind(name) for name in written.names()} == {
                name: checkpoint.kind(name) for name in checkpoint.names()
            }
            assert torch.equal(load_decoder(written)(IDS), trained)


@pytest.mark.parametrize("kind", PORTABLE, ids=lambda kind: kind.name)
def test_scales_that_every_framework_holds_stay_such(tiny: Path, kind: BlockType, tmp_path: Path) -> None:
    """However far they are moved, and where only some rows learn."""
    rows = {"embedding.weight": torch.arange(0, VOCABULARY, 3)}
    with open_checkpoint(quantized(tiny, kind)) as checkpoint:
        student = LatticeStudent(checkpoint, rows=rows)
        generator = torch.Generator().manual_seed(3)
        for name, tensor in student.tensors().items():
            tensor += torch.randn(tensor.shape, generator=generator) * (1.5 if ":" in name else 0.5)
        write_derived(checkpoint, Derived(checkpoint.config, student.parts()), tmp_path / "new.gguf", {"step": "heal"})
        with open_checkpoint(tmp_path / "new.gguf") as written:
            for name in filter(is_matrix, written.names()):
                assert has_portable_scales(torch.from_numpy(written.packed(name).copy()), written.kind(name)), name
                assert not torch.equal(written.tensor(name), checkpoint.tensor(name))


def test_places_begin_where_the_original_lies(tiny: Path) -> None:
    kind = next(iter(GRIDS))
    with open_checkpoint(quantized(tiny, kind)) as checkpoint, open_checkpoint(tiny) as original:
        name = "blocks.0.attention.query.weight"
        middle = LatticeStudent(checkpoint).tensors()[name]
        inside = LatticeStudent(checkpoint, original=original).tensors()[name]
        assert torch.equal(inside.round(), middle)
        assert (inside - middle).abs().mean() > 0.1


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_gradients_are_those_of_the_straight_through_rule(tiny: Path, kind: BlockType) -> None:
    with open_checkpoint(quantized(tiny, kind)) as checkpoint:
        student = LatticeStudent(checkpoint)
        student.prepare()
        name = "blocks.0.feed_forward.down.weight"
        direction = torch.randn(checkpoint.shape(name), generator=torch.Generator().manual_seed(2))
        (student.decoder.get_parameter(name) * direction).sum().backward()
        student.collect()
        packed = torch.from_numpy(checkpoint.packed(name).copy())
        lattice = Lattice.of(packed, checkpoint.kind(name))
        scale = lattice.scale().repeat_interleave(lattice.group, dim=1)
        tensors = student.tensors()
        assert torch.allclose(tensors[name].grad, direction * scale)
        # All units a little larger, as the weights follow them: the sum of their slopes.
        relative = (lattice.levels() * scale * direction).sum()
        assert torch.allclose(tensors[f"{name}:unit"].grad.sum(), relative, rtol=1e-3, atol=1e-3)
        assert student.decoder.get_parameter(name).grad is None


def test_only_what_is_to_be_trained_learns(tiny: Path) -> None:
    with open_checkpoint(quantized(tiny, next(iter(GRIDS)))) as checkpoint:
        student = LatticeStudent(checkpoint, trained=lambda name: "norm" in name)
        assert all("norm" in name for name in student.tensors())
        assert student.parts().keys() == student.tensors().keys()
        assert set(student.rates()) == set(student.tensors())


def test_matrices_of_types_that_cannot_be_trained_are_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "few.gguf").write_bytes(of_types(plain(), {"ffn_down.weight": TQ2_0}).as_bytes())
    with open_checkpoint(tmp_path / "few.gguf") as some, open_checkpoint(tiny) as none:
        assert not_trained(some) == ["2 matrices were not trained, since smidgen cannot train weights of type TQ2_0."]
        assert not_trained(none) == []
