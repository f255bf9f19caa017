"""Fresh students: their shape, what they are made of, and what a file can hold of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.distillation.students.fresh import Beginning, FreshShape, fresh_student, misfits, plan_fresh
from smidgen.distillation.students.trainee import Plain
from smidgen.errors import SmidgenError
from smidgen.formats.derived import Derived, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.families import FAMILIES
from smidgen.model.parameters import parameter_shapes
from tests.family_models import FAMILY_MODELS, save_folder
from tests.tiny_models import GEMMA3_CONFIG, write_gemma3, write_llama

HALF = FreshShape(layers=3, width=32, ffn=40)
IDS = torch.arange(30)[None]


@pytest.mark.parametrize("family", [name for name, model in FAMILY_MODELS.items() if model is not None])
def test_a_student_of_every_family_is_written_and_read_back(family: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_folder(family, tmp_path / "model")
    with open_checkpoint(tmp_path / "model") as teacher:
        first = teacher.config.layers[0]
        shape = replace(HALF, heads=first.heads // 2)
        plan = plan_fresh(teacher.config, teacher.family, shape)
        assert (plan.config.hidden, plan.config.layers[0].ffn_width) == (32, 40)
        assert plan.config.layers[0].kv_heads == max(1, first.kv_heads // 2)
        student = fresh_student(teacher, plan, "slices", 0)
        derived = Derived(plan.config, Plain(student).parts())
        write_derived(teacher, derived, tmp_path / "student.gguf", {"step": "distill"})
    with open_checkpoint(tmp_path / "student.gguf") as written, torch.no_grad():
        read = load_decoder(written)
        assert {name: tuple(value.shape) for name, value in read.named_parameters()} == parameter_shapes(plan.config)
        found = read(IDS)
        assert found.isfinite().all()
        torch.testing.assert_close(found, student(IDS), rtol=5e-2, atol=5e-2)  # 16 bits


@pytest.mark.parametrize("write", [write_gemma3, write_llama])
def test_slices_of_everything_are_the_teacher(write, tmp_path: Path) -> None:  # noqa: ANN001
    with open_checkpoint(write(tmp_path / "teacher.gguf")) as teacher:
        plan = plan_fresh(teacher.config, teacher.family, FreshShape())
        assert plan.config == teacher.config and plan.layers == tuple(range(len(teacher.config.layers)))
        student = fresh_student(teacher, plan, "slices", 0)
        for name, value in student.state_dict().items():
            torch.testing.assert_close(value, teacher.tensor(name))


def test_slices_are_the_largest_parts_scaled(tmp_path: Path) -> None:
    """One matrix of each kind against a longhand choice."""
    with open_checkpoint(write_gemma3(tmp_path / "teacher.gguf")) as teacher:
        plan = plan_fresh(teacher.config, teacher.family, replace(HALF, width=None, heads=2, kv_heads=1))
        student = fresh_student(teacher, plan, "slices", 0).state_dict()
        layer, name = plan.layers[1], "blocks.1.feed_forward"
        gate, up, down = (
            teacher.tensor(f"blocks.{layer}.feed_forward.{part}.weight") for part in ("gate", "up", "down")
        )
        sizes = [float(gate[j].norm() * up[j].norm() * down[:, j].norm()) for j in range(96)]
        kept = sorted(sorted(range(96), key=lambda j: -sizes[j])[:40])
        torch.testing.assert_close(student[f"{name}.gate.weight"], gate[kept])
        energies = [size**2 for size in sizes]
        missing = math.sqrt(sum(energies) / sum(energies[j] for j in kept))
        torch.testing.assert_close(student[f"{name}.down.weight"], down[:, kept] * missing)
        output = teacher.tensor(f"blocks.{layer}.attention.output.weight").view(64, 2, 3, 16)
        group = int(output.square().sum((0, 2, 3)).argmax())
        heads = output[:, group].square().sum((0, 2)).topk(2).indices.sort().values
        wanted = output[:, group][:, heads].reshape(64, 32)
        wanted *= output.norm() / wanted.norm()
        torch.testing.assert_close(student["blocks.1.attention.output.weight"], wanted)


def test_layers_are_chosen_evenly_and_keep_their_windows() -> None:
    family = FAMILIES["gemma3"]
    plan = plan_fresh(GEMMA3_CONFIG, family, FreshShape(layers=3))
    assert plan.layers == (0, 2, 4)
    assert [layer.window is None for layer in plan.config.layers] == [False, True, False]
    family.to_gguf(plan.config)


def test_random_students_have_the_usual_spread(tmp_path: Path) -> None:
    with open_checkpoint(write_gemma3(tmp_path / "teacher.gguf")) as teacher:
        plan = plan_fresh(teacher.config, teacher.family, FreshShape(layers=8, width=128, ffn=256))
        student, again, other = (fresh_student(teacher, plan, "random", seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(student[name], again[name]) for name in student)
        assert not torch.equal(student["embedding.weight"], other["embedding.weight"])
        assert float(student["embedding.weight"].std()) == pytest.approx(0.02, rel=0.05)
        assert float(student["blocks.7.feed_forward.down.weight"].std()) == pytest.approx(0.02 / 4, rel=0.05)
        assert (student["blocks.0.attention_norm.weight"] == 1).all()


@pytest.mark.parametrize(
    ("shape", "beginning", "message"),
    [
        (FreshShape(heads=5, kv_heads=2), "slices", "5 heads do not divide into 2"),
        (FreshShape(width=65), "slices", "--width 65 cannot be cut out of the teacher, which has 64"),
        (FreshShape(ffn=97), "slices", "--ffn 97 cannot be cut out of the teacher, which has 96"),
        (FreshShape(heads=8, kv_heads=4), "slices", "--kv-heads 4 cannot be cut out"),
        (FreshShape(heads=8, kv_heads=2), "slices", "--heads 8 cannot be cut out of the teacher, which has 3 for each"),
        (FreshShape(layers=5000), "random", "block_count"),
    ],
)
def test_impossible_shapes(shape: FreshShape, beginning: Beginning, message: str, tmp_path: Path) -> None:
    with (
        open_checkpoint(write_gemma3(tmp_path / "teacher.gguf")) as teacher,
        pytest.raises(SmidgenError, match=message) as caught,
    ):
        fresh_student(teacher, plan_fresh(teacher.config, teacher.family, shape), beginning, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [{"layers": 0}, {"width": -1}, {"kv_heads": 2**21}])
def test_what_is_no_size_is_refused(size: dict[str, Any]) -> None:
    with pytest.raises(SmidgenError, match="must be a whole number from 1 to"):
        FreshShape(**size)


def test_widths_that_no_block_divides_are_said(tmp_path: Path) -> None:
    with open_checkpoint(write_llama(tmp_path / "teacher.gguf")) as teacher:  # rows of 64 and 96

        def said(**shape: int) -> list[str]:
            return misfits(plan_fresh(teacher.config, teacher.family, FreshShape(**shape)), teacher.config)

        assert said(layers=2) == []  # the teacher's own widths
        assert said(width=512, ffn=1024) == []
        (line,) = said(width=30, ffn=512)
        assert line.startswith("Rows of 30 weights fit no block") and "16 bits only" in line
        (line,) = said(width=288)
        assert line.startswith("Rows of 288 weights do not fit blocks of 256") and "k-quants" in line
