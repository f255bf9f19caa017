"""`smidgen measure` on bad input: one line on stderr, exit code 2, nothing written."""

import json
import re
from pathlib import Path

import pytest

from smidgen.cli.main import main
from tests.measuring.tasks.little_data import write_data


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["measure", *map(str, arguments)])
    return int(left.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "binary.txt").write_bytes(b"abc\x00def")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_text("Some words to read. " * 10)
    (tmp_path / "no.gguf").write_bytes(b"not a model")
    (tmp_path / "mine.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}/no.gguf", "{0}/no.gguf", "--text", "{0}/binary.txt"], "zero byte at offset 3"),
        (["{0}/no.gguf", "{0}/no.gguf", "--text", "{0}/empty.txt"], "is empty"),
        (["{0}/no.gguf", "{0}/no.gguf", "--text", "de={0}/nothing.txt"], "no such file"),
        (["{0}/no.gguf", "{0}/no.gguf", "--text", "{0}/good.txt"], "no.gguf"),
        (["{0}/no.gguf", "{0}/no.gguf", "-o", "{0}/card.html"], "must end in .json"),
        (["{0}/no.gguf", "{0}/no.gguf", "-o", "{0}/good.txt/card.json"], "good.txt is a file"),
        (["{0}/no.gguf", "{0}/no.gguf", "-o", "{0}/mine.json"], "mine.json is there, and smidgen did not write it"),
        (["{0}/no.gguf", "{0}/no.gguf", "--tokens", "0"], "--tokens"),
        (["{0}/no.gguf"], "CUT"),
    ],
)
def test_bad_input(files: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(files.iterdir())
    assert run(*(argument.format(files) for argument in arguments)) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and said in output.err
    assert sorted(files.iterdir()) == before


def test_json_is_the_card_and_nothing_else(
    files: Path, smollm_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(files / "home"))
    quick = "--no-speed", "--no-answers", "--json", "--quiet"
    card = files / "new" / "folder" / "card.json"
    assert run(smollm_path, smollm_path, "--text", files / "good.txt", *quick, "-o", card) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["fidelity"][0]["kl_mean"] == 0.0 and output.err == ""
    assert json.loads(card.read_text("utf-8")) == json.loads(output.out)
    assert card.with_suffix(".html").exists(), "the folder is made, as cut makes it"


def test_the_terminal_says_how_the_divergence_is_spread_and_what_changed(
    files: Path, smollm_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMIDGEN_HOME", str(files / "home"))
    write_data(files / "data")
    asked = "--tasks", "mmlu:2", "--data", files / "data"
    quick = "--no-speed", "--no-answers", "--quiet"
    assert run(smollm_path, smollm_path, "--text", files / "good.txt", *asked, *quick) == 0
    said = capsys.readouterr().out
    assert re.search(r"KL divergence +0\S* nats\n +median 0\S*, p90 0\S*, p99 0\S*, p99.9 0", said), said
    assert "(2 items)\n  0 right → wrong, 0 wrong → right\n" in said
