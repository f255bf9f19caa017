"""A cut of a file that stores one matrix twice: written once, said, measured, and left alone where it should be."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.cutting.plan import smallest_size
from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.tying import with_one_matrix
from smidgen.errors import SmidgenError
from smidgen.exporting.export import export
from smidgen.formats.derived import Derived, Packed, write_derived
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.cutting.commands import kill_once_there, run, sha256
from tests.cutting.test_cut import TEXT, cut_arguments
from tests.ggml import encoded
from tests.parity.test_decoder_llama_cpp import LlamaCpp, log_probabilities
from tests.tiny_models import VOCABULARY, write_llama


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "text.txt").write_text(TEXT)
    return own_folder


def write_twice(path: Path, change: Callable[[np.ndarray], np.ndarray] = lambda matrix: matrix) -> Path:
    """A model whose head is its embedding, changed; the head in 8 bits, the embedding in 4."""
    plain = write_llama(path.with_name("plain.gguf"))
    with open_checkpoint(plain) as checkpoint:
        matrix = checkpoint.tensor("embedding.weight").numpy()
        rows = {types.Q4_0: encoded(matrix, types.Q4_0), types.Q8_0: encoded(change(matrix), types.Q8_0)}
        small, large = (Packed(kind, lambda kind=kind: torch.from_numpy(rows[kind])) for kind in rows)
        parts = {"embedding.weight": small, "head.weight": large}
        write_derived(checkpoint, Derived(checkpoint.config, parts), path, {"step": "packed"})
    plain.unlink()
    return path


def smallest_sizes(model: Path) -> tuple[int, int]:
    """With one matrix, and with two."""
    with open_checkpoint(model) as checkpoint:
        return smallest_size(with_one_matrix(checkpoint, CutOptions(fit=1))), smallest_size(checkpoint)


@pytest.fixture
def twice(folder: Path) -> Path:
    return write_twice(folder / "twice.gguf")


def test_it_is_written_once_said_and_measured(twice: Path, folder: Path) -> None:
    one, two = smallest_sizes(twice)
    assert one < two - 10_000
    done = run(cut_arguments(twice, one, "out", "--json"))
    assert done.code == 0, done.err
    result = json.loads(done.out)
    tie, quantize = result["steps"]
    assert (tie["step"], quantize["step"]) == ("tie", "quantize") and 0 < tie["kl"] < 1
    assert "stored twice (as Q4_0 and Q8_0); written once, from the Q8_0. That costs 0." in tie["summary"]
    assert result["plan"].splitlines()[0] == tie["summary"]
    assert result["expected_kl"] == pytest.approx(tie["kl"] + sum(one["expected_kl"] for one in result["tensors"]))
    assert json.loads((folder / "out/card.json").read_text())["steps"][0] == tie
    assert result["bytes"] == (folder / "out/model.gguf").stat().st_size <= one
    with open_checkpoint(folder / "out/model.gguf") as after:
        assert after.config.tied_head and "output.weight" not in after.file.tensors
        assert [step["step"] for step in history(after.file.metadata)] == ["packed", "tie", "quantize"]
    refused = run(cut_arguments(twice, one - 1, "less"))
    assert refused.code == 2 and f"Ask for --fit {one}" in refused.err


def test_llama_cpp_computes_the_same(twice: Path, folder: Path) -> None:
    with open_checkpoint(twice) as checkpoint:
        once = with_one_matrix(checkpoint, CutOptions(fit=1))
        matrices = [name for name in once.names() if len(once.shape(name)) > 1]
        wide = {
            name: Packed(types.F16, lambda name=name: once.tensor(name).half().view(torch.uint8)) for name in matrices
        }
        write_derived(once, Derived(once.config, wide), folder / "once.gguf", {"step": "wide"})
    prompts = [torch.randint(4, VOCABULARY, (length,), generator=torch.Generator().manual_seed(3)).tolist()
               for length in (1, 9, 40)]  # fmt: skip
    theirs = LlamaCpp(folder / "once.gguf", context=64)
    for ids, ours in zip(prompts, log_probabilities(folder / "once.gguf", prompts), strict=True):
        tokens, scores = theirs.likeliest(ids, VOCABULARY)
        assert scores.std() > 0.3 and (ours[tokens] - scores).abs().max() < 0.02


def test_a_recipe_and_a_resumed_cut_make_the_same_file(twice: Path, folder: Path) -> None:
    fit = int(1.1 * smallest_sizes(twice)[0])
    words = cut_arguments(twice, fit, "out", "--no-measure")
    assert run(words).code == 0
    killed = cut_arguments(twice, fit, "killed", "--no-measure")
    kill_once_there(folder, killed, folder / "killed/work/survey.json")
    assert run([*killed, "--resume"]).code == 0
    assert run(["cut", twice, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"]).code == 0
    assert len({sha256(folder / name / "model.gguf") for name in ("out", "killed", "again")}) == 1


def test_the_head_stays_where_that_is_asked_for(twice: Path, folder: Path) -> None:
    one, two = smallest_sizes(twice)
    refused = run(cut_arguments(twice, one, "out", "--keep-head"))
    assert refused.code == 2 and f"Ask for --fit {two}" in refused.err
    assert run(cut_arguments(twice, two, "out", "--keep-head", "--no-measure")).code == 0
    recipe = tomllib.loads((folder / "out/recipe.toml").read_text())
    assert recipe["steps"][0]["keep_head"] is True
    assert run(["cut", twice, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"]).code == 0
    assert sha256(folder / "again/model.gguf") == sha256(folder / "out/model.gguf")
    with GGUFFile.open(folder / "out/model.gguf") as after:
        assert "output.weight" in after.tensors
    with pytest.raises(SmidgenError, match="--keep-head goes with --fit, --speed or --ram"):
        CutOptions.of(layers=2, keep_head=True)


def test_other_heads_and_what_fits_as_it_is_are_left_alone(folder: Path) -> None:
    trained = write_twice(folder / "trained.gguf", lambda matrix: matrix + np.float32(0.05 * matrix.std()))
    one, two = smallest_sizes(trained)
    assert one == two
    twice = write_twice(folder / "twice.gguf")
    with open_checkpoint(twice) as checkpoint:
        size = twice.stat().st_size + 1000
        assert with_one_matrix(checkpoint, CutOptions(fit=size)) is checkpoint
        assert with_one_matrix(checkpoint, CutOptions.of(layers=2)) is checkpoint
        assert with_one_matrix(checkpoint, CutOptions.of(layers=2, fit=size)) is not checkpoint


def test_with_a_trimmed_vocabulary_and_healing(twice: Path, folder: Path) -> None:
    fit = smallest_sizes(twice)[0]
    done = run(cut_arguments(twice, fit, "out", "--vocab", "288", "--heal", "4000", "--json"))
    assert done.code == 0, done.err
    assert [step["step"] for step in json.loads(done.out)["steps"]] == ["tie", "vocabulary", "quantize", "heal"]
    with open_checkpoint(folder / "out/model.gguf") as after:
        assert after.config.tied_head and after.shape("embedding.weight") == (288, 64)


def test_an_exported_folder_says_that_it_is_tied(twice: Path, folder: Path) -> None:
    assert run(cut_arguments(twice, smallest_sizes(twice)[0], "out", "--no-measure")).code == 0
    export(folder / "out", "hf", folder / "hf")
    assert json.loads((folder / "hf/config.json").read_text())["tie_word_embeddings"] is True
