"""Which rows of a vocabulary no text becomes, and which two vocabularies are the same."""

from typing import Any

import numpy as np
import pytest

from smidgen.data.corpus.shards import tokenizer_hash
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.padding import first_difference, padding_of, tokens_of, without_padding
from smidgen.model.tokenizers.respelling import NOT_KEPT, Respelling
from tests.model.test_tokenizer_subset import KINDS, Make, byte_level, sentencepiece


def with_rows(metadata: dict[str, Any], *texts: str, kind: int = 5, at: int | None = None) -> dict[str, Any]:
    """The same vocabulary with more rows, behind the others or from the id `at` on."""
    tokens = metadata["tokenizer.ggml.tokens"]
    place = len(tokens) if at is None else at
    changed = metadata | {
        "tokenizer.ggml.tokens": [*tokens[:place], *texts, *tokens[place:]],
        "tokenizer.ggml.token_type": np.insert(metadata["tokenizer.ggml.token_type"], place, [kind] * len(texts)),
    }
    if "tokenizer.ggml.scores" in metadata:
        changed["tokenizer.ggml.scores"] = np.insert(metadata["tokenizer.ggml.scores"], place, [-1e4] * len(texts))
    return changed


@pytest.mark.parametrize("make", KINDS)
def test_vocabularies_that_differ_in_padding_are_one(make: Make) -> None:
    plain = make()
    size = len(plain["tokenizer.ggml.tokens"])
    some, more = with_rows(plain, f"[PAD{size}]"), with_rows(plain, "<unused0>", "<dummy00001>", f"[PAD{size + 2}]")
    for one in (plain, some, more):
        assert padding_of(one) == set(range(size, len(one["tokenizer.ggml.tokens"])))
        for other in (plain, some, more):
            assert first_difference(tokens_of(one), tokens_of(other)) is None
            assert tokenizer_hash(one) == tokenizer_hash(other)
            respelling = Respelling.between(Tokenizer.from_gguf(one), Tokenizer.from_gguf(other))
            assert respelling.same and len(respelling.dropped) == 0
            assert set(respelling.kept[size:].tolist()) <= {NOT_KEPT}
    assert Tokenizer.from_gguf(more).encode("the [PAD9] <unused0>") == Tokenizer.from_gguf(plain).encode(
        "the [PAD9] <unused0>"
    )


def test_padding_between_tokens_keeps_their_ids_and_does_not_count() -> None:
    plain = byte_level()
    one, other = with_rows(plain, "[PAD300]", at=300), with_rows(plain, "<unused_x>", at=300)
    assert first_difference(tokens_of(one), tokens_of(other)) is None
    assert tokenizer_hash(one) == tokenizer_hash(other) != tokenizer_hash(plain)
    assert first_difference(tokens_of(one), tokens_of(plain)) == 300
    whole = without_padding(one)
    assert whole["tokenizer.ggml.tokens"] == [*tokens_of(one)[:300], "", *tokens_of(one)[301:]]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[PAD0]", 1), ("[PAD0]", 4), ("[PAD0]", 3), ("word", 5), ("<br>", 5), ("x", 5)],
    ids=["normal", "user-defined", "control", "a word", "two tokens make it", "a character"],
)
def test_what_a_text_may_become_is_a_token(text: str, kind: int) -> None:
    plain = sentencepiece()
    metadata = with_rows(plain, "<br", ">", kind=1)
    metadata = with_rows(metadata, text + "\u200b" * (text == "<br>"), kind=kind)
    if text == "<br>":  # made of two tokens, as merging would make it
        metadata["tokenizer.ggml.tokens"][-1] = "<br>"
    assert padding_of(metadata) == set()
    assert first_difference(tokens_of(plain), tokens_of(metadata)) == len(plain["tokenizer.ggml.tokens"])


def test_a_row_with_a_role_is_a_token() -> None:
    plain = sentencepiece()
    size = len(plain["tokenizer.ggml.tokens"])
    metadata = with_rows(plain, f"[PAD{size}]", f"[PAD{size + 1}]") | {"tokenizer.ggml.eot_token_id": size}
    assert padding_of(metadata) == {size + 1}


def test_other_tokens_scores_and_merges_are_other_tokenizers() -> None:
    plain = byte_level()
    tokens = list(plain["tokenizer.ggml.tokens"])
    tokens[280], tokens[281] = tokens[281], tokens[280]
    assert first_difference(tokens_of(plain), tokens_of(plain | {"tokenizer.ggml.tokens": tokens})) == 280
    merges = plain["tokenizer.ggml.merges"]
    assert tokenizer_hash(plain) != tokenizer_hash(plain | {"tokenizer.ggml.merges": merges[::-1]})
    assert tokenizer_hash(plain) == tokenizer_hash(plain | {"tokenizer.chat_template.tool_use": "{{ messages }}"})
