"""How byte-level tokenizers cut text: the published expressions, kept to the letter, and none from strangers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from smidgen.errors import Unsupported
from smidgen.model.tokenizers import byte_level
from smidgen.model.tokenizers.splitting import (
    PRE_TOKENIZERS,
    SPLITS,
    llama_cpp_splits_otherwise,
    name_of,
    pre_tokenizer,
)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_name_is_found_by_its_expressions(name: str) -> None:
    named = PRE_TOKENIZERS[name]
    found = name_of(named.patterns, named.whole_words)
    assert found is not None and PRE_TOKENIZERS[found].patterns == named.patterns
    assert pre_tokenizer({"tokenizer.ggml.pre": name}) == named


def test_a_file_keeps_the_spelling_of_its_makers() -> None:
    spelled = PRE_TOKENIZERS["qwen2"].patterns[0].replace(r"\p{N}|", r"\p{N}{1}|")
    found = pre_tokenizer({"tokenizer.ggml.pre": "qwen2", SPLITS: [spelled]})
    assert found.patterns == (spelled,) and not found.whole_words


@pytest.mark.parametrize(
    "kept",
    [["(a+)+$"], [], ["x"] * 100_000, "qwen2", PRE_TOKENIZERS["tekken"].patterns[0], [r"\p{N}", r"(\s+)*$"]],
    ids=["slow", "none", "many", "a text", "not in a list", "one of two"],
)
def test_an_expression_of_strangers_is_refused(kept: object) -> None:
    """It could take for ever; and it is not how the model was trained."""
    with pytest.raises(Unsupported, match="is not how smollm splits text"):
        pre_tokenizer({"tokenizer.ggml.pre": "smollm", SPLITS: kept})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("name", "otherwise"), [("tekken", True), ("gpt-4o", True), ("qwen2", False), ("odd", False)])
def test_where_llama_cpp_splits_otherwise(name: str, otherwise: bool) -> None:
    assert llama_cpp_splits_otherwise({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name}) == otherwise
    assert not llama_cpp_splits_otherwise({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": name})


_SPLITTERS = [
    pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in named.patterns])
    for named in dict.fromkeys(PRE_TOKENIZERS.values())
]


@given(st.text(st.sampled_from(" \n\r\t\x1c\xa0abAsS19'/.=_\u6f22\u0301\u0e31\U0001f600\u3002"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_parts_have_the_words_of_the_whole(text: str) -> None:
    """A long text is encoded in parts, so that Ctrl-C is noticed meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_level, "_PART", 1)
        parts = list(byte_level._parts(text))  # pyright: ignore[reportPrivateUsage]
    assert "".join(parts) == text
    for splitter in _SPLITTERS:
        whole = [word for word, _ in splitter.pre_tokenize_str(text)]
        assert [word for part in parts for word, _ in splitter.pre_tokenize_str(part)] == whole


def test_a_long_text_is_cut_where_it_can_be() -> None:
    text = "word " * 50_000 + "\u6f22" * 100_000 + "\nword" * 50_000
    parts = list(byte_level._parts(text))  # pyright: ignore[reportPrivateUsage]
    assert "".join(parts) == text and max(map(len, parts)) < 250_000 and len(parts) > 5
