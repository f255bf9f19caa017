"""Tokenizers with fewer tokens: any text comes back, kept text keeps its tokens, and every id follows."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.tokenizer import tokenizer_metadata
from smidgen.model.chat import render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.byte_level import ByteLevel
from smidgen.model.tokenizers.sentencepiece import SentencePiece
from smidgen.model.tokenizers.subset import DEFAULT_IDS, Pieces, subset
from smidgen.model.tokenizers.vocabulary import TokenKind, Vocabulary
from tests.parity.test_chat_templates import FAMILIES
from tests.tiny_tokenizers import LLAMA3, SPACE, TEXT, added, byte_level_json, pieces, sentencepiece_json, split_at
from tests.tiny_tokenizers import write_folder as write_files

SPECIALS = ("<|begin|>", "<|end|>", "<|user|>", "<|unused_7|>", "<|unused_8|>", "<|tool|>")
ALPHABET = [*"the quick.\n▁é字", " the", " then", "other", "aaaa", "  ", "<|end|>", "<|unused_8|>", "</s>", "<s>"]


def types_of(metadata: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Types do not matter here; they travel with their keys."""
    return {key: (place,) for place, key in enumerate(metadata)}


def sentencepiece() -> dict[str, Any]:
    """Llama-like, with tokens of equal score, runs of one letter, and tokens that no merging reaches."""
    normal = [(text, score) for text, score, kind in pieces() if kind == 1]
    normal += [("a" * length, -float(length % 3)) for length in range(2, 9)]
    normal += [("quxz", -3.0), ("brfox", -2.0), ("▁then▁the", -1.0), ("字", -200.0)]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(text for text, _ in normal)]
    user, control = ["\n\n", "  ", "<br>"], list(SPECIALS)
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(normal), *[4] * len(user), *[3] * len(control)]
    return {
        "general.name": "not about tokens",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*texts, *user, *control],
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [score for _, score in normal] + [0.0] * 9, np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
    }


def byte_level(pre: str = "qwen2") -> dict[str, Any]:
    """Qwen- or Llama-3-like; the last can take a whole word that no merging reaches."""
    made = byte_level_json()["model"]
    texts = [*made["vocab"], "zzzz", *SPECIALS]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array([1] * (len(texts) - 6) + [3] * 6, np.int32),
        "tokenizer.ggml.merges": made["merges"],
        "tokenizer.ggml.eos_token_id": len(texts) - 5,
    }


def llama3() -> dict[str, Any]:
    return byte_level("llama-bpe")


def without_prefix() -> dict[str, Any]:
    return sentencepiece() | {"tokenizer.ggml.add_space_prefix": False}


KINDS = [sentencepiece, without_prefix, byte_level, llama3]
Make = Callable[[], dict[str, Any]]


@cache
def original(make: Make) -> tuple[dict[str, Any], Tokenizer, Pieces]:
    metadata = make()
    return metadata, Tokenizer.from_gguf(metadata), Pieces(metadata)


def trimmed(make: Make, wanted: set[int]) -> tuple[dict[str, Any], Tokenizer, list[int]]:
    metadata, _, pieces = original(make)
    kept = pieces.closed(wanted)
    values, types = subset(metadata, types_of(metadata), kept)
    assert values.keys() == types.keys()
    return values, Tokenizer.from_gguf(values), kept.tolist()


@pytest.mark.parametrize("make", KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_text_comes_back_and_kept_text_keeps_its_tokens(make: Make, data: st.DataObject) -> None:
    _, full, _ = original(make)
    wanted = data.draw(st.sets(st.integers(0, len(full) - 1), max_size=60))
    words = [full.decode([token]) for token in sorted(wanted)]
    text = "".join(data.draw(st.lists(st.sampled_from([*ALPHABET, *words]), max_size=25)))
    text += data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
    if data.draw(st.booleans()):
        wanted |= set(full.encode(text))
    _, fewer, kept = trimmed(make, wanted)
    for parse_special in (False, True):
        before = full.encode(text, parse_special=parse_special)
        after = fewer.encode(text, parse_special=parse_special)
        assert fewer.decode(after) == text
        if set(before) <= set(kept):
            assert [kept[token] for token in after] == before


@pytest.mark.parametrize("make", KINDS)
def test_all_ids_follow(make: Make) -> None:
    values, fewer, kept = trimmed(make, {300, 310})
    metadata, full, _ = original(make)
    texts = metadata["tokenizer.ggml.tokens"]
    assert values["tokenizer.ggml.tokens"] == [texts[token] for token in kept] and kept == sorted(kept)
    assert kept[: DEFAULT_IDS[values["tokenizer.ggml.model"]]] == [*range(DEFAULT_IDS[values["tokenizer.ggml.model"]])]
    for name in ("scores", "token_type"):
        if f"tokenizer.ggml.{name}" in metadata:
            expected = metadata[f"tokenizer.ggml.{name}"][kept]
            assert (values[f"tokenizer.ggml.{name}"] == expected).all()
            assert values[f"tokenizer.ggml.{name}"].dtype == expected.dtype
    assert {fewer.token_text(token) for token in fewer.eos_ids} == {full.token_text(token) for token in full.eos_ids}
    assert fewer.special_texts == full.special_texts and fewer.adds_bos == full.adds_bos
    assert fewer.missing_bytes == full.missing_bytes
    assert "general.name" not in values
    assert len(kept) < len(full)


def test_keys_that_hold_ids() -> None:
    metadata = byte_level()
    ids = {text: token for token, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    spare, user, tool, end = (ids[text] for text in ("<|unused_7|>", "<|user|>", "<|tool|>", "<|end|>"))
    metadata |= {
        "tokenizer.ggml.fim_pre_token_id": spare,
        "tokenizer.ggml.mask_token_id": 4294967295,
        "tokenizer.ggml.suppress_tokens": np.array([user, ids["<|unused_8|>"], tool], np.int32),
        "tokenizer.smidgen.strip_left": np.array([tool], np.uint32),
        "tokenizer.smidgen.strip_right": np.array([ids["<|unused_8|>"]], np.uint32),
        "tokenizer.ggml.eos_token_ids": np.array([-1, end], np.int64),
        "tokenizer.huggingface.json": "{}",
        "tokenizer.ggml.add_bos_token": False,
    }
    kept = Pieces(metadata).closed([])
    values, _ = subset(metadata, types_of(metadata), kept)
    place = {token: index for index, token in enumerate(kept.tolist())}
    assert values["tokenizer.ggml.fim_pre_token_id"] == place[spare]
    assert values["tokenizer.ggml.mask_token_id"] == 4294967295
    assert values["tokenizer.ggml.add_bos_token"] is False
    arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    assert arrays["tokenizer.ggml.suppress_tokens"].tolist() == [place[user], place[tool]]
    assert arrays["tokenizer.smidgen.strip_left"].tolist() == [place[tool]]
    assert arrays["tokenizer.smidgen.strip_right"].tolist() == []
    assert arrays["tokenizer.smidgen.strip_right"].dtype == np.uint32
    assert arrays["tokenizer.ggml.eos_token_ids"].tolist() == [-1, place[end]]
    assert "tokenizer.huggingface.json" not in values
    assert ids["<|unused_8|>"] not in place


def test_tokens_of_chat_templates_stay() -> None:
    """Those that it spells, and those that it puts together; spare tokens otherwise go."""
    metadata = sentencepiece()
    ids = {text: token for token, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    spare = {ids["<|unused_7|>"], ids["<|unused_8|>"]}
    assert not spare & Pieces(metadata).essential
    spelled = metadata | {"tokenizer.chat_template": "{{ '<|unused_7|>' }}{{ raise_exception('no') }}"}
    assert spare & Pieces(spelled).essential == {ids["<|unused_7|>"]}
    made = "{% for m in messages %}{{ '<|' + ('unused_8' if m['role'] == 'user' else m['role']) + '|>' }}{% endfor %}"
    assert spare & Pieces(metadata | {"tokenizer.chat_template.tool": made}).essential == {ids["<|unused_8|>"]}


@pytest.mark.parametrize("make", KINDS)
def test_order_of_any_ranking_is_closed_at_every_place(make: Make) -> None:
    _, full, pieces = original(make)
    ranked = np.random.default_rng(5).permutation(len(full)).tolist()
    order = list(pieces.in_order(ranked))
    assert sorted(order) == sorted(ranked)
    seen: set[int] = set()
    for token in order:
        assert set(pieces.of[token]) <= seen
        seen.add(token)


def test_tokens_out_of_reach() -> None:
    metadata, full, pieces = original(without_prefix)
    texts = metadata["tokenizer.ggml.tokens"]
    lost = {texts[token] for token in np.flatnonzero(~pieces.reachable)}
    assert lost == {"quxz", "brfox"}
    for text in lost:
        token = texts.index(text)
        assert list(pieces.of[token]) == full.encode(text)
        _, fewer, kept = trimmed(without_prefix, {token})
        assert [kept[part] for part in fewer.encode(text)] == full.encode(text)
    _, _, whole = original(llama3)
    assert whole.reachable.all()
    metadata, full, pairs = original(byte_level)
    zzzz = metadata["tokenizer.ggml.tokens"].index("zzzz")
    assert [zzzz] == np.flatnonzero(~pairs.reachable).tolist()


def test_same_pieces_as_the_tokenizers_of_real_models(gemma_path: Path, smollm_path: Path) -> None:
    """A token is reachable if and only if its own text becomes it, and made of what that says."""
    for path in (gemma_path, smollm_path):
        with GGUFFile.open(path) as file:
            vocabulary, pieces = Vocabulary.from_gguf(file.metadata), Pieces(file.metadata)
            coder = Tokenizer.from_gguf(file.metadata)._coder
        apart = {*vocabulary.special, *(token for token, kind in enumerate(vocabulary.kinds) if kind == TokenKind.BYTE)}
        for token in range(0, len(pieces), 16):
            text = vocabulary.texts[token]
            if token not in apart:
                found = _word(coder, text)
                assert (found == [token]) == pieces.reachable[token]
                assert found == [token] or found == list(pieces.of[token])
                assert len(text) == 1 or "".join(vocabulary.texts[part] for part in pieces.of[token]) == text


def _word(coder: SentencePiece | ByteLevel, text: str) -> list[int]:
    """A token's text as spelled in the vocabulary, taken as one word."""
    if isinstance(coder, SentencePiece):
        return coder._word(text)
    return [found.id for found in coder._tokenizer.model.tokenize(text)]


NORMALIZED = {"normalizer": {"type": "NFC"}, "pre_tokenizer": split_at(LLAMA3)}


@pytest.mark.parametrize("made", [sentencepiece_json(), byte_level_json(**NORMALIZED)], ids=["Llama 2", "Llama 3"])
def test_folders_in_hugging_face_layout(made: dict[str, Any], tmp_path: Path) -> None:
    """With rules that only such folders have, and rows of padding that no subset needs."""
    last = len(made["model"]["vocab"]) + 10
    made["added_tokens"] += [added(last, "<|x|>", lstrip=True, rstrip=True), added(last + 1, "é\n", special=False)]
    folder = write_files(tmp_path, tokenizer__json=made, tokenizer_config__json={})
    metadata, types = tokenizer_metadata(folder, last + 20)
    full, pieces = Tokenizer.from_gguf(metadata), Pieces(metadata)
    texts = [TEXT, "the <|x|> \n dog<|x|>", "e\u0301\n the", f"  {TEXT} ", SPACE, "<s>the</s> fox"]
    wanted = {token for text in texts[:3] for token in full.encode(text, parse_special=True)}
    kept = pieces.closed(wanted)
    assert len(kept) < last
    values, _ = subset(metadata, types, kept)
    fewer = Tokenizer.from_gguf(values)
    for text in texts:
        before, after = (tokenizer.encode(text, parse_special=True) for tokenizer in (full, fewer))
        assert fewer.decode(after) == full.decode(before)
        if set(before) <= set(kept.tolist()):
            assert kept[after].tolist() == before


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token_text(token) for token in tokenizer.encode(text, parse_special=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_chat_template_writes_keeps_its_tokens(name: str, tmp_path: Path) -> None:
    """Names of roles, line ends, a system prompt of the template's own: they are in every turn."""
    family = FAMILIES[name]
    folder = write_files(tmp_path, tokenizer__json=family.tokenizer, tokenizer_config__json=family.config)
    metadata = {**tokenizer_metadata(folder, 500)[0], "tokenizer.chat_template": family.template}
    full = Tokenizer.from_gguf(metadata)
    said = full.encode("7")  # what the messages say
    fewer = Tokenizer.from_gguf(subset(metadata, types_of(metadata), Pieces(metadata).closed(said))[0])
    assert len(fewer) < len(full)
    for roles in (("user",), ("user", "assistant"), ("user", "assistant", "user"), ("system", "user")):
        for prompted in (True, False):
            chat = [{"role": role, "content": "7"} for role in roles]
            text = render_chat(family.template, chat, full.special_texts, add_generation_prompt=prompted)
            assert tokens_of(fewer, text) == tokens_of(full, text)


def test_every_template_of_a_model_counts_and_no_cut_depends_on_the_day() -> None:
    templates = {
        "": "{% for message in messages %}{{ message.content }}{% endfor %}",
        ".rag": "the dog {{ messages[0].content }}{% if add_generation_prompt %} fox{% endif %}",
        ".dated": "{{ strftime_now('%B') }}{% if messages[0].role != 'system' %}town{% endif %}",
        ".broken": "{{ raise_exception('songs') }} songs",
    }
    plain = byte_level()
    metadata = plain | {f"tokenizer.chat_template{name}": template for name, template in templates.items()}
    full = Tokenizer.from_gguf(metadata)
    more = Pieces(metadata).essential - Pieces(plain).essential
    written = {token for text in ("the dog ", " fox", "town") for token in full.encode(text)}
    assert more >= {token for token in written if token in more or len(full.token_text(token)) > 1}
    assert not more & set(full.encode("text")) - written
    months = {token for text in ("March", "July", "Dec") for token in full.encode(text)}
    assert months <= Pieces(metadata).essential


def test_templates_that_end_before_they_write_keep_what_they_kept() -> None:
    metadata = byte_level() | {"tokenizer.chat_template": "{{ raise_exception('no') }}<|tool|>"}
    assert Pieces(metadata).essential == Pieces(byte_level()).essential
