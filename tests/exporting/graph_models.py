"""Tiny models of families as GGUF files, for the tests of formats that are graphs; and our own decoder beside them."""

from pathlib import Path

from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.decoder import Decoder
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from tests.family_models import save_folder
from tests.gguf_forms import of_types
from tests.mutated_gguf import Parts, take_apart

#: Simple types, among layers that meet the same input and among those that do not.
MIXED = {
    "attn_q.weight": types.Q4_0, "attn_k.weight": types.Q4_1, "attn_v.weight": types.Q8_0,
    "attn_output.weight": types.Q4_1, "ffn_gate.weight": types.Q8_0, "ffn_up.weight": types.Q4_1,
    "ffn_down.weight": types.Q4_0,
}  # fmt: skip


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    """Our own, on the same weights."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return decoder


def dense(family: str, folder: Path) -> Parts:
    """A GGUF file in float32, taken apart; its folder is written into `folder`."""
    (folder / "plain").mkdir()
    save_folder(family, folder / "plain")
    with open_checkpoint(folder / "plain") as checkpoint:
        write_as_gguf(checkpoint, folder / "plain.gguf")
    return take_apart(folder / "plain.gguf")


def write_quantized(family: str, folder: Path, kinds: dict[str, BlockType]) -> Path:
    """A GGUF file, the tensors whose names end so in these types."""
    path = folder / f"{family}.gguf"
    path.write_bytes(of_types(dense(family, folder), kinds).as_bytes())
    return path
