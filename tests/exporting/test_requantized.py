"""`export --requantize`: what a format cannot hold is compensated onto its grid, and nothing else is touched."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smidgen.cutting.requantize import requantize
from smidgen.errors import SmidgenError, Unsupported
from smidgen.exporting.export import export
from smidgen.exporting.requantized import GRIDS, _new_types
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import BlockType
from smidgen.numerics.decode import decode
from smidgen.quantization.compensate import compensate
from smidgen.running.load import load
from tests.cutting.commands import run
from tests.cutting.test_cut import TEXT
from tests.exporting.longhand import mlx_weights
from tests.exporting.quantized_models import differ, our_logits, python_with, their_logits, write_quantized
from tests.gguf_forms import of_types, plain

_KINDS = {
    "attn_q.weight": types.Q4_K, "attn_k.weight": types.Q4_0, "attn_v.weight": types.Q6_K,
    "attn_output.weight": types.Q8_0, "ffn_gate.weight": types.IQ4_XS, "ffn_up.weight": types.Q4_1,
    "ffn_down.weight": types.Q5_K, "token_embd.weight": types.Q6_K, "output.weight": types.Q8_0,
}  # fmt: skip
_TO = {"attn_q": 4, "attn_v": 8, "ffn_gate": 4, "ffn_down": 8, "token_embd": 8}  # what is changed → bits


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "text.txt").write_text(TEXT * 2)
    return tmp_path / "text.txt"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A Llama in K types, one of the IQ types, and types that some formats hold."""
    path = tmp_path / "mixed.gguf"
    path.write_bytes(of_types(plain(), _KINDS).as_bytes())
    return path


def role(tensor: str) -> str:
    return tensor.removesuffix(".weight").rpartition(".")[2]


def new_types(checkpoint: Checkpoint) -> dict[str, BlockType]:
    """What MLX needs of `mixed`."""
    to = {4: types.PORTABLE_Q4_0, 8: types.PORTABLE_Q8_0}
    return {tensor: to[_TO[role(tensor)]] for tensor in checkpoint.file.tensors if role(tensor) in _TO}


def test_what_is_named_is_changed_and_the_rest_kept_to_the_byte(mixed: Path, text: Path, tmp_path: Path) -> None:
    with open_checkpoint(mixed) as checkpoint:
        kinds = new_types(checkpoint)
        done = requantize(checkpoint, kinds, tmp_path / "new.gguf", [text], 1024)
    assert {choice.name for choice in done.choices} == kinds.keys() and done.expected > 0
    assert re.fullmatch(r"Calibrated on 1,0\d\d tokens of text\.txt\.", done.notes[0])
    assert not (tmp_path / "work").exists()
    with GGUFFile.open(mixed) as old, GGUFFile.open(tmp_path / "new.gguf") as new:
        for name, tensor in old.tensors.items():
            if name in kinds:
                assert new.tensors[name].kind == kinds[name].stored
            else:
                assert new.tensors[name].kind == tensor.kind and (new.packed(name) == old.packed(name)).all()


def test_it_is_better_than_rounding(mixed: Path, text: Path, tmp_path: Path) -> None:
    """Four bits for all matrices of the blocks, on the text that it was fitted to, against the nearest codes."""
    with open_checkpoint(mixed) as checkpoint:
        kinds = {tensor: types.PORTABLE_Q4_0 for tensor in checkpoint.file.tensors if tensor.startswith("blk.")}
        kinds = {tensor: kind for tensor, kind in kinds.items() if "norm" not in tensor}
        requantize(checkpoint, kinds, tmp_path / "new.gguf", [text], 1024)
        tokens = torch.randint(0, 250, (4, 60), generator=torch.Generator().manual_seed(3))
        before = our_logits(mixed, tokens)
        rounded = {}
        for name in checkpoint.names():
            if checkpoint.gguf_name(name) in kinds:
                weight = checkpoint.tensor(name)
                packed = compensate(weight, types.PORTABLE_Q4_0, torch.ones(weight.shape[1]))
                rounded[name] = decode(packed, types.PORTABLE_Q4_0)
    after = our_logits(tmp_path / "new.gguf", tokens)
    with load(mixed) as loaded, torch.no_grad():
        for name, weight in rounded.items():
            loaded.decoder.get_parameter(name).copy_(weight)
        nearest = loaded.decoder(tokens)
    assert mean_kl(before, after) < mean_kl(before, nearest)


def mean_kl(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum(-1).mean())


def test_mlx_gets_it_packed_and_the_command_says_what_was_done(mixed: Path, text: Path, tmp_path: Path) -> None:
    words = ["export", mixed, "--to", "mlx", "--requantize", "--text", text, "--tokens", "1024", "-o", tmp_path / "out"]
    done = run(words)
    assert done.code == 0, done.err
    line = next(line for line in done.err.splitlines() if line.startswith("Requantized, with error compensation: "))
    for change in (
        "2 matrices Q4_K → Q4_0 (attn_q)", "3 matrices Q6_K → Q8_0 (token_embd, attn_v)",
        "2 matrices IQ4_XS → Q4_0 (ffn_gate)", "2 matrices Q5_K → Q8_0 (ffn_down)",
    ):  # fmt: skip
        assert change in line
    assert re.search(
        r"Expected KL divergence \(estimate\), against the file as it was: \d+\.\d{3} nats per token", line
    )
    assert "in 16 bits" not in done.err
    readme = (tmp_path / "out/README.md").read_text()
    assert "Requantized, with error compensation: " in readme and "Calibrated on 1,0" in readme
    assert str(tmp_path) not in readme
    weights = load_file(tmp_path / "out/model.safetensors")
    assert all(weights[name].dtype == torch.uint32 for name in weights if name.endswith("_proj.weight"))
    assert list((tmp_path / "temporary").iterdir()) == [], "nothing is left among temporary files"
    kept = export(mixed, "mlx", tmp_path / "kept")
    before, after = load_file(kept / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    for name in ("k_proj", "o_proj"):
        for part in ("weight", "scales", "biases"):
            key = f"model.layers.1.self_attn.{name}.{part}"
            assert torch.equal(before[key], after[key]), key
    assert mlx_weights(tmp_path / "out").keys() == mlx_weights(kept).keys()


@pytest.mark.parametrize(("to", "more"), [
    ("vllm", {"ffn_up"}), ("openvino", set()), ("onnx", set()),
    ("litert", {"attn_k", "attn_output", "ffn_up", "output"}),
])  # fmt: skip
def test_each_format_gets_what_it_holds(to: str, more: set[str], mixed: Path) -> None:
    """vLLM holds no Q4_1, and wants the embedding in 16 bits whatever its type. LiteRT holds portable scales alone."""
    with open_checkpoint(mixed) as checkpoint:
        found = {role(tensor) for tensor in _new_types(checkpoint, GRIDS[to])}
    assert found == (_TO.keys() | more) - ({"token_embd"} if to == "vllm" else set())


def test_vllm_has_nothing_left_in_16_bits_but_the_embedding(
    mixed: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(mixed, "vllm", tmp_path / "out", requantize=True, texts=[text], tokens=1024)
    weights = load_file(tmp_path / "out/model.safetensors")
    wide = {name for name in weights if name.endswith(".weight") and weights[name].ndim == 2}
    assert wide == {"model.embed_tokens.weight", "lm_head.weight"}
    assert "Q4_1 → Q8_0 (ffn_up)" in capsys.readouterr().err


def test_where_all_fits_nothing_is_done(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    model = write_quantized("llama3", tmp_path)
    export(model, "mlx", tmp_path / "plain")
    export(model, "mlx", tmp_path / "asked", requantize=True, texts=[text])
    assert "Nothing is to be requantized: MLX holds all" in capsys.readouterr().err
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()


# -- refusals, all before the work -------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("it was begun")

    monkeypatch.setattr("smidgen.exporting.requantized.requantize", work)


@pytest.mark.usefixtures("no_work")
def test_what_the_format_cannot_express(tmp_path: Path, mixed: Path) -> None:
    experts = write_quantized("mixtral", tmp_path, {"ffn_down_exps.weight": types.IQ4_NL})
    with pytest.raises(Unsupported, match="mixtures of experts"):
        export(experts, "vllm", tmp_path / "out", requantize=True)
    with pytest.raises(SmidgenError, match="bfloat16 holds 8"):
        export(mixed, "mlx", tmp_path / "out", "bfloat16", requantize=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(SmidgenError, match="is not empty"):
        export(mixed, "mlx", tmp_path / "full", requantize=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "gguf", "--requantize"], "--requantize is for mlx, vllm, onnx, openvino and litert"),
        (["--to", "hf", "--requantize"], "--requantize is for mlx, vllm, onnx, openvino and litert"),
        (["--to", "mlx", "--text", "x.txt"], "--text and --tokens are for --requantize"),
        (["--to", "mlx", "--tokens", "600"], "--text and --tokens are for --requantize"),
        (["--to", "mlx", "--requantize", "--text", "nothing.txt"], "nothing.txt: no such file"),
    ],
)
def test_options_that_mean_nothing(words: list[str], message: str, mixed: Path, tmp_path: Path) -> None:
    done = run(["export", mixed, *words, "-o", tmp_path / "out"])
    assert done.code == 2 and message in " ".join(done.err.replace("│", " ").split()), done.err
    assert not (tmp_path / "out").exists()


def test_in_python(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="requantize is for mlx, vllm, onnx, openvino, litert"):
        export(mixed, "gguf", tmp_path / "out", requantize=True)
    with pytest.raises(SmidgenError, match="texts and tokens are for requantize"):
        export(mixed, "mlx", tmp_path / "out", tokens=1024)


def test_mlx_lm_predicts_what_was_written(mixed: Path, text: Path, tmp_path: Path) -> None:
    python = python_with("mlx_lm", "SMIDGEN_MLX_PYTHON")
    with open_checkpoint(mixed) as checkpoint:
        kinds = new_types(checkpoint)
        requantize(checkpoint, kinds, tmp_path / "new.gguf", [text], 1024)
    out = export(mixed, "mlx", tmp_path / "out", "float32", requantize=True, texts=[text], tokens=1024)
    (theirs,) = their_logits(python, "run_mlx.py", [out])
    assert differ(our_logits(tmp_path / "new.gguf"), theirs) < 1e-6
