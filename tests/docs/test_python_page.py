"""The page for Python's readers runs as it stands."""

import re
from pathlib import Path

import pytest

import smidgen

PAGE = Path(smidgen.__file__).parents[1] / "docs" / "python.md"
_BLOCK = re.compile(r"(<!-- not run -->\n)?```python\n(.*?)```", re.DOTALL)


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    code = "".join(block for unrun, block in blocks if not unrun)
    there: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), there)
    said = capsys.readouterr().out
    assert "18 layers of width 640" in said and "' Paris'" in said
    assert "four, five" in said and "Q8_0" in said
    model = there["model"]
    assert isinstance(model, smidgen.Model)
    model.close()


def test_what_is_not_run_names_options_that_exist() -> None:
    (block,) = (block for unrun, block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if unrun)
    for verb in re.findall(r"smidgen\.(\w+)\(", block):
        assert verb in smidgen.__all__
    assert smidgen.CutOptions.of(fit="165MB", texts=["mine.txt"]).fit == 165_000_000
    assert smidgen.TuneOptions(epochs=2) and smidgen.DistillOptions(steps=200, texts=("mine.txt",))
