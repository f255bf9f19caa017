"""`smidgen cut` beside the page: what it is asked, what it tells, and how it ends."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.showing.cut_desk import progress_of
from smidgen.showing.cut_process import CutProcess, CutWish, _step
from tests.tiny_models import write_llama


def ended(run: CutProcess, seconds: float = 120) -> CutProcess:
    end = time.monotonic() + seconds
    while run.state == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_llama(tmp_path_factory.mktemp("model") / "tiny.gguf"))


def test_a_wish_as_words_of_the_command(tmp_path: Path) -> None:
    wish = CutWish.of_page("m", " 90MB ", "small", tmp_path, languages="de, en", tokens=512, card=False, resume=True)
    assert wish.words(None, dry=False) == [
        "cut", "m", "--fit=90MB", f"--output={tmp_path / 'small'}", "--json", "--langs=de, en", "--tokens=512",
        "--no-measure", "--resume",
    ]  # fmt: skip
    assert wish.words(tmp_path / "t.txt", dry=True)[-1] == "--dry-run"
    assert "--kv=q8_0" in replace(wish, card=True, kv="q8_0").words(None, dry=False)
    assert "--kv=q8_0" not in replace(wish, kv="q8_0").words(None, dry=False), "it is for the card alone"


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/etc", "a/b", "-o", ".hidden", "a\0b", "x" * 65, "späť"])
def test_a_folder_is_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError, match="name of the folder"):
        CutWish.of_page("m", "90MB", name, tmp_path)


@pytest.mark.parametrize(
    ("fit", "languages"), [("", ""), ("much", ""), ("90MB", "de;rm"), ("90MB", "--debug"), ("90MB", "d")]
)
def test_other_wishes_that_are_none(fit: str, languages: str, tmp_path: Path) -> None:
    with pytest.raises(SmidgenError):
        CutWish.of_page("m", fit, "small", tmp_path, languages=languages)


def test_lines_of_progress_are_understood() -> None:
    step = _step("Writing calibration text: 33/511, 10 s, 146 s left")
    assert step is not None and (step.label, step.seconds_left) == ("Writing calibration text", 146)
    assert step.done == pytest.approx(10 / 156), "by time: steps may cost different amounts"
    step = _step("Fetching m.gguf: 12.5 MB/98.0 MB, 1 s, 7 s left, from a mirror")
    assert step is not None and step.done == pytest.approx(1 / 8)
    step = _step("Quantizing: 3/30, 0 s, 0 s left")
    assert step is not None and step.done == pytest.approx(0.1)
    assert _step("Plan: Q4_0 39.9 MB; file 79997408 bytes") is None
    assert _step("Nothing: 0/0, 0 s, 0 s left") is None


def test_a_cut_that_is_refused_says_why(model: str, tmp_path: Path) -> None:
    run = ended(CutProcess(CutWish(model, "1KB", tmp_path / "out"), dry=True, scratch=tmp_path / "scratch"))
    assert run.state == "failed" and "1000 bytes" in str(run.error)
    assert "\n" not in str(run.error) and "failed" in progress_of(run)


def test_cancelling_ends_it_and_removes_the_text(model: str, tmp_path: Path) -> None:
    wish = CutWish(model, "300KB", tmp_path / "out", text="Some text to calibrate on. " * 100)
    run = CutProcess(wish, dry=False, scratch=tmp_path / "scratch")
    [text] = (tmp_path / "scratch").rglob("pasted.txt")
    assert text.stat().st_mode & 0o077 == 0
    run.cancel()
    assert ended(run).state == "cancelled" and "cancelled" in progress_of(run)
    assert not text.exists() and not (tmp_path / "out" / "model.gguf").exists()
    run.cancel()  # does no harm
    run.close()


def test_what_it_tells_is_harmless_on_the_page(tmp_path: Path) -> None:
    run = CutProcess(CutWish("<script>alert(1)</script>", "90MB", tmp_path / "out"), dry=True, scratch=tmp_path)
    assert "<script>" not in progress_of(ended(run)) and run.state == "failed"
