"""No text of a person ends the engine: our tokenizer reads it, for every rule that llama.cpp would recurse in."""

from pathlib import Path
from typing import Any

import gguf
import pytest

from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Sampling
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from tests.parity.test_tokenizer_llama_cpp import write_tiny_model

_RUN = 24_000  # characters; llama.cpp's own rules of these names end its process at about 23,700


@pytest.fixture(scope="module")
def metadata(smollm_path: Path) -> dict[str, Any]:
    with GGUFFile.open(smollm_path) as file:
        return dict(file.metadata)


@pytest.mark.parametrize("pre", ["gpt-4o", "tekken", "default"])
def test_a_run_of_one_character_is_answered_or_refused(pre: str, metadata: dict[str, Any], tmp_path: Path) -> None:
    def tokenizer(writer: gguf.GGUFWriter) -> int:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_chat_template("{{ messages[0].content }}")
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_types(metadata["tokenizer.ggml.token_type"].tolist())
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])
        return len(metadata["tokenizer.ggml.tokens"])

    with LlamaCppEngine(write_tiny_model(tmp_path / "tiny.gguf", tokenizer), 512, threads=1) as engine:
        for fits in ("=" * _RUN, " " * _RUN):  # 64 of them are one token
            for reply in (
                engine.stream(fits, 1, Sampling(temperature=0)),
                engine.chat([{"role": "user", "content": fits}], 1, Sampling(temperature=0)),
            ):
                reply.text()
                assert reply.prompt_tokens in (_RUN // 64, _RUN // 64 + 1) and reply.stop is not None
        for too_long in ("a" * _RUN, "\u6f22" * _RUN, "7" * _RUN, " " * 200_000, "a" * 16_000_000):
            with pytest.raises(SmidgenError, match="tokens.*no room in a context of 512"):
                engine.chat([{"role": "user", "content": too_long}], 1)
