"""The command `data`, from a person's side."""

import json
from pathlib import Path

import pytest

from smidgen.cli.main import main
from tests.data.corpus.texts import essay
from tests.tiny_models import write_llama


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_llama(tmp_path / "tiny.gguf"))
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps({"body": text}) + "\n" for text in [essay(0), essay(1), essay(0), "short"]))
    command = ["data", str(source), "--model", model, "--workers", "1", "--quiet"]
    code, out, err = run([*command, "--field", "body", "-o", str(tmp_path / "a"), "--json"], capsys)
    found = json.loads(out)
    assert (code, err, found["shards"], found["counts"]["kept"]) == (0, "", 1, 2)
    assert found["counts"]["dropped"] == {"exact_duplicate": 1, "too_few_words": 1}
    code, out, _ = run([*command, "--field", "body", "-o", str(tmp_path / "b"), "--langs", "en"], capsys)
    assert code == 0 and "4 documents read, 2 kept" in out and "exact duplicate: 1 dropped" in out
    code, out, err = run([*command, "-o", str(tmp_path / "c")], capsys)
    assert (code, out) == (2, "") and "line 1 has no 'text', only body" in err and err.count("\n") == 1
