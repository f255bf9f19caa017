"""Speed is measured with what a model's context can hold."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.engines.llama_cpp.bench import measure_speed
from smidgen.errors import SmidgenError
from tests import tiny_models


def test_a_context_shorter_than_the_usual_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = tiny_models.GEMMA3_KEYS | {"context_length": 64}
    monkeypatch.setattr(tiny_models, "GEMMA3_KEYS", keys)
    (speed,) = measure_speed([tiny_models.write_gemma3(tmp_path / "short.gguf")], threads=1, repeats=1)
    assert speed["prompt_tokens_per_s"] > 0 and speed["decode_tokens_per_s"] > 0


def test_what_cannot_be_measured_is_named_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason stands on the card, which people publish."""
    model = tiny_models.write_gemma3(tmp_path / "tiny.gguf")
    monkeypatch.setattr("smidgen.engines.llama_cpp.process.sys.executable", "/bin/false")
    with pytest.raises(SmidgenError, match="^cannot measure tiny.gguf: "):
        measure_speed([model], threads=1, repeats=1)
