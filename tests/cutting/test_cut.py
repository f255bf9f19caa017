"""The whole cut on tiny models: budgets, resuming after kill -9, recipes, and what is refused."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smidgen.cutting.plan import smallest_size
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.cutting.commands import Done, kill_once_there, run, sha256, smidgen
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    gguf_tensors,
    random_decoder,
    write_gemma3,
    write_llama,
    write_model,
)

_LETTERS = random.Random(0)
TEXT = "".join(_LETTERS.choice("abcdefghijklmnopqrstuvwxyz ,.") for _ in range(6000))


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "text.txt").write_text(TEXT)
    return own_folder


def cut_arguments(model: Path, fit: int, output: str, *more: object) -> list[object]:
    words = ["cut", model, "--fit", fit, "-o", output, "--text", "text.txt", "--tokens", "2048", "--threads", "1"]
    return [*words, *more]


def smallest(model: Path) -> int:
    with open_checkpoint(model) as checkpoint:
        return smallest_size(checkpoint)


def in_a_process(words: Sequence[object]) -> Done:
    done = smidgen(Path(), *words)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(("write", "cut"), [(write_gemma3, in_a_process), (write_llama, run)])
def test_file_fits_and_everything_is_there(
    write: Callable[[Path], Path], cut: Callable[[Sequence[object]], Done], folder: Path
) -> None:
    model = write(folder / "tiny.gguf")
    fit = int(smallest(model) * 1.15)
    done = cut(cut_arguments(model, fit, "out", "--json"))
    assert done.code == 0, done.err
    result = json.loads(done.out)
    size = (folder / "out/model.gguf").stat().st_size
    assert result["bytes"] == size and 0.98 * fit <= size <= fit
    notice = ["NOTICE"] if write is write_gemma3 else []  # Gemma's terms ask for one
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        ".smidgen.json", "Modelfile", *notice, "README.md", "card.html", "card.json", "model.gguf", "recipe.toml"
    ]  # fmt: skip
    card = json.loads((folder / "out/card.json").read_text())
    assert card["schema"] == 1 and card["cut"]["sha256"] == sha256(folder / "out/model.gguf")
    assert card["fidelity"][0]["kl_mean"] > 0 and card["fidelity"][0]["seen_in_calibration"] < 0.5
    chosen = {tensor["name"]: tensor["kind"] for tensor in card["steps"][0]["tensors"]}
    with open_checkpoint(folder / "out/model.gguf") as checkpoint:
        assert {name: checkpoint.file.tensors[name].kind.name for name in chosen} == chosen


def test_a_model_that_chats_is_tried_with_a_question(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf", {"tokenizer.chat_template": "{{ messages[-1].content }}"})
    done = run(cut_arguments(model, int(smallest(model) * 1.15), "out", "--quiet"))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == 'Try it: smidgen run out "Why is the sky blue?"'
    assert 'smidgen run . "Why is the sky blue?"' in (folder / "out/README.md").read_text()


def test_norms_and_metadata_stay(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    assert run(cut_arguments(model, 140_000, "out", "--no-measure")).code == 0
    with GGUFFile.open(model) as before, GGUFFile.open(folder / "out/model.gguf") as after:
        changed = {"general.file_type", "general.quantization_version", "general.quantized_by", "smidgen.history"}
        assert {key for key in after.metadata if key not in before.metadata} <= changed
        assert after.metadata["tokenizer.ggml.tokens"] == before.metadata["tokenizer.ggml.tokens"]
        for name, tensor in before.tensors.items():
            if len(tensor.shape) == 1:
                assert after.tensors[name].kind is types.F32
                assert bytes(after.packed(name)) == bytes(before.packed(name))


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of a cut that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "text.txt").write_text(TEXT)
    model = write_gemma3(folder / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("SMIDGEN_HOME", str(folder / "home"))
        patches.chdir(folder)
        done = run(cut_arguments(model, int(smallest(model) * 1.1), "out", "--no-measure"))
    assert done.code == 0, done.err
    return sha256(folder / "out/model.gguf")


@pytest.mark.parametrize(
    "moment", ["survey.json", "embedding.weight-0.safetensors", "block-0.safetensors", "block-3.safetensors"]
)
def test_killed_and_resumed_is_the_same_file(moment: str, folder: Path, never_killed: str) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    arguments = cut_arguments(model, int(smallest(model) * 1.1), "out", "--no-measure")
    kill_once_there(folder, arguments, folder / "out/work" / moment)
    assert not (folder / "out/model.gguf").exists()
    resumed = run([*arguments, "--resume"])
    assert resumed.code == 0, resumed.err
    assert sha256(folder / "out/model.gguf") == never_killed
    assert not (folder / "out/work").exists()


def test_resume_refuses_other_settings(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    kill_once_there(folder, cut_arguments(model, 140_000, "out"), folder / "out/work/survey.json")
    refused = run(cut_arguments(model, 145_000, "out", "--resume"))
    assert refused.code == 2 and "fit 140000, now it is 145000" in refused.err


def test_recipe_makes_the_same_file(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    assert run(cut_arguments(model, 140_000, "out", "--no-measure")).code == 0
    again = run(["cut", model, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"])
    assert again.code == 0, again.err
    assert sha256(folder / "again/model.gguf") == sha256(folder / "out/model.gguf")
    other = write_llama(folder / "other.gguf")
    refused = run(["cut", other, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"])
    assert refused.code == 2 and "is not the model that the recipe was made with" in refused.err
    (folder / "text.txt").write_text(TEXT + "more")
    changed = run(["cut", model, "--recipe", "out/recipe.toml", "-o", "again", "--no-measure"])
    assert changed.code == 2 and "is not the one" in changed.err


def test_types_limit_the_choice(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    plan = run(cut_arguments(model, 200_000, "out", "--types", "q4_0,q8_0", "--dry-run", "--json"))
    assert plan.code == 0, plan.err
    kinds = {tensor["kind"] for tensor in json.loads(plan.out)["tensors"] if not tensor["kept"]}
    assert kinds and kinds <= {"Q4_0", "Q8_0"}


def test_dry_run_writes_no_model(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    done = run(cut_arguments(model, 140_000, "out", "--dry-run", "--json"))
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["path"] is None and plan["expected_kl"] > 0 and plan["bytes"] <= 140_000
    assert not (folder / "out").exists()


def test_dry_run_leaves_an_unfinished_cut_alone(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    kill_once_there(folder, cut_arguments(model, 140_000, "out"), folder / "out/work/survey.json")
    done = run(cut_arguments(model, 145_000, "out", "--dry-run", "--quiet"))
    assert done.code == 0 and done.out.startswith("Plan: ") and done.err == ""
    assert (folder / "out/work/survey.json").exists()


def test_nothing_of_the_persons_own_is_destroyed(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    (folder / "mine/work").mkdir(parents=True)
    (folder / "mine/work/precious.txt").write_text("mine")
    refused = run(cut_arguments(model, 140_000, "mine"))
    assert refused.code == 2 and "mine/work is in the way" in refused.err
    assert (folder / "mine/work/precious.txt").read_text() == "mine"
    (folder / "own").mkdir()
    original = model.rename(folder / "own/model.gguf").read_bytes()
    refused = run(cut_arguments(folder / "own", 140_000, "own"))
    assert refused.code == 2 and "is the model to be cut" in refused.err
    assert (folder / "own/model.gguf").read_bytes() == original


def test_a_card_of_an_earlier_model_does_not_stay(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    assert run(cut_arguments(model, 150_000, "out")).code == 0
    assert (folder / "out/card.json").exists()
    again = run(cut_arguments(model, 140_000, "out", "--no-measure"))
    assert again.code == 0, again.err
    names = [".smidgen.json", "Modelfile", "NOTICE", "README.md", "model.gguf", "recipe.toml"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == names


def test_what_smidgen_did_not_write_is_not_replaced(folder: Path) -> None:
    """`-o .` in a folder with a README.md of its own is the everyday case."""
    model = write_gemma3(folder / "tiny.gguf")
    (folder / "README.md").write_text("about my project")
    refused = run(cut_arguments(model, 140_000, "."))
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "README.md is there, and smidgen did not write it" in refused.err
    assert (folder / "README.md").read_text() == "about my project" and not (folder / "work").exists()


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    tensors = gguf_tensors(random_decoder(GEMMA3_CONFIG))
    tensors["blk.1.ffn_norm.weight"] = tensors["blk.1.ffn_norm.weight"] * float("nan")
    model = write_model(folder / "tiny.gguf", "gemma3", GEMMA3_KEYS, tensors)
    refused = run(cut_arguments(model, 140_000, "out", "--quiet"))
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "blk.1.ffn_norm.weight holds values that are not finite numbers, the first nan at [0]; " in refused.err
    tensors = gguf_tensors(random_decoder(GEMMA3_CONFIG))
    tensors["blk.1.ffn_up.weight"][5, 7] = float("inf")
    model = write_model(folder / "tiny.gguf", "gemma3", GEMMA3_KEYS, tensors)
    refused = run(cut_arguments(model, 140_000, "other", "--quiet"))
    assert refused.code == 2 and "blk.1.ffn_up.weight holds" in refused.err and "inf at [5, 7]" in refused.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--fit", "20KB"], "the smallest possible file is"),
        (["--fit", "12 parsecs"], "is not a size"),
        (["--fit", "140KB", "--text", "empty.txt"], "is empty"),
        (["--fit", "140KB", "--text", "binary.txt"], "zero byte"),
        (["--fit", "140KB", "--text", "missing.txt"], "no such file"),
        (["--fit", "140KB", "--text", "short.txt"], "fewer than 512 tokens"),
        (["--fit", "140KB", "--types", "Q4_0,Q9_9"], "'Q9_9' is not a type"),
        (["--recipe", "binary.txt"], "is not a recipe"),
        (["--recipe", "other.toml"], "no 'steps' in it"),
        (["--recipe", "other.toml", "--seed", "1"], "already says"),
        ([], "--fit SIZE"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: list[str], message: str, folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"\x00\x01\xff")
    (folder / "short.txt").write_text("short")
    (folder / "other.toml").write_text("answer = 42")
    refused = run(["cut", model, "-o", "out", *arguments])
    assert refused.code == 2, refused.err
    assert message in refused.err and refused.err.count("\n") == 1
    assert not (folder / "out/model.gguf").exists()


def test_output_that_cannot_be_a_folder(folder: Path) -> None:
    model = write_gemma3(folder / "tiny.gguf")
    (folder / "out").write_text("a file")
    refused = run(cut_arguments(model, 140_000, "out"))
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert (folder / "out").read_text() == "a file"
