"""Each weight is in memory once: pages are given back, and a smaller file takes less memory than a larger one."""

import mmap
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.engines.llama_cpp import loading
from smidgen.engines.llama_cpp.loading import Loading, choose_loading, give_back
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.machine import resident_memory
from smidgen.formats.derived import Derived, Packed, write_derived
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics.block_types import Q4_0
from smidgen.numerics.pack import pack_rows

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists maps and parts of the memory")
_ROWS = 2**14


@pytest.fixture(scope="module")
def smaller(gemma_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma with its embedding, which is the head too, in Q4_0: a type that llama.cpp repacks; 169 MB for 253."""
    path = tmp_path_factory.mktemp("smaller") / "gemma-q4_0.gguf"
    with open_checkpoint(gemma_path) as checkpoint:
        (name,) = checkpoint.gguf_members("token_embd.weight")
        total = checkpoint.shape(name)[0]

        def packed() -> Tensor:
            starts = range(0, total, _ROWS)
            return torch.cat([_rounded(checkpoint.rows(name, start, min(start + _ROWS, total))) for start in starts])

        write_derived(checkpoint, Derived(checkpoint.config, {name: Packed(Q4_0, packed)}), path, {"step": "test"})
    return path


def _rounded(rows: Tensor) -> Tensor:
    """Q4_0: (code - 8) · d, with the largest weight of each 32 at code 0."""
    groups = rows.unflatten(1, (-1, 32))
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scale = (largest / -8).half()
    codes = (groups / scale.where(scale != 0, 1).float()).round().add(8).clamp(0, 15)
    return pack_rows(Q4_0, codes.to(torch.uint8).flatten(1), [scale.squeeze(2)], [])


def resident(path: Path) -> int:
    """Of an engine that has written with the model."""
    with LlamaServer(path, ctx_size=128, threads=1) as server:
        server.call("/completion", {"prompt": "Once", "n_predict": 2})
        return server.memory()["resident_bytes"]


@needs_proc
def test_a_smaller_file_takes_less_memory(gemma_path: Path, smaller: Path) -> None:
    saved = gemma_path.stat().st_size - smaller.stat().st_size
    assert saved > 80e6
    assert resident(gemma_path) - resident(smaller) > 0.8 * saved


@needs_proc
def test_pages_come_back_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * (32 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert data[:].count(b"x") == len(data)
        before = mapped()
        give_back([path])
        assert before - mapped() > 30 << 20
        assert data[-1:] == b"x"


@needs_proc
def test_changes_of_a_private_map_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        data[:3] = b"new"
        give_back([path])
        assert data[:4] == b"newx"


def test_giving_back_does_nothing_where_maps_are_not_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "_MAPS", tmp_path / "none")
    monkeypatch.setattr(loading.ctypes, "CDLL", lambda name: pytest.fail("nothing is to be given back"))
    give_back([tmp_path / "pages"])


def test_what_is_large_for_the_memory_is_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * 1000)
    monkeypatch.setattr(loading, "usable_memory", lambda: 2000)
    assert choose_loading([path]) == Loading()
    assert choose_loading([path, path]) == Loading(repacked=False)


def test_every_way_of_loading_writes_the_same(smollm_path: Path) -> None:
    request = {"prompt": "The capital of France is", "n_predict": 4, "temperature": 0}
    for way in (Loading(), Loading(repacked=False), Loading(mapped=False, given_back=False)):
        with LlamaServer(smollm_path, ctx_size=128, threads=1, loading=way) as server:
            assert server.call("/completion", request)["content"] == " Paris.\n\n"


def mapped() -> int:
    parts = resident_memory()[1]
    assert parts is not None
    return parts["mapped"]
