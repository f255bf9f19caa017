"""`smidgen inspect` describes what smidgen cannot use, with the reason, and refuses what is damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.numerics import block_types as types
from smidgen.numerics.block_types import IQ3_S
from tests.formats.test_stored_twice import MATRIX, packed, write
from tests.gguf_forms import of_types, plain, write_parts
from tests.mutated_gguf import ARRAY, STRING, renamed


def test_what_only_llama_cpp_can_do(run_smidgen, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(renamed(plain(), "internlm2").as_bytes())
    done = run_smidgen("inspect", "other.gguf")
    assert done.returncode == 0
    assert "cannot cut, measure, export, distill or tune it: architecture 'internlm2' is not supported" in done.stdout
    assert "run, chat, serve and bench hand it to llama.cpp as it is" in done.stdout


def test_types_below_four_bits_are_described_and_can_be_cut(run_smidgen, tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(of_types(plain(), {"ffn_down.weight": IQ3_S}).as_bytes())
    facts = json.loads(run_smidgen("inspect", "small.gguf", "--json").stdout)
    assert (facts["cannot_cut"], facts["cannot_run"]) == (None, None)
    assert facts["types"]["IQ3_S"] == {"parameters": 2 * 256 * 256, "bytes": 2 * 256 * 110, "tensors": 2}


def test_a_head_that_is_the_embedding_is_named(run_smidgen, tmp_path: Path) -> None:
    write(tmp_path / "twice.gguf", packed(MATRIX, types.Q4_K), packed(MATRIX, types.Q6_K))
    shown = run_smidgen("inspect", "twice.gguf").stdout
    assert "300 tokens, the head is the embedding, stored twice (0.0 MB)" in shown
    assert json.loads(run_smidgen("inspect", "twice.gguf", "--json").stdout)["stored_twice"] == 300 * 144
    write(tmp_path / "two.gguf", packed(MATRIX, types.Q4_K), packed(MATRIX[::-1].copy(), types.Q6_K))
    assert "300 tokens, head of its own" in run_smidgen("inspect", "two.gguf").stdout


def test_torch_is_not_loaded_for_a_head_of_its_own(tmp_path: Path) -> None:
    """It takes seconds. Only cells tell whether a head that is much like the embedding is the embedding."""
    for name, head, loaded in (("own", MATRIX[::-1].copy(), "False"), ("same", MATRIX, "True")):
        path = tmp_path / f"{name}.gguf"
        write(path, packed(MATRIX, types.Q4_K), packed(head, types.Q6_K))
        script = (
            "import sys; from smidgen.cli.inspect import command; "
            f"command({str(path)!r}); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == loaded


def test_all_parts_are_described_as_one(run_smidgen, tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    done = run_smidgen("inspect", paths[1].name)
    assert f"{paths[0].name} (GGUF 3, 3 parts)" in done.stdout.splitlines()[0]
    assert f"{sum(path.stat().st_size for path in paths) / 1e6:.1f} MB" in done.stdout
    paths[2].unlink()
    done = run_smidgen("run", paths[0].name, "Hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{paths[2].name} is not beside it" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["inspect"], ["run", "--max-tokens", "1"]])
def test_two_ids_with_one_text_are_damage(run_smidgen, tmp_path: Path, command: list[str]) -> None:
    parts = plain().copy()
    texts = list(parts.metadata["tokenizer.ggml.tokens"][1])
    parts.metadata["tokenizer.ggml.tokens"] = (ARRAY, STRING), [*texts[:-1], texts[-2]]
    (tmp_path / "twins.gguf").write_bytes(parts.as_bytes())
    done = run_smidgen(command[0], "twins.gguf", *command[1:], stdin="Hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert "tokens 298 and 299 of its vocabulary have the same text" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_that_are_no_model_are_named(run_smidgen, tmp_path: Path) -> None:
    parts = plain().copy()
    parts.metadata["general.type"] = (STRING,), "adapter"
    (tmp_path / "adapter.gguf").write_bytes(parts.as_bytes())
    assert "cannot cut or run it: is an adapter, not a model" in run_smidgen("inspect", "adapter.gguf").stdout
