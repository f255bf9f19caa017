"""Which places of two tokenizations of one text belong together."""

from collections.abc import Iterable
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.text import cut_into_windows
from smidgen.errors import SmidgenError, Unsupported
from smidgen.measuring.pairing import NO_PARTNER, Kept, PairedWindows, kept_tokens, pair_windows, shared_ends
from tests.data.test_text import ByteTokenizer


class GreedyTokenizer:
    """Takes the longest of its pieces, again and again. Id 0 is BOS; the single bytes come next, then the pieces."""

    bos_id = 0

    def __init__(self, pieces: Iterable[str], adds_bos: bool = True) -> None:
        self.adds_bos = adds_bos
        self.pieces = [b"", *(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in pieces)]
        self.ids = {piece: token for token, piece in enumerate(self.pieces) if piece}
        self.longest = max(map(len, self.pieces))

    def __len__(self) -> int:
        return len(self.pieces)

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            stop = next(stop for stop in range(at + self.longest, at, -1) if data[at:stop] in self.ids)
            at, ids = min(stop, len(data)), [*ids, self.ids[data[at:stop]]]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces[token] for token in ids).decode("utf-8", "replace")


LETTERS = "ab é漢🚀"
texts = st.text(LETTERS, min_size=1, max_size=60)
pieces = st.lists(st.text(LETTERS, min_size=2, max_size=5), max_size=12, unique=True)


def trimmed(tokenizer: GreedyTokenizer, keep: set[int]) -> tuple[GreedyTokenizer, list[int]]:
    """A tokenizer with BOS, the bytes, and only these of the pieces; and the original's ids of its tokens."""
    kept = [token for token in range(len(tokenizer)) if token < 257 or token in keep]
    other = GreedyTokenizer([tokenizer.piece(token).decode() for token in kept[257:]], tokenizer.adds_bos)
    return other, kept


@given(texts, pieces, st.data(), st.booleans(), st.integers(13, 40))
def test_partners_have_read_the_same_bytes_and_none_is_missed(
    text: str, known: list[str], data: st.DataObject, adds_bos: bool, length: int
) -> None:
    original = GreedyTokenizer(known, adds_bos)
    keep = data.draw(st.sets(st.sampled_from(range(257, len(original))))) if known else set()
    cut, kept = trimmed(original, keep)
    windows = cut_into_windows(text, original, length)
    chosen = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    pairs = pair_windows(windows.take(chosen), text, original, cut, Kept.of(torch.tensor(kept)))

    for row, place in enumerate(chosen):
        before, after = (part.rows()[row] for part in (pairs.original, pairs.cut))
        start, size = int(windows.text_starts[place]), int(windows.text_bytes[place])
        for ids, tokenizer in ((before, original), (after, cut)):
            assert b"".join(map(tokenizer.piece, ids)) == text.encode()[start : start + size]
            assert (ids[0] == 0) == adds_bos
        read, cut_read = (
            list(accumulate(len(tokenizer.piece(token)) for token in ids))
            for ids, tokenizer in ((before, original), (after, cut))
        )
        partner = pairs.partner[row].tolist()
        for at, bytes_read in enumerate(read):
            expected = cut_read.index(bytes_read) if bytes_read in cut_read else NO_PARTNER
            assert partner[at] == expected
        assert partner[len(read) - 1] == len(cut_read) - 1
        assert set(partner[len(read) :]) <= {NO_PARTNER}
        first = min(set(read) & set(cut_read))
        assert int(pairs.unscored[row]) == (0 if adds_bos else first)


@given(texts, pieces, st.booleans())
def test_with_every_token_kept_each_place_is_its_own_partner(text: str, known: list[str], adds_bos: bool) -> None:
    tokenizer = GreedyTokenizer(known, adds_bos)
    windows = cut_into_windows(text, tokenizer, 15)
    same = PairedWindows.same(windows, len(tokenizer))
    pairs = pair_windows(windows, text, tokenizer, tokenizer, same.kept)
    assert torch.equal(pairs.partner, same.partner)
    assert pairs.cut.rows() == windows.rows()


def test_a_token_across_a_border_is_spelled_in_shorter_ones() -> None:
    original, cut = GreedyTokenizer(["xab"], adds_bos=False), GreedyTokenizer(["abab"], adds_bos=False)
    text = "abxababx"
    windows = cut_into_windows(text, original, 3)
    assert [original.decode(row) for row in windows.rows()] == ["abxab", "abx"]
    pairs = pair_windows(windows, text, original, cut, Kept.of(torch.arange(257)))
    assert [[cut.decode([token]) for token in row] for row in pairs.cut.rows()] == [list("abxab"), list("abx")]
    assert pairs.partner.tolist() == [[0, 1, 4], [0, 1, 2]]


def test_a_place_inside_a_character_is_a_partner_only_at_the_same_byte() -> None:
    original, cut = GreedyTokenizer(["漢"], adds_bos=False), ByteTokenizer(adds_bos=False)
    pairs = pair_windows(cut_into_windows("é漢", original), "é漢", original, cut, Kept.of(torch.arange(257)))
    assert pairs.partner[0, :3].tolist() == [0, 1, 4]


def test_shared_ends() -> None:
    assert list(shared_ends([1, 3, 4, 9], [2, 3, 8, 9])) == [(1, 1), (3, 3)]
    assert list(shared_ends([2, 2, 5], [1, 2, 5])) == [(0, 1), (2, 2)]


def test_tokenizers_that_spell_other_characters_are_refused() -> None:
    class Louder(ByteTokenizer):
        def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
            return super().encode(text.upper())

    windows = cut_into_windows("words", ByteTokenizer())
    with pytest.raises(SmidgenError, match="do not spell the same characters"):
        pair_windows(windows, "words", ByteTokenizer(), Louder(), Kept.of(torch.arange(258)))
    with pytest.raises(Unsupported, match="begins a text with BOS"):
        pair_windows(windows, "words", ByteTokenizer(), ByteTokenizer(adds_bos=False), Kept.of(torch.arange(258)))


def test_kept_tokens_are_found_in_order_or_the_first_that_is_not_is_named() -> None:
    original = ["<s>", "a", "", "b", "", "c"]
    assert kept_tokens(original, ["<s>", "", "", "c"], ("x", "y")).original.tolist() == [0, 2, 4, 5]
    assert kept_tokens(original, original, ("x", "y")).original.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(Unsupported, match="token 1 of y, '▁new', is not in x"):
        kept_tokens(original, ["<s>", "▁new", "c"], ("x", "y"))
    with pytest.raises(Unsupported, match="token 2 of y, 'a', stands at another place in x"):
        kept_tokens(original, ["<s>", "b", "a"], ("x", "y"))
    with pytest.raises(Unsupported, match="'<s>', stands at another place") as caught:
        kept_tokens(original, ["<s>", "<s>"], ("x", "y\n"))
    assert "\n" not in str(caught.value)
