"""`smidgen tune` from start to end on a tiny model, and what a person sees when something is wrong."""

import io
import json
import shlex
import shutil
import signal
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file

from smidgen import TuneOptions, tune
from smidgen.alone import LOCK, alone_in
from smidgen.cli.main import main
from smidgen.distillation.students.lora import Adapted, LoraOptions
from smidgen.distillation.team.launch import launch
from smidgen.distillation.text.packing import PackedBatches
from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.adapters import read_adapter
from smidgen.formats.convert import write_as_gguf
from smidgen.formats.derived import Changed, Derived, Packed, Part, write_derived
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.formats.parts import load_decoder
from smidgen.model.parameters import is_matrix
from smidgen.numerics import block_types as types
from smidgen.stopping import Stopped
from smidgen.training.tune import TuneResult, tune_together
from tests.cli.test_errors import assert_one_line
from tests.cli.tuning_together import tune_in_all_ways
from tests.cutting.commands import kill_once_there
from tests.distillation.together import lines
from tests.family_models import save_folder
from tests.interrupted import Died, asked_to_end, dying_at_file, files_named
from tests.model.test_chat import CHATML

QUICK = TuneOptions(steps=12, learning_rate=0.02, batch=2, context=48, lora=LoraOptions(rank=4), held_out=0.2)
IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template, as GGUF (float32)."""
    folder = tmp_path_factory.mktemp("model")
    save_folder("llama3", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHATML}))
    with open_checkpoint(folder) as checkpoint:
        write_as_gguf(checkpoint, folder / "model.gguf")
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data.jsonl")


def write_data(path: Path, *more: Any) -> Path:
    lines = [
        {"prompt": f"the {word}", "completion": f"has {word}s"} for word in "rain heat tree note arena stone".split()
    ]
    lines += [{"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": w}]} for w in "abcdef"]
    lines += [{"text": "the rain in the other hostel " * 4}, *more]
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def tuned(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    output = tmp_path_factory.mktemp("tuned") / "out"
    return output, tune(str(model), [data], output, QUICK)


def test_the_loss_falls_and_everything_is_written(tuned: tuple[Path, Any], model: Path) -> None:
    output, result = tuned
    assert result.after < 0.8 * result.before
    names = {"adapter_model.safetensors", "adapter_config.json", "adapter.gguf", "metrics.jsonl", "README.md"}
    assert set(result.written) == names and names <= {path.name for path in output.iterdir()}
    assert not (output / "work").exists()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all({"loss", "tokens_per_s"} <= line.keys() for line in lines)
    readme = (output / "README.md").read_text()
    assert "base_model" not in readme and "--lora ." in readme and "held-out examples" in readme
    assert "](loss.svg)" in readme and (output / "loss.svg").exists() and str(model.parent) not in readme
    told = json.loads(result.to_json())
    assert told["loss_after"] == result.after and told["examples"] + told["held_out"] >= 13
    with open_checkpoint(model) as checkpoint:
        both = [read_adapter(path, checkpoint) for path in (output, output / "adapter.gguf")]
        one, other = (Adapted.continued(load_decoder(checkpoint), each).decoder(IDS) for each in both)
        assert torch.allclose(one, other, atol=1e-5)


def test_the_same_again_and_after_an_interruption(
    tuned: tuple[Path, Any], model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, also with dropout's random numbers."""
    wanted = TuneOptions(
        steps=8, learning_rate=0.02, batch=2, context=48, lora=LoraOptions(rank=4, dropout=0.3), held_out=0.2
    )
    tune(str(model), [data], tmp_path / "whole", wanted)
    real = PackedBatches.batch

    def fails(self: PackedBatches, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PackedBatches, "batch", fails)
        tune(str(model), [data], tmp_path / "parts", wanted)
    assert not (tmp_path / "parts" / "adapter.gguf").exists()
    with pytest.raises(SmidgenError, match="Resume with the same settings"):
        tune(str(model), [data], tmp_path / "parts", QUICK, resume=True)
    (tmp_path / "parts" / "work" / "effort.json").write_text(json.dumps({"seconds": 5000}))
    resumed = tune(str(model), [data], tmp_path / "parts", wanted, resume=True)
    assert 5000 < resumed.seconds < 6000  # what both processes took
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_an_adapter_alone_is_merged_and_goes_on(
    tuned: tuple[Path, Any], model: Path, data: Path, tmp_path: Path
) -> None:
    output, before = tuned
    result = tune(str(model), [], tmp_path / "merged", TuneOptions(adapter=output, merge=True))
    assert "model.gguf" in result.written and "metrics.jsonl" not in result.written
    with open_checkpoint(model) as base, open_checkpoint(tmp_path / "merged" / "model.gguf") as merged, torch.no_grad():
        with_adapter = Adapted.continued(load_decoder(base), read_adapter(output, base)).decoder(IDS)
        assert torch.allclose(load_decoder(merged)(IDS), with_adapter, atol=1e-4)
        assert [step["step"] for step in history(merged.file.metadata)] == ["tune"]
    further = TuneOptions(
        steps=2, learning_rate=1e-3, batch=2, context=48, adapter=output / "adapter.gguf", held_out=0.2
    )
    again = tune(str(model), [data], tmp_path / "on", further)
    assert again.before == pytest.approx(before.after, rel=1e-3)


def test_all_weights(model: Path, data: Path, tmp_path: Path) -> None:
    wanted = TuneOptions(steps=10, learning_rate=3e-3, batch=2, context=48, full=True, held_out=0.2)
    result: Any = tune(str(model), [data], tmp_path, wanted)
    assert set(result.written) == {"metrics.jsonl", "model.gguf", "README.md"}
    assert result.after < 0.8 * result.before and result.merged == pytest.approx(result.after, rel=1e-4)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The same in Q8_0 and Q4_0."""
    path = tmp_path_factory.mktemp("quantized") / "model.gguf"
    with open_checkpoint(model) as checkpoint:
        parts = {}
        for name in filter(is_matrix, checkpoint.names()):
            kind = types.Q8_0 if "attention" in name else types.Q4_0
            rows = gguf.quantize(checkpoint.tensor(name).numpy(), gguf.GGMLQuantizationType(kind.ggml_id))
            parts[name] = Packed(kind, partial(torch.from_numpy, rows))
        write_derived(checkpoint, Derived(checkpoint.config, parts), path, {"step": "quantize"})
    return path


@pytest.mark.parametrize("full", [False, True])
def test_quantized_models_keep_their_types(quantized: Path, data: Path, tmp_path: Path, full: bool) -> None:
    wanted = TuneOptions(
        steps=12, learning_rate=0.03 if full else 0.02, batch=2, context=48, full=full, merge=not full, held_out=0.2
    )
    result: Any = tune(str(quantized), [data], tmp_path, wanted)
    assert result.after < result.before
    with open_checkpoint(quantized) as before, open_checkpoint(tmp_path / "model.gguf") as after:
        assert {name: before.kind(name) for name in before.names()} == {
            name: after.kind(name) for name in after.names()
        }
    if full:  # training through the lattice ends in what is written
        assert result.merged == pytest.approx(result.after, rel=1e-4)
    else:
        assert result.merged < result.before - 0.7 * (result.before - result.after)


def test_two_processes_tune_as_one(model: Path, quantized: Path, data: Path, tmp_path: Path) -> None:
    work = partial(tune_in_all_ways, model, quantized, data)
    alone, together = work(tmp_path / "alone", False), launch(partial(work, tmp_path / "together"), 2)
    for one, two in zip(alone, together, strict=True):
        assert sorted(path.name for path in one.path.iterdir()) == sorted(path.name for path in two.path.iterdir())
        assert two.written == one.written and (two.steps, two.tokens) == (one.steps, one.tokens)
        assert two.after == pytest.approx(one.after, rel=1e-4) and two.before == pytest.approx(one.before, rel=1e-4)
        assert two.merged == pytest.approx(one.merged, rel=1e-3)
        for line, other in zip(lines(one.path), lines(two.path), strict=True):
            assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
            assert other["tokens"] == line["tokens"]


def test_without_examples_an_adapter_is_rounded_and_that_is_said(
    quantized: Path, tuned: tuple[Path, Any], tmp_path: Path
) -> None:
    result = tune(str(quantized), [], tmp_path, TuneOptions(adapter=tuned[0], merge=True))
    assert any("Rounded onto the model's types" in note for note in result.notes)
    with open_checkpoint(quantized) as before, open_checkpoint(tmp_path / "model.gguf") as after:
        assert {before.kind(name) for name in before.names()} == {after.kind(name) for name in after.names()}


def test_what_is_skipped_or_cut_is_said(model: Path, tmp_path: Path) -> None:
    path = write_data(tmp_path / "data.jsonl", "nonsense", {"prompt": "a", "completion": "stone " * 60})
    with pytest.raises(BadFile, match="data.jsonl line 14 is not JSON"):
        tune(str(model), [path], tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()
    wanted = TuneOptions(steps=1, batch=1, context=48, skip_bad=True, held_out=0)
    result = tune(str(model), [path], tmp_path / "out", wanted)
    assert "1 of 15 lines malformed and skipped." in result.notes
    assert any("1 of 15 lines left out" in note for note in result.notes)
    assert (result.before, result.after, result.held_out) == (None, None, 0)


def test_examples_to_measure_on_may_be_given(model: Path, data: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid.jsonl"
    valid.write_text('{"text": "the rain"}\n')
    wanted = TuneOptions(steps=1, batch=1, context=48)
    assert tune(str(model), [data], tmp_path / "out", wanted, valid=valid).held_out == 1


def test_of_examples_to_measure_on_those_that_are_learned_are_left_out_and_that_is_said(
    model: Path, data: Path, tmp_path: Path
) -> None:
    valid = tmp_path / "valid.jsonl"
    valid.write_text(data.read_text() + '{"text": "a stone in the other hostel"}\n')
    wanted = TuneOptions(steps=1, batch=1, context=48)
    result = tune(str(model), [data], tmp_path / "out", wanted, valid=valid)
    assert result.held_out == 1
    assert any(
        note.endswith("valid.jsonl are in --data, too, or nearly: they are not measured on.") for note in result.notes
    )
    with pytest.raises(SmidgenError, match="Every example of .* is in --data, too"):
        tune(str(model), [data], tmp_path / "other", wanted, valid=data)
    assert not (tmp_path / "other").exists()


def test_the_best_state_is_chosen_where_enough_is_held_out(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By some examples; what it is worth is said by others."""

    def tuned(name: str, **more: Any) -> TuneResult:
        return tune(str(model), [data], tmp_path / name, replace(QUICK, held_out=0.4, **more))

    few = tuned("few")
    assert "held-out tokens would choose another" in few.describe("model")
    assert few.describe("gemma-3-270m").endswith(f"smidgen chat gemma-3-270m --lora {tmp_path / 'few'}")
    assert few.change is not None and few.change.before == few.evaluations[0][1]
    monkeypatch.setattr("smidgen.distillation.text.held_out.FEWEST_TO_CHOOSE", 5)
    best, last = tuned("best"), tuned("last", keep="last")
    lowest = min(best.evaluations, key=lambda evaluation: evaluation[1])
    assert best.kept == lowest[0] and "the best on other held-out text" in best.describe("model")
    assert best.change is not None and best.change.before != best.evaluations[0][1]  # of other examples
    assert "after 12 of 12 steps, the last one, as asked for" in last.describe("model") and last.kept == 12
    for result, value in ((best, lowest[1]), (last, last.evaluations[-1][1])):  # the ring is on what was written
        assert f'"middle" fill="#7d8590">{value:.4f}<' in (result.path / "loss.svg").read_text()
    readme = (best.path / "README.md").read_text()
    assert "the half that chose" in readme and "rank 4, alpha 8, learning rate 0.02, 2 rows of 48 tokens" in readme
    assert "the half that chose" not in (last.path / "README.md").read_text()


def test_some_blocks_alone_may_learn(quantized: Path, data: Path, tmp_path: Path) -> None:
    wanted = TuneOptions(steps=6, learning_rate=0.05, batch=2, context=48, full=True, blocks=(1, 1), held_out=0.2)
    tune(str(quantized), [data], tmp_path, wanted)
    with open_checkpoint(quantized) as before, open_checkpoint(tmp_path / "model.gguf") as after:
        changed = {name for name in before.names() if before.packed(name).tobytes() != after.packed(name).tobytes()}
    assert changed and all(name.startswith("blocks.1.") for name in changed)
    assert "Block 1 tuned on" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("full", [False, True])
def test_a_model_that_is_large_for_the_machine_learns_the_same(
    quantized: Path, data: Path, tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not learn stays in the file: to the same bytes."""
    wanted = replace(QUICK, steps=4, full=full, merge=not full, blocks=(0, 1) if full else None)
    tune(str(quantized), [data], tmp_path / "small", wanted)
    monkeypatch.setattr("smidgen.formats.frozen.usable_memory", lambda: 100_000)
    tune(str(quantized), [data], tmp_path / "large", wanted)
    assert digests(tmp_path / "small") == digests(tmp_path / "large") != {}


def test_merging_that_does_not_fit_is_refused_before_the_tuning(
    quantized: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smidgen.training.tune.merging_bytes", lambda *_: 10**10)
    with pytest.raises(SmidgenError, match="--memory allows 3 GB"):
        tune(str(quantized), [data], tmp_path / "out", replace(QUICK, merge=True, memory=3 * 10**9))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_what_does_not_fit_in_memory_is_refused_before_it_is_loaded(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match=r"takes .* with 48 tokens at a time .* --memory allows 500\.0 MB"):
        tune(str(model), [data], tmp_path / "out", replace(QUICK, memory=500 * 10**6))
    assert not (tmp_path / "out" / "model.gguf").exists()


def test_bad_wishes(model: Path, data: Path, tmp_path: Path, quantized: Path) -> None:
    for options, files, reason in (
        (TuneOptions(), [], "--data FILE.jsonl"),
        (TuneOptions(full=True, merge=True), [data], "leave out --adapter and --merge"),
        (TuneOptions(blocks=(0, 1)), [data], "Add --full"),
        (TuneOptions(full=True, blocks=(1, 90)), [data], "--blocks ends at 90, and the model's are 0 to"),
        (TuneOptions(context=5000), [data], "--context 5000 is more than the 256"),
        (TuneOptions(context=48), [model], "line 1 is not"),
    ):
        with pytest.raises(SmidgenError, match=reason):
            tune(str(model), files, tmp_path / "out", options)
    with pytest.raises(SmidgenError, match="would replace it"):
        tune(str(model), [data], model.parent, QUICK)
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a", "completion": "stone " * 60}))
    with pytest.raises(SmidgenError, match="no line of .* can be learned from; 1 of 1 lines left out"):
        tune(str(model), [tmp_path / "long.jsonl"], tmp_path / "out", QUICK)


def test_messages_for_a_base_model_are_refused(tmp_path: Path) -> None:
    save_folder("llama3", tmp_path)
    (tmp_path / "data.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    )
    with pytest.raises(Unsupported, match="no chat template"):
        tune(str(tmp_path), [tmp_path / "data.jsonl"], tmp_path / "out", TuneOptions(context=48))


def test_the_command(run_smidgen, model: Path, data: Path, tmp_path: Path) -> None:
    """Tuning and using, as a person would: one JSON object, then an answer through llama.cpp with the adapter."""
    words = ["--steps", "12", "--lr", "0.02", "--batch", "2", "--context", "48", "--rank", "4", "--held-out", "0.2"]
    done = run_smidgen("tune", str(model), "--data", str(data), "-o", "tuned", "--json", "--quiet", *words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = json.loads(done.stdout)
    assert told["loss_after"] < told["loss_before"] and "adapter.gguf" in told["written"]
    asked = ("run", str(model), "the rain", "--raw", "--temperature", "0", "-n", "4", "--json")
    plain, tuned = (run_smidgen(*asked, *more) for more in ((), ("--lora", "tuned")))
    assert plain.returncode == tuned.returncode == 0, tuned.stderr
    assert json.loads(plain.stdout)["text"] != json.loads(tuned.stdout)["text"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["MODEL", "--data", "no.jsonl", "-o", "out"], "there is no file no.jsonl"),
        (["MODEL", "-o", "out"], "--data FILE.jsonl"),
        (["MODEL", "--data", "DATA", "-o", "out", "--full", "--rank", "3"], "--rank is about adapters"),
        (["MODEL", "--data", "DATA", "-o", "out", "--steps", "3", "--epochs", "3"], "--epochs say the same"),
        (["MODEL", "--data", "DATA", "-o", "out", "--adapter", "x", "--rank", "3"], "what --rank would"),
        (["MODEL", "--data", "DATA", "-o", "out", "--targets", "q_proj"], "no layer 'q_proj'"),
        (["MODEL", "--data", "DATA", "-o", "out", "--full", "--blocks", "last"], "--blocks takes the first"),
        (["MODEL", "--data", "DATA", "-o", "out", "--full", "--blocks", "2-1"], "give the first and the last"),
        (["MODEL", "--data", "DATA", "-o", "out", "--memory", "much"], "'much' is not a size"),
        (["MODEL", "--data", "MODEL", "-o", "out"], "line 1 is not"),
        (["nothing", "--data", "DATA", "-o", "out"], "nothing"),
    ],
)
def test_one_line_when_it_cannot_be(run_smidgen, model: Path, data: Path, words: list[str], expected: str) -> None:
    paths = {"MODEL": str(model), "DATA": str(data)}
    assert_one_line(run_smidgen("tune", *(paths.get(word, word) for word in words)), expected)


def test_an_adapter_for_another_model_is_refused_before_llama_cpp_sees_it(run_smidgen, tuned: tuple[Path, Any]) -> None:
    output, _ = tuned
    for command in (["run", "--max-tokens", "1"], ["serve"]):
        done = run_smidgen(command[0], "gemma-3-270m", *command[1:], "--lora", str(output), stdin="Hi")
        assert_one_line(done, "is an adapter for llama models, this one is gemma3")


# -- a plan that is decided once ---------------------------------------------------------------------------------------

SHORT = TuneOptions(steps=5, learning_rate=0.02, batch=2, context=48, lora=LoraOptions(rank=4), held_out=0.2)


def digests(folder: Path) -> dict[str, str]:
    names = ("adapter_model.safetensors", "adapter.gguf", "model.gguf")
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).exists()}


def test_a_tuning_that_is_asked_to_end_saves_and_says_how_to_go_on(
    model: Path, quantized: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Ctrl-C and SIGTERM, at the first step and a later one, in the training and in the merging after it."""
    merged = replace(SHORT, merge=True)
    tune(str(model), [data], tmp_path / "whole", SHORT)
    tune(str(quantized), [data], tmp_path / "merged", merged)
    for place, (base, options, at, told) in enumerate(
        [
            (model, SHORT, {"number": signal.SIGINT, "step": 1}, "after step 1 of 5"),
            (model, SHORT, {"step": 4}, "after step 4 of 5"),
            (quantized, merged, {"step": 2, "training": 2}, "after step 2 of 5"),
        ]
    ):
        output = tmp_path / f"out{place}"
        with asked_to_end(**at), pytest.raises(Stopped, match=f"{told}, which is saved. Go on with --resume") as stop:
            tune(str(base), [data], output, options)
        assert stop.value.number == at.get("number", signal.SIGTERM)
        assert not (output / "README.md").exists() and not (output / LOCK).exists()
        with pytest.raises(SmidgenError, match="holds unfinished work. Go on with it with --resume, or remove"):
            tune(str(base), [data], output, options)
        tune(str(base), [data], output, options, resume=True)
        assert digests(output) == digests(tmp_path / ("merged" if options.merge else "whole"))
        assert not (output / "work").exists()
    assert "Stopping after this step" in capsys.readouterr().err


def test_a_tuning_that_dies_at_any_file_goes_on_to_the_same_result(quantized: Path, data: Path, tmp_path: Path) -> None:
    wanted = replace(SHORT, steps=3, merge=True)
    count = files_named(partial(tune, str(quantized), [data], tmp_path / "whole", wanted))
    for number in range(1, count + 1, max(1, count // 6)):
        output = tmp_path / f"died{number}"
        with dying_at_file(number), pytest.raises(Died):
            tune(str(quantized), [data], output, wanted)
        tune(str(quantized), [data], output, wanted, resume=True)
        assert digests(output) == digests(tmp_path / "whole"), number


def test_the_command_line_to_go_on_with_is_shown(run_smidgen, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "it's out"
    words = ["tune", str(model), "--data", str(data), "--steps", "3", "--batch", "2", "--context", "48"]
    with asked_to_end(step=2), pytest.raises(SystemExit) as end, redirect_stderr(io.StringIO()) as told:
        main([*words, "-o", str(output)])
    assert end.value.code == 143 and "Traceback" not in told.getvalue()
    last, command = told.getvalue().splitlines()[-2:]
    assert "Stopped after step 2 of 3, which is saved." in last
    assert command.startswith("Go on with: smidgen tune ")
    again = shlex.split(command.removeprefix("Go on with: smidgen "))
    assert again == [*words, "-o", str(output), "--resume"]


def test_a_rate_in_codes_that_does_nothing_is_refused_before_any_work(
    quantized: Path, data: Path, tmp_path: Path
) -> None:
    wanted = TuneOptions(steps=12, learning_rate=2e-5, batch=2, context=48, full=True)
    with pytest.raises(SmidgenError, match="nothing would be learned. Its rates are counted in codes a step"):
        tune(str(quantized), [data], tmp_path / "out", wanted)
    assert not (tmp_path / "out").exists()


def test_full_keeps_bf16_matrices_bf16(model: Path, data: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        parts: dict[str, Part] = {
            name: Changed(partial(checkpoint.tensor, name), types.F16 if "up" in name else types.BF16)
            for name in filter(is_matrix, checkpoint.names())
        }
        write_derived(checkpoint, Derived(checkpoint.config, parts), tmp_path / "bf16.gguf", {"step": "round"})
    wanted = TuneOptions(steps=4, learning_rate=3e-3, batch=2, context=48, full=True, held_out=0.2)
    result: Any = tune(str(tmp_path / "bf16.gguf"), [data], tmp_path / "out", wanted)
    assert result.after < result.before and result.merged == pytest.approx(result.after, rel=0.02)
    with open_checkpoint(tmp_path / "bf16.gguf") as before, open_checkpoint(tmp_path / "out" / "model.gguf") as after:
        kinds = {name: before.kind(name) for name in before.names()}
        assert types.BF16 in kinds.values() and {name: after.kind(name) for name in after.names()} == kinds


def test_without_merge_no_older_merged_model_stays(model: Path, data: Path, tmp_path: Path) -> None:
    tune(str(model), [data], tmp_path, replace(SHORT, steps=1, merge=True))
    assert (tmp_path / "model.gguf").exists() and (tmp_path / "Modelfile").exists()
    (tmp_path / "mine.txt").write_text("of a person")
    result = tune(str(model), [data], tmp_path, replace(SHORT, steps=1))
    assert not (tmp_path / "model.gguf").exists() and not (tmp_path / "Modelfile").exists()
    assert set(result.written) | {"mine.txt", "loss.svg", ".smidgen.json"} == {path.name for path in tmp_path.iterdir()}


def test_relative_paths_work_on_ray(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers run in folders of their own."""
    for file in (model, data):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "valid.jsonl").write_text('{"text": "another stone"}\n')
    monkeypatch.chdir(tmp_path)

    def elsewhere(work: Any, workers: int, address: str, resume: bool) -> Any:
        with monkeypatch.context() as there:
            there.chdir(tmp_path / "elsewhere")
            return work(resume)

    monkeypatch.setattr("smidgen.training.tune.run_together", elsewhere)
    adapted = tune(model.name, [data.name], "adapter", replace(SHORT, steps=1))
    assert adapted.path == Path("adapter")
    wanted = replace(SHORT, steps=1, adapter=Path("adapter"))
    result = tune_together(model.name, [Path(data.name)], Path("out"), wanted, 2, valid=Path("valid.jsonl"), ray="auto")
    assert result.path == Path("out") and (tmp_path / "out" / "adapter.gguf").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_disk_that_is_too_small_is_seen_before_the_training(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**4)  # type: ignore[attr-defined]
    monkeypatch.setattr("smidgen.distillation.loop.plan.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("smidgen.distillation.loop.trainer.Trainer.run", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(SmidgenError, match="has 10 kB free. This work needs about .* for checkpoints, which go"):
        tune(str(model), [data], tmp_path / "out", replace(SHORT, full=True))


def test_the_plan_is_shown_and_more_than_four_passes_are_warned_of(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    result = tune(str(model), [data], tmp_path / "out", replace(SHORT, steps=1, batch=60))
    told = capsys.readouterr().err
    assert "Plan: 1 steps, a checkpoint every 1; learning rate 0.02 of the adapter, cosine." in told
    (note,) = [note for note in result.notes if "times. After about 4 passes" in note]
    assert note in told


def test_killed_while_merging_and_resumed_is_the_same(quantized: Path, data: Path, tmp_path: Path) -> None:
    """As by kill -9: nothing is put in order, the lock stays behind."""
    merged = replace(SHORT, merge=True, learning_rate=None)
    tune(str(quantized), [data], tmp_path / "whole", merged)
    output = tmp_path / "out"
    words = ["tune", quantized, "--data", data, "--steps", 5, "--batch", 2, "--context", 48, "--rank", 4]
    words += ["--held-out", 0.2, "--merge", "-o", output]
    kill_once_there(tmp_path, words, output / "work" / "merging" / "training" / "checkpoint.safetensors")
    assert (output / LOCK).exists()
    tune(str(quantized), [data], output, merged, resume=True)
    assert digests(output) == digests(tmp_path / "whole")


def test_two_tunings_with_one_output_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(SmidgenError, match=r"Another smidgen \(process \d+\) is writing to"):
        tune(str(model), [data], tmp_path, SHORT)
