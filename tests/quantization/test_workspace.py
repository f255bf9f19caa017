"""What a killed cut leaves, and what a resumed one takes up."""

from pathlib import Path

import pytest
import torch

from smidgen.calibration.outputs import OutputMoment
from smidgen.errors import BadFile, SmidgenError
from smidgen.numerics import block_types as types
from smidgen.quantization.encode import Encoded
from smidgen.quantization.workspace import QuantWorkspace

MATRIX = Encoded(types.Q4_0, torch.arange(36, dtype=torch.uint8).view(2, 18), 0.5, 0, 3.0, 4.0, 900, 90.5)


def test_parts_come_back(tmp_path: Path) -> None:
    workspace = QuantWorkspace.start(tmp_path / "work", {"fit": 1})
    assert not workspace.has("block-0") and workspace.load_states() == (0, {})
    workspace.save("block-0", {"blocks.0.attention.query.weight": MATRIX})
    workspace.save_states(1, {"states": torch.ones(2, 3, 4)})
    again = QuantWorkspace.resume(tmp_path / "work", {"fit": 1})
    kind, packed = again.packed("blocks.0.attention.query.weight")
    assert kind is types.Q4_0 and torch.equal(packed, MATRIX.packed)
    outcome = again.outcome("blocks.0.attention.query.weight")
    assert outcome.compensated and (outcome.loss, outcome.rounding_loss) == (3.0, 4.0)
    assert (outcome.shrinkage, outcome.tokens, outcome.effective_tokens) == (0.5, 900, 90.5)
    place, states = again.load_states()
    assert place == 1 and torch.equal(states["states"], torch.ones(2, 3, 4))
    again.finish()
    assert not (tmp_path / "work").exists()


def test_starting_anew_forgets_everything(tmp_path: Path) -> None:
    QuantWorkspace.start(tmp_path / "work", {"fit": 1}).save("block-0", {"blocks.0.x": MATRIX})
    assert not QuantWorkspace.start(tmp_path / "work", {"fit": 1}).has("block-0")


def test_another_cut_is_refused(tmp_path: Path) -> None:
    QuantWorkspace.start(tmp_path / "work", {"fit": 1, "seed": 0})
    with pytest.raises(SmidgenError, match="seed 0, now it is 5"):
        QuantWorkspace.resume(tmp_path / "work", {"fit": 1, "seed": 5})


def test_moments_of_outputs_come_back_in_sixteen_bits(tmp_path: Path) -> None:
    workspace = QuantWorkspace.start(tmp_path / "work", {"fit": 1})
    workspace.save_outputs(3, {"a.weight": OutputMoment([torch.eye(3), torch.full((2, 2), 0.5)])})
    found = workspace.outputs(3, "a.weight")
    assert found is not None and [run.dtype for run in found.runs] == [torch.float32] * 2
    assert torch.equal(found.runs[0], torch.eye(3)) and torch.equal(found.runs[1], torch.full((2, 2), 0.5))
    assert workspace.outputs(3, "b.weight") is None
    workspace.drop_outputs(3)
    workspace.drop_outputs(3)
    with pytest.raises(BadFile, match="begun by another version. Remove it"):
        workspace.outputs(3, "a.weight")
