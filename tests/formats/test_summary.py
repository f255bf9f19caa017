"""Facts about a file, checked against its header."""

from pathlib import Path

import pytest

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.summary import part_of, summarise
from tests.tiny_models import write_gemma3


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("token_embd.weight", "embedding"),
        ("output.weight", "head"),
        ("output_norm.weight", "norms"),
        ("blk.3.attn_q.weight", "attention"),
        ("blk.3.attn_q_norm.weight", "norms"),
        ("blk.11.ffn_down.weight", "feed-forward"),
        ("blk.11.post_ffw_norm.weight", "norms"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_parts(tensor: str, part: str) -> None:
    assert part_of(tensor) == part


def test_chat_templates_are_named(tmp_path: Path) -> None:
    key, text = "tokenizer.chat_template", "{{ messages[0].content }}"
    write_gemma3(tmp_path / "none.gguf")
    write_gemma3(tmp_path / "one.gguf", {key: text})
    write_gemma3(tmp_path / "two.gguf", {f"{key}.tool_use": text, key: text})
    found = {name: summarise(tmp_path / f"{name}.gguf") for name in ("none", "one", "two")}
    assert [one.chat_template for one in found.values()] == [False, True, True]
    assert [one.chat_templates for one in found.values()] == [[], ["default"], ["default", "tool_use"]]


def test_shares_add_up(smollm_path: Path) -> None:
    summary = summarise(smollm_path)
    with GGUFFile.open(smollm_path) as file:
        stored = sum(tensor.nbytes for tensor in file.tensors.values())
    for shares in (summary.parts, summary.types):
        assert sum(share.bytes for share in shares.values()) == stored
        assert sum(share.parameters for share in shares.values()) == summary.parameters
    assert (summary.architecture, summary.layers, summary.hidden) == ("llama", 30, 576)
    assert (summary.vocabulary, summary.context_length, summary.chat_template) == (49152, 8192, True)
    assert (summary.tokenizer, summary.licence) == ("byte-level BPE, smollm", "Apache-2.0")
