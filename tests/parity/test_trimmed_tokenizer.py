"""Both real models with fewer tokens, written and read back: our tokenizer, llama.cpp's and transformers' agree, any
text comes back, and text that is inside the vocabulary keeps its tokens."""

import json
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.formats.derived import write_derived
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.formats.hf.writer import write_hf
from smidgen.formats.opening import open_checkpoint
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.subset import Pieces, subset
from smidgen.pruning.vocabulary import VocabularyPlan, apply
from tests.parity.test_tokenizer_llama_cpp import LINES, LlamaCpp, control_and_space_texts, random_texts
from tests.tiny_tokenizers import LLAMA3, QWEN2, TEXT, byte_level_json, sentencepiece_json, split_at, write_folder

CODE = (
    "def f(x: int) -> int:\n    return x ** 2 if x > 0 else -x  # 日本\n",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i] * b[i];\n\t}\r\n",
    "SELECT name, COUNT(*) FROM t WHERE id IN (1, 2, 3) GROUP BY name;",
    '{"ключ": [1.5e-3, null, "\\u00e9"], "b": {"c": true}}',
    "<table><tr><td>1</td></tr></table>\n\n\n\n<h1>x</h1>",
    "3.14159 2,718.28 1e-9 0xDEADBEEF 192.168.0.1 2026-11-22T05:00:00Z +49 (0)30 123456",
)
MARKS = ("\u0301", "\u0308", "\u0323", "\u20dd", "\u064b", "\u093c", "\u3099", "\ufe0f", "\u200d", "\u0e49", "\u05b8")
EMOJI = ("😀", "👩🏽‍🚀", "🇩🇪🇫🇷", "👨‍👩‍👧‍👦", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🧑🏿‍🦰", "🫠", "☃")
SIZES = {"gemma_path": (1_000, 32_768), "smollm_path": (300, 16_384)}


def many_texts() -> list[str]:
    """Some four hundred: scripts, marks, emoji, code, numbers, and random characters from all of Unicode."""
    generator = random.Random(11)
    texts = [*LINES, *CODE, *EMOJI, *random_texts(60, seed=12), *list(control_and_space_texts())[::6]]
    letters = [chr(code) for code in range(0x20, 0x20000) if unicodedata.category(chr(code))[0] in "LNPSM"]
    for _ in range(60):
        words = ["".join(generator.choices(letters, k=generator.randrange(1, 4))) for _ in range(6)]
        texts.append(" ".join(word + generator.choice(MARKS) for word in words))
        texts.append(generator.choice(LINES)[:40] + generator.choice(EMOJI) + generator.choice(CODE)[:30])
    return texts


TEXTS = many_texts()


@dataclass
class Trimmed:
    """A real model with fewer tokens."""

    original: Tokenizer
    kept: np.ndarray
    path: Path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        with GGUFFile.open(self.path) as file:
            return Tokenizer.from_gguf(file.metadata)

    @cached_property
    def inside(self) -> list[str]:
        """Texts whose tokens are all kept."""
        kept = set(self.kept.tolist())
        return [text for text in TEXTS if set(self.original.encode(text, parse_special=True)) <= kept]


@cache
def real(path: Path) -> tuple[Tokenizer, Pieces]:
    with GGUFFile.open(path) as file:
        return Tokenizer.from_gguf(file.metadata), Pieces(file.metadata)


@pytest.fixture(
    scope="module",
    params=[(model, size) for model, sizes in SIZES.items() for size in sizes],
    ids=lambda parameter: f"{parameter[0].removesuffix('_path')}-{parameter[1]}",
)
def trimmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trimmed]:
    """Some size of a model's vocabulary: half of the texts' tokens and then the first, which are the frequent ones."""
    model, size = request.param
    with open_checkpoint(request.getfixturevalue(model)) as checkpoint:
        original, pieces = real(checkpoint.path)
        wanted = {token for text in TEXTS[::2] for token in original.encode(text)} if size > 5_000 else set[int]()
        order = pieces.in_order([*sorted(pieces.essential), *sorted(wanted), *range(len(pieces))])
        kept = np.sort(np.array([token for token, _ in zip(order, range(size), strict=False)]))
        plan = VocabularyPlan(kept, len(pieces), len(pieces.essential), 0, {}, {})
        path = tmp_path_factory.mktemp("trimmed") / "model.gguf"
        write_derived(checkpoint, apply(checkpoint, plan), path, {"step": "vocabulary", **plan.report()})
    yield Trimmed(original, kept, path)
    path.unlink()


def test_any_text_comes_back_and_kept_text_keeps_its_tokens(trimmed: Trimmed) -> None:
    ours, full = trimmed.tokenizer, trimmed.original
    lost = {chr(byte) for byte in full.missing_bytes if byte < 128}
    for text in TEXTS:
        for parse_special in (False, True):
            after = ours.encode(text, parse_special=parse_special)
            assert ours.decode(after) == full.decode(full.encode(text)) and (
                ours.decode(after) == text or set(text) & lost
            )
    for text in trimmed.inside:
        for parse_special in (False, True):
            before = full.encode(text, parse_special=parse_special)
            assert trimmed.kept[ours.encode(text, parse_special=parse_special)].tolist() == before
    assert len(trimmed.inside) > (150 if len(trimmed.kept) > 5_000 else 5)


def test_llama_cpp_has_the_same_ids(trimmed: Trimmed) -> None:
    oracle = LlamaCpp(trimmed.path)
    for text in TEXTS:
        if "▁" not in text:
            assert trimmed.tokenizer.encode(text) == oracle.encode(text), text
            assert trimmed.tokenizer.encode(text, parse_special=True) == oracle.encode(text, parse_special=True), text
    expected = trimmed.tokenizer.encode("Hello", add_bos=trimmed.tokenizer.adds_bos)
    assert oracle.encode("Hello", add_bos=True) == expected


def test_transformers_has_the_same_ids(trimmed: Trimmed, tmp_path: Path) -> None:
    """From the folder that export writes; but for the differences that formats/hf_tokenizer/write.py names."""
    ours, full = trimmed.tokenizer, trimmed.original
    with open_checkpoint(trimmed.path) as checkpoint:
        metadata = checkpoint.file.metadata
        if len(trimmed.kept) < 10_000:
            write_hf(checkpoint, tmp_path)
            config, generation = (
                json.loads((tmp_path / f"{name}config.json").read_text()) for name in ("", "generation_")
            )
            assert config["vocab_size"] == len(ours)
            for ids in (config, generation):
                ends = ids["eos_token_id"] if isinstance(ids["eos_token_id"], list) else [ids["eos_token_id"]]
                assert {ours.token_text(end) for end in ends} == {full.token_text(end) for end in full.eos_ids}
                assert ours.token_text(ids["pad_token_id"]) == full.special_texts["pad_token"]
                assert ours.token_text(ids["bos_token_id"]) == full.special_texts["bos_token"]
        else:
            write_tokenizer(tmp_path, metadata)
        template = metadata.get("tokenizer.chat_template")
    theirs = import_module("transformers").AutoTokenizer.from_pretrained(tmp_path)
    missing = {chr(byte) for byte in full.missing_bytes if byte < 128}
    for text in TEXTS:
        if "▁" not in text and not set(text) & missing:
            assert ours.encode(text, parse_special=True) == theirs(text, add_special_tokens=False)["input_ids"], text
    if isinstance(template, str):
        assert_same_chat(template, ours, full, theirs)


def assert_same_chat(template: str, ours: Tokenizer, full: Tokenizer, theirs: Any) -> None:
    messages = [
        {"role": "user", "content": "Grüße! 你好"},
        {"role": "assistant", "content": "OK."},
        {"role": "user", "content": "?"},
    ]
    text = render_chat(template, messages, ours.special_texts)
    assert text == render_chat(template, messages, full.special_texts)
    ids = ours.encode(text, add_bos=ours.adds_bos, parse_special=True)
    found = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == (found if isinstance(found, list) else found["input_ids"])
    assert ours.decode(ids) == text


FOLDERS = {
    "Llama 2": sentencepiece_json(),
    "Llama 3": byte_level_json(pre_tokenizer=split_at(LLAMA3)),
    "Qwen": byte_level_json(pre_tokenizer=split_at(QWEN2), normalizer={"type": "NFC"}),
}


@pytest.mark.parametrize("made", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_of_other_families(made: dict[str, Any], tmp_path: Path) -> None:
    """Hugging Face layout, trimmed, and written in that layout again."""
    folder = write_folder(tmp_path / "theirs", tokenizer__json=made, tokenizer_config__json={})
    rows = max(made["model"]["vocab"].values()) + 9
    metadata, types = tokenizer_metadata(folder, rows)
    full = Tokenizer.from_gguf(metadata)
    kept = Pieces(metadata).closed(full.encode(TEXT[: len(TEXT) // 2]))
    values, _ = subset(metadata, types, kept)
    again = write_folder(tmp_path / "ours")
    write_tokenizer(again, values)
    ours, theirs = Tokenizer.from_gguf(values), import_module("transformers").AutoTokenizer.from_pretrained(again)
    assert len(ours) < len(full) - 20
    for text in [TEXT, *LINES, *random_texts(30, seed=6), "<s>the</s> dog<|end|> the"]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        if "▁" not in text:
            assert ours.encode(text, parse_special=True) == ids
    assert kept[ours.encode(TEXT[:60])].tolist() == full.encode(TEXT[:60])
