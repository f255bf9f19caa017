"""Distilling tiny models: fresh, pruned, quantized, and with other tokens; and going on after an interruption."""

import hashlib
import json
import signal
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from smidgen.cutting.cut import cut
from smidgen.cutting.recipe import CutOptions, Pruning
from smidgen.data.corpus.filters import Rules
from smidgen.data.corpus.prepare import CorpusOptions
from smidgen.data.sources import TextSource
from smidgen.distillation.objectives.losses import Divergence
from smidgen.distillation.objectives.matching import MatchingOptions, layers_after
from smidgen.distillation.students.fresh import FreshShape
from smidgen.distillation.text.batch import Batch
from smidgen.distillation.text.packing import PackedBatches
from smidgen.errors import SmidgenError
from smidgen.formats.history import history
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from smidgen.stopping import Stopped
from smidgen.training.collect import collect
from smidgen.training.distill import DistillOptions, distill
from smidgen.training.lesson import Lesson
from tests.cutting.test_cut import TEXT
from tests.distillation.students.test_lattice import quantized
from tests.interrupted import Died, asked_to_end, dying_at_file, files_named
from tests.padded_models import padded
from tests.tiny_models import (
    GEMMA3_CONFIG,
    GEMMA3_KEYS,
    LLAMA_CONFIG,
    LLAMA_KEYS,
    VOCABULARY,
    gguf_tensors,
    random_decoder,
    write_gemma3,
    write_llama,
    write_model,
)  # fmt: skip

SOURCE = TextSource.of("letters", TEXT[:3000])
SHAPE = FreshShape(layers=3, width=32, ffn=48)
OPTIONS = DistillOptions(8, (SOURCE,), shape=SHAPE, batch=2, context=32, learning_rate=1e-2)
KEPT = replace(OPTIONS, shape=FreshShape(), learning_rate=3e-3)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    return write_gemma3(tmp_path / "teacher.gguf")


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.gguf").read_bytes()).hexdigest()


def test_a_fresh_student_learns_and_is_written(teacher: Path, tmp_path: Path) -> None:
    result = distill(str(teacher), None, tmp_path / "out", OPTIONS)
    assert result.kept is not None and result.kept[1] < result.evaluations[0][1]
    assert result.steps == 8 and result.path == tmp_path / "out" / "model.gguf"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".smidgen.json",
        "Modelfile", "NOTICE", "README.md", "loss.svg", "metrics.jsonl", "model.gguf"
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all({"loss", "tokens_per_s", "kl", "cross_entropy", "learning_rate"} <= line.keys() for line in lines)
    with open_checkpoint(result.path) as written:
        assert (len(written.config.layers), written.config.hidden) == (3, 32)
        assert written.kind("embedding.weight") is types.F32  # as the teacher
        (step,) = history(written.file.metadata)
        assert step["step"] == "distill" and "3 layers of width 32" in step["summary"]
        assert step["parameters"]["begun_as"] == {"layers": [0, 2, 4], "of": 5}
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Distilled from" in readme and "](loss.svg)" in readme
    assert 'smidgen run . "Once upon a time"' in readme and '"Once upon a time"' in result.describe()
    assert json.loads(result.to_json())["steps"] == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_teacher": True},
        {"on_policy": 0.5, "divergence": Divergence("jensen-shannon")},
        {"divergence": Divergence("reverse", temperature=2.0, hard=0.5), "optimizer": "muon"},
        {"divergence": Divergence(hard=1.0), "beginning": "random", "gradient_checkpointing": True},
    ],
    ids=["cached", "on policy", "reverse", "scratch"],
)
def test_every_way_learns(changes: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    result = distill(str(teacher), None, tmp_path / "out", replace(OPTIONS, **changes))
    assert result.kept is not None and result.kept[1] < result.evaluations[0][1]


@pytest.mark.parametrize("fresh", [True, False])
def test_an_interrupted_training_ends_in_the_same_file(
    fresh: bool, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matching = MatchingOptions(hidden=0.1, relations=0.1)  # with matrices that are trained, but not written
    options = replace(OPTIONS, matching=matching, checkpoint_every=2) if fresh else replace(KEPT, checkpoint_every=2)
    student = None if fresh else str(write_gemma3(tmp_path / "student.gguf"))
    distill(str(teacher), student, tmp_path / "whole", options)
    real = PackedBatches.batch

    def killed(self: PackedBatches, step: int) -> Batch:
        if step == 5:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(PackedBatches, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(str(teacher), student, tmp_path / "halves", options)
    monkeypatch.undo()
    assert (tmp_path / "halves" / "work").exists()
    with pytest.raises(SmidgenError, match="was begun with batch 2, now it is 4"):
        distill(str(teacher), student, tmp_path / "halves", replace(options, batch=4), resume=True)
    (tmp_path / "halves" / "work" / "effort.json").write_text(json.dumps({"seconds": 5000}))
    resumed = distill(str(teacher), student, tmp_path / "halves", options, resume=True)
    assert 5000 < resumed.seconds < 6000  # what both processes took
    assert sha256(tmp_path / "halves") == sha256(tmp_path / "whole")
    assert not (tmp_path / "halves" / "work").exists()


def test_layers_are_matched_with_those_that_they_stand_for(teacher: Path, tmp_path: Path) -> None:
    """Of a student as wide as its teacher; the loss on held-out text stays that of the predictions alone."""
    shape, matched = FreshShape(layers=3), MatchingOptions(hidden=0.3)
    plain, watched = (
        distill(str(teacher), None, tmp_path / name, replace(OPTIONS, steps=6, shape=shape, matching=matching))
        for name, matching in (("plain", MatchingOptions()), ("watched", matched))
    )
    assert watched.evaluations[0] == pytest.approx(plain.evaluations[0])
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["hidden"] < lines[0]["hidden"]
    assert all(line["loss"] == pytest.approx(line["kl"] + 0.3 * line["hidden"]) for line in lines)
    with open_checkpoint(watched.path) as written, open_checkpoint(teacher) as taught_by, ExitStack() as stack:
        (step,) = history(written.file.metadata)
        chosen = step["parameters"]["begun_as"]["layers"]
        options = replace(KEPT, matching=matched)
        assert Lesson(taught_by, written, None, options).layers() == layers_after(chosen, 5)
        fresh = Lesson.open(str(teacher), None, replace(options, shape=shape), stack)
        assert fresh.layers() == layers_after(chosen, 5)
        at_random = Lesson.open(str(teacher), None, replace(options, shape=shape, beginning="random"), stack)
        assert at_random.layers() == {0: 0, 1: 2, 2: 4}


def test_the_best_state_may_be_the_first(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher itself has nothing to learn, and what reports is apart from what has chosen."""
    monkeypatch.setattr("smidgen.distillation.text.held_out.FEWEST_TO_CHOOSE", 10)
    result = distill(str(teacher), str(teacher), tmp_path / "out", replace(KEPT, learning_rate=1e-2))
    assert result.kept == (0, pytest.approx(0.0, abs=1e-3)) and result.change is not None
    assert (result.change.before, result.change.after) == pytest.approx((0.0, 0.0), abs=1e-3)
    assert any("Nothing learned helped" in note for note in result.notes)
    assert "the best on other held-out text" in result.describe()


def test_a_text_with_nothing_to_predict_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="no document has two tokens"):
        distill(str(teacher), None, tmp_path / "out", replace(OPTIONS, texts=(TextSource.of("empty", ""),)))


def test_too_little_text_chooses_nothing_and_that_is_said(teacher: Path, tmp_path: Path) -> None:
    """Cross-entropy with the text, at a rate that ruins the student."""
    ruinous = replace(KEPT, learning_rate=100.0, divergence=Divergence(hard=1.0))
    result = distill(str(teacher), str(teacher), tmp_path / "out", ruinous)
    assert result.kept is not None and result.kept[0] == KEPT.steps
    assert result.change is not None and result.change.is_worse and result.change.after == result.kept[1]
    assert "held-out tokens would choose another" in result.describe()
    assert any("got worse on held-out text" in note for note in result.notes)


def trimmed(teacher: Path, folder: Path) -> Path:
    """The teacher with fewer tokens."""
    (folder / "letters.txt").write_text(TEXT)
    texts = (str(folder / "letters.txt"),)
    cut(str(teacher), folder / "trimmed", CutOptions(texts=texts, tokens=1024, pruning=Pruning(288)), measured=False)
    return folder / "trimmed" / "model.gguf"


def foreign(path: Path) -> Path:
    """A model with letters that the teacher has no tokens for."""
    letters = [chr(0x5E00 + place) for place in range(VOCABULARY - 261)]
    tokens = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁"]
    return write_model(path, "llama", LLAMA_KEYS, gguf_tensors(random_decoder(LLAMA_CONFIG)), tokens)


@pytest.mark.parametrize("kind", ["quantized", "trimmed", "with another tokenizer"])
def test_students_of_one_s_own_keep_their_types(
    kind: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smidgen.distillation.text.held_out.FEWEST_TO_CHOOSE", 10)
    options = KEPT
    if kind == "quantized":  # whose rates count in codes
        student, options = quantized(teacher, types.Q4_0), replace(KEPT, learning_rate=None)
    elif kind == "trimmed":
        student, options = trimmed(teacher, tmp_path), replace(KEPT, matching=MatchingOptions(hidden=0.1))
        with pytest.raises(SmidgenError, match="only some of the teacher's tokens"):
            related = replace(KEPT, matching=MatchingOptions(relations=0.1))
            distill(str(teacher), str(student), tmp_path / "out", related)
    else:
        student = foreign(tmp_path / "foreign.gguf")
        options = replace(KEPT, divergence=Divergence(hard=0.5))
    result = distill(str(teacher), str(student), tmp_path / "out", options)
    assert result.kept is not None and result.kept[1] <= result.evaluations[0][1]
    with open_checkpoint(student) as before, open_checkpoint(result.path) as after:
        assert before.config == after.config
        assert {name: before.kind(name) for name in before.names()} == {n: after.kind(n) for n in after.names()}


def test_a_short_text_is_learned_from_whole(teacher: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=1, texts=(TextSource.of("few letters", TEXT[:60]),))
    result = distill(str(teacher), None, tmp_path / "out", options)
    assert result.kept is None and result.figures() == []


def test_json_lines_and_what_they_are_called(teacher: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": TEXT[start : start + 60]}) + "\n" for start in range(0, 3000, 60)))
    result = distill(str(teacher), None, tmp_path / "out", replace(OPTIONS, texts=(), data=(data,)))
    assert result.kept is not None and result.kept[1] < result.evaluations[0][1]
    data.write_text(data.read_text() + "{broken\n")
    with pytest.raises(SmidgenError, match="line 51"):
        distill(str(teacher), None, tmp_path / "other", replace(OPTIONS, texts=(), data=(data,)))


def test_contradictions_are_one_line(teacher: Path, tmp_path: Path) -> None:
    other, others = write_llama(tmp_path / "llama.gguf"), foreign(tmp_path / "foreign.gguf")
    for options, student, message in (
        (OPTIONS, teacher, "has its shape"),
        (replace(KEPT, on_policy=0.5, cache_teacher=True), None, "cannot be cached"),
        (replace(KEPT, divergence=Divergence(hard=1.0), cache_teacher=True), None, "teacher is not asked"),
        (replace(KEPT, context=5000), other, "more than the 4096 tokens"),
        (replace(KEPT, matching=MatchingOptions(1), cache_teacher=True), None, "with --cache-teacher it does not"),
        (replace(KEPT, matching=MatchingOptions(1), divergence=Divergence(hard=1.0)), None, "with --hard 1 it does"),
        (replace(KEPT, matching=MatchingOptions(layers=((0, 0),))), None, "--match-layers is for"),
        (replace(KEPT, matching=MatchingOptions(1), divergence=Divergence(hard=0.5)), others, "read different tokens"),
    ):
        with pytest.raises(SmidgenError, match=message) as caught:
            distill(str(teacher), None if student is None else str(student), tmp_path / "out", options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_without_a_context_a_row_is_as_long_as_what_the_models_know(tmp_path: Path) -> None:
    tensors = gguf_tensors(random_decoder(LLAMA_CONFIG))
    short = write_model(tmp_path / "short.gguf", "llama", LLAMA_KEYS | {"context_length": 64}, tensors)
    long = write_llama(tmp_path / "long.gguf")
    for teacher, student, context in ((short, None, 64), (long, short, 64), (long, None, 512)):
        with ExitStack() as stack:
            options = replace(KEPT, context=None)
            lesson = Lesson.open(str(teacher), None if student is None else str(student), options, stack)
            assert lesson.context == lesson.text.batches.batch(0).ids.shape[1] == context
            assert lesson.fingerprint()["context"] == context


@pytest.mark.parametrize(
    ("teacher_rows", "student_rows", "changes"),
    [
        (340, 320, {"steps": 4}),
        (320, 340, {"steps": 4}),
        (VOCABULARY, 320, {"cache_teacher": True, "steps": 4}),
        (VOCABULARY, 320, {"on_policy": 0.9, "steps": 2}),
        (340, 320, {"divergence": Divergence("jensen-shannon"), "matching": MatchingOptions(0.5, 0.5)}),
    ],
    ids=["fewer rows", "more rows", "cached", "on policy", "matched"],
)
def test_padding_of_the_embedding_does_not_make_another_vocabulary(
    teacher_rows: int, student_rows: int, changes: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    taught_by = padded(teacher, tmp_path / "one.gguf", teacher_rows, 3.0) if teacher_rows > VOCABULARY else teacher
    other = gguf_tensors(random_decoder(GEMMA3_CONFIG, seed=1))
    plain = write_model(tmp_path / "plain.gguf", "gemma3", GEMMA3_KEYS, other)
    student = padded(plain, tmp_path / "other.gguf", student_rows, 3.0)
    result = distill(str(taught_by), str(student), tmp_path / "out", replace(KEPT, **changes))
    assert result.kept is not None and result.kept[1] < result.evaluations[0][1]
    with open_checkpoint(result.path) as written:
        assert written.config.vocabulary == student_rows


def test_a_corpus_serves_models_of_other_padding(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT[:3000])
    options = CorpusOptions(Rules(quality=False), deduplicate=False)
    collect(padded(teacher, tmp_path / "one.gguf", 320), tmp_path / "text.txt", tmp_path / "corpus", options)
    student = padded(teacher, tmp_path / "other.gguf", 340)
    result = distill(str(teacher), str(student), tmp_path / "out", replace(KEPT, texts=(), data=(tmp_path / "corpus",)))
    assert result.steps == 8


def test_a_fresh_students_widths_are_warned_of(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shape = FreshShape(layers=3, width=30, ffn=48, heads=2)
    result = distill(str(teacher), None, tmp_path / "out", replace(OPTIONS, steps=1, shape=shape, beginning="random"))
    warning = "Rows of 30, 48 weights fit no block of a quantized type (32 or 256 weights)"
    assert warning in capsys.readouterr().err and warning in result.describe()


# -- a plan that is decided once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 5)])
def test_a_distillation_that_is_asked_to_end_goes_on_to_the_same_file(
    number: int, step: int, teacher: Path, tmp_path: Path
) -> None:
    distill(str(teacher), None, tmp_path / "whole", OPTIONS)
    told = f"Stopped after step {step} of 8, which is saved. Go on with --resume"
    with asked_to_end(number, step), pytest.raises(Stopped, match=told) as stop:
        distill(str(teacher), None, tmp_path / "out", OPTIONS)
    assert stop.value.exit_code == 128 + number
    with pytest.raises(SmidgenError, match="holds unfinished work"):
        distill(str(teacher), None, tmp_path / "out", OPTIONS)
    distill(str(teacher), None, tmp_path / "out", OPTIONS, resume=True)
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


def test_a_distillation_that_dies_at_any_file_goes_on_to_the_same_file(teacher: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=3, cache_teacher=True)
    count = files_named(lambda: distill(str(teacher), None, tmp_path / "whole", options))
    for place in range(1, count + 1, max(1, count // 6)):
        output = tmp_path / f"died{place}"
        with dying_at_file(place), pytest.raises(Died):
            distill(str(teacher), None, output, options)
        distill(str(teacher), None, output, options, resume=True)
        assert sha256(output) == sha256(tmp_path / "whole"), place


def test_the_plan_is_kept_and_carried_out_whatever_would_be_decided_now(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, learning_rate=None)
    distill(str(teacher), None, tmp_path / "whole", options)
    with asked_to_end(), pytest.raises(Stopped):
        distill(str(teacher), None, tmp_path / "out", options)
    assert json.loads((tmp_path / "out" / "work" / "plan.json").read_text())["learning_rate"] == 1e-3
    monkeypatch.setattr("smidgen.training.distill._RATES", {"fresh": 1.0, "trained": 1.0})  # a later version's
    monkeypatch.setattr("smidgen.training.begun.date", Tomorrow)
    distill(str(teacher), None, tmp_path / "out", options, resume=True)
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


class Tomorrow(date):
    @classmethod
    def today(cls) -> "Tomorrow":
        return cls(2100, 1, 1)


def test_a_rate_that_does_nothing_on_a_lattice_is_refused(teacher: Path, tmp_path: Path) -> None:
    student = str(quantized(teacher, types.Q4_0))
    with pytest.raises(SmidgenError, match="nothing would be learned. Its rates are counted in codes"):
        distill(str(teacher), student, tmp_path / "out", replace(KEPT, learning_rate=1e-5))
    assert not (tmp_path / "out").exists()


def test_more_than_four_passes_over_the_text_are_warned_of(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    short = TextSource.of("short", TEXT[:90])
    result = distill(str(teacher), None, tmp_path / "out", replace(OPTIONS, texts=(short,)))
    (note,) = [note for note in result.notes if "times. After about 4 passes" in note]
    assert note in capsys.readouterr().err
