"""What calibration computes on: full windows, in which every token of every text can be found."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from smidgen.data.drawing import Runs, draw
from smidgen.data.held_out import CalibrationText
from smidgen.data.sources import TextSource
from smidgen.errors import SmidgenError
from smidgen.formats.hf.tokenizer.read import tokenizer_metadata
from smidgen.model.tokenizer import Tokenizer
from tests.data.test_text import ByteTokenizer
from tests.tiny_tokenizers import BYTE_LEVEL_CONFIG, byte_level_json, write_folder

JAPANESE = "この町は川の北岸にあり、長い間、人々は橋を渡って市場へ通った。手紙を開けると、兄の字ではなかった。" * 40
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Numbers(ByteTokenizer):
    """Ids are given as they are; an empty line is the one token 1."""

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        return [1]


def runs(name: str, *sizes: int, first: int = 100) -> Runs:
    """Stretches of tokens of which no two are the same."""
    ids: list[list[int]] = []
    for size in sizes:
        ids.append(list(range(first, first + size)))
        first += size
    return Runs(name, tuple(ids))


def tokens(rows: Iterable[Sequence[int]]) -> list[int]:
    return [token for row in rows for token in row if token >= 100]


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_byte_level_tokenizer_loses_no_token_where_a_character_is_split(adds_bos: bool, tmp_path: Path) -> None:
    files = write_folder(tmp_path, tokenizer__json=byte_level_json(), tokenizer_config__json=BYTE_LEVEL_CONFIG)
    metadata, _ = tokenizer_metadata(files, 512)
    tokenizer = Tokenizer.from_gguf(metadata)
    tokenizer.adds_bos = adds_bos
    ids = tokenizer.encode(JAPANESE)
    assert len(ids) > 3 * 1000 and not JAPANESE.isascii()
    text = CalibrationText.of(TextSource.of("ja", JAPANESE), tokenizer, 64, whole=True)
    drawn = draw([text.runs], 2 * len(ids), 64, tokenizer, seed=0)
    (used,) = drawn.used
    assert used.tokens == used.available == len(ids)
    begin = [tokenizer.bos_id] if adds_bos else []
    rows, room = drawn.windows.tolist(), 64 - len(begin)
    assert all(row[: len(begin)] == begin for row in rows)
    whole = [ids[at : at + room] for at in [*range(0, len(ids) - room, room), len(ids) - room]]
    assert [row[len(begin) :] for row in rows] == whole


def test_of_a_text_that_is_learned_from_in_part_no_token_of_that_part_is_lost() -> None:
    tokenizer = ByteTokenizer()
    text = CalibrationText.of(TextSource.of("ja", JAPANESE), tokenizer, 100)
    drawn = draw([text.runs], 10**6, 100, tokenizer, seed=0)
    assert drawn.used[0].tokens == text.runs.tokens == len(text.source.text.encode())


def test_every_text_gives_an_equal_share_and_a_short_one_all_it_has() -> None:
    texts = [runs("long", 5000), runs("longer", 9000, first=10_000), runs("short", 30, first=30_000)]
    drawn = draw(texts, 1600, 17, Numbers(), seed=3)
    long, longer, short = drawn.used
    assert (short.tokens, short.too_short, long.too_short) == (30, True, False)
    assert long.tokens + longer.tokens + short.tokens == len(set(tokens(drawn.windows.tolist())))
    assert abs(long.tokens - longer.tokens) <= 2 * 17 and 1480 <= long.tokens + longer.tokens <= 1600
    assert drawn.windows.shape[1] == 17 and set(drawn.windows[:, 0].tolist()) == {0}
    spread = sorted(token for token in tokens(drawn.windows.tolist()) if token < 5100)
    assert spread[0] < 300 and spread[-1] > 4800
    assert draw(texts, 1600, 17, Numbers(), seed=3).windows.equal(drawn.windows)
    assert not draw(texts, 1600, 17, Numbers(), seed=4).windows.equal(drawn.windows)


@pytest.mark.parametrize("sizes", [(40, 5), (7, 7, 7, 7), (16, 16), (17,), (3, 40, 2)])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_no_token_of_any_stretch_is_out_of_reach(sizes: tuple[int, ...], adds_bos: bool) -> None:
    """Stretches that are longer than a window, as long, or shorter, alone or beside a long text."""
    alone = draw([runs("a", *sizes)], 1000, 17, Numbers(adds_bos), seed=0)
    assert set(tokens(alone.windows.tolist())) == set(range(100, 100 + sum(sizes)))
    assert (alone.used[0].tokens, alone.used[0].available) == (sum(sizes), sum(sizes))
    beside = draw([runs("a", *sizes), runs("b", 900, first=5000)], 600, 17, Numbers(adds_bos), seed=0)
    assert beside.used[0].tokens == sum(sizes) and beside.used[1].tokens > 450
    assert beside.windows.min() >= 0 and beside.windows.shape[1] == 17


def test_short_stretches_are_kept_apart_by_an_empty_line_and_filled_up_with_other_text() -> None:
    drawn = draw([runs("a", 4), runs("b", 3, first=200), runs("c", 100, first=300)], 51, 17, Numbers(), seed=0)
    packed = drawn.windows[-1].tolist()
    assert packed[:10] == [0, 100, 101, 102, 103, 1, 200, 201, 202, 1] and all(token >= 300 for token in packed[10:])


def test_less_than_a_window_of_text_is_refused() -> None:
    with pytest.raises(SmidgenError, match="fewer than 17 tokens"):
        draw([runs("a", 5), runs("b", 3, first=200)], 1000, 17, Numbers(), seed=0)
