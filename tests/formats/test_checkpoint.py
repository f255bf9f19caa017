"""A checkpoint shows a file's weights under canonical names and refuses files that are not the model they describe."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.opening import open_checkpoint
from smidgen.model.config import Rotary
from smidgen.model.decoder import Block, Decoder
from smidgen.numerics.block_types import F32
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    LLAMA_CONFIG,
    gguf_tensors,
    random_decoder,
    write_gemma3,
    write_llama,
    write_model,
)


@pytest.mark.parametrize(
    ("write", "config"), [(write_gemma3, GEMMA3_CONFIG), (write_llama, LLAMA_CONFIG)], ids=["gemma3", "llama"]
)
def test_weights_come_back(write: Any, config: Any, tmp_path: Path) -> None:
    path, decoder = write(tmp_path / "m.gguf"), random_decoder(config)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config == config
        state = decoder.state_dict()
        assert sorted(checkpoint.names()) == sorted(state)
        assert checkpoint.parameters == sum(weight.numel() for weight in state.values())
        for name, weight in state.items():
            assert checkpoint.kind(name) is F32
            assert checkpoint.shape(name) == tuple(weight.shape)
            assert torch.equal(checkpoint.tensor(name), weight)
            if weight.dim() == 2:
                assert torch.equal(checkpoint.rows(name, 5, 11), weight[5:11])
                ids = torch.tensor([[7, 0], [7, 3]])
                assert torch.equal(checkpoint.gather(name, ids), weight[ids])
                moved = checkpoint.transform(name).rows_to_file(weight.numpy())
                assert np.array_equal(moved, checkpoint.packed(name).view(np.float32))
        for index, layer in enumerate(config.layers):
            block = Block(layer, config.hidden, config.norm_epsilon)
            block.load_state_dict(checkpoint.block(index))
        Decoder(config).load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
        assert checkpoint.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_are_decoded_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.formats.checkpoint._CHUNK_BYTES", 1000)
    with open_checkpoint(write_llama(tmp_path / "m.gguf")) as checkpoint:
        for name, weight in random_decoder(LLAMA_CONFIG).state_dict().items():
            assert torch.equal(checkpoint.tensor(name), weight)


def test_real_models(gemma_path: Path, smollm_path: Path) -> None:
    with open_checkpoint(gemma_path) as gemma:
        assert gemma.parameters == 268_098_176
        assert [layer.window for layer in gemma.config.layers] == ([512] * 5 + [None]) * 3
        assert {layer.rotary for layer in gemma.config.layers if layer.window is None} == {Rotary(1e6, 256)}
        assert gemma.config.tied_head and gemma.config.embedding_scale == 640**0.5
        assert gemma.kind("blocks.0.feed_forward.down.weight").name == "Q6_K"
    with open_checkpoint(smollm_path) as smollm:
        assert smollm.parameters == 134_515_008
        assert (smollm.config.layers[0].heads, smollm.config.layers[0].kv_heads) == (9, 3)


def refusal(path: Path) -> SmidgenError:
    with pytest.raises(SmidgenError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return caught.value


def test_missing_extra_and_misshapen_tensors(tmp_path: Path) -> None:
    tensors = gguf_tensors(random_decoder(GEMMA3_CONFIG))
    path = tmp_path / "m.gguf"

    def refused(changed: dict[str, np.ndarray]) -> SmidgenError:
        return refusal(write_model(path, "gemma3", GEMMA3_KEYS, changed))

    error = refused({name: array for name, array in tensors.items() if name != "blk.3.ffn_up.weight"})
    assert isinstance(error, BadFile) and "tensor blk.3.ffn_up.weight is missing" in str(error)
    error = refused({name: array for name, array in tensors.items() if not name.startswith("blk.1")})
    assert isinstance(error, BadFile) and "…" in str(error)
    error = refused(tensors | {"blk.0.ffn_up.weight": np.zeros((95, 64), np.float32)})
    assert isinstance(error, BadFile) and "blk.0.ffn_up.weight is 95×64 but its metadata says 96×64" in str(error)
    error = refused(tensors | {"blk.0.attn_norm.weight": np.zeros((1, 64), np.float32)})
    assert isinstance(error, BadFile)
    error = refused(tensors | {"blk.0.attn_q.bias": np.zeros(96, np.float32)})
    assert isinstance(error, Unsupported) and "blk.0.attn_q.bias is not used" in str(error)


def test_not_a_known_model(tmp_path: Path) -> None:
    error = refusal(write_model(tmp_path / "m.gguf", "mamba", {}, {"x": np.zeros(4, np.float32)}))
    assert isinstance(error, Unsupported) and "'mamba'" in str(error)
