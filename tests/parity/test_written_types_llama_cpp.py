"""A model cut to fewer than four bits loads in llama.cpp, which computes with it as we do."""

from pathlib import Path

from smidgen import cut
from smidgen.formats.opening import open_checkpoint
from smidgen.model.parameters import is_matrix
from tests.gguf_forms import plain
from tests.parity.test_types_llama_cpp import assert_computes_alike

SMALL = {"Q2_K": 2.625, "Q3_K": 3.4375, "IQ4_XS": 4.25}
TEXT = "Many small words make one long text. " * 300


def test_small_k_quants_compute_as_in_llama_cpp(tmp_path: Path) -> None:
    original, text, made = tmp_path / "original.gguf", tmp_path / "text.txt", tmp_path / "cut"
    original.write_bytes(plain().as_bytes())
    text.write_text(TEXT)
    with open_checkpoint(original) as checkpoint:
        matrices = [name for name in checkpoint.names() if is_matrix(name)]
        weights = sum(checkpoint.shape(name)[0] * checkpoint.shape(name)[1] for name in matrices)
        rest = original.stat().st_size - 4 * weights
    limit = rest + int(weights * 3.3 / 8) + 4096
    cut(original, made, fit=limit, types=tuple(SMALL), texts=str(text), tokens=1024, measured=False)
    path = made / "model.gguf"
    assert path.stat().st_size <= limit
    with open_checkpoint(path) as checkpoint:
        kinds = {checkpoint.kind(name).name for name in matrices}
        assert len(kinds) >= 2 and kinds <= SMALL.keys()
    assert_computes_alike(path, 5)
