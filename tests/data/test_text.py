"""Reading text strictly, and windows that hold each token and byte of a text exactly once."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from smidgen.data.sources import read_text, read_texts
from smidgen.data.text import choose_windows, cut_again, cut_into_windows, overlap, spread, window_length
from smidgen.errors import BadFile, SmidgenError


class ByteTokenizer:
    """One token per UTF-8 byte: characters are split over tokens wherever they can be. Id 0 is BOS, 1 ends a text."""

    bos_id = 0
    eos_ids = frozenset({1})

    def __init__(self, adds_bos: bool = True) -> None:
        self.adds_bos = adds_bos

    def __len__(self) -> int:
        return 258

    def piece(self, token: int) -> bytes:
        return bytes([token - 2]) if token >= 2 else b""

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        return [byte + 2 for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        return bytes(token - 2 for token in ids if token >= 2).decode("utf-8", "replace")


MIXED = "Grüße an alle! 👩🏽‍🚀 и 漢字かな and plain words too. " * 20


def write(folder: Path, data: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_reads_utf8_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    plain = read_text(write(tmp_path, "Grüße".encode()))
    marked = read_text(write(tmp_path, b"\xef\xbb\xbf" + "Grüße".encode(), "marked.txt"))
    assert plain.text == marked.text == "Grüße"
    assert plain.sha256 == marked.sha256
    assert (plain.name, plain.language) == ("text.txt", None)


def test_a_name_before_the_file_names_the_language(tmp_path: Path) -> None:
    path = write(tmp_path, b"Hallo")
    source = read_text(f"de={path}")
    assert (source.name, source.language, source.path) == ("de", "de", path)


def test_a_file_whose_own_name_holds_an_equals_sign_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, b"Hallo", "a=b.txt")
    monkeypatch.chdir(tmp_path)
    assert read_text("a=b.txt").language is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"GGUF\x03\x00\x00", "zero byte at offset 5"),
        (b"\xef\xbb\xbfab\x00", "zero byte at offset 5"),
        (b"abc\xff\xfe", "byte 0xff at offset 3"),
        (b"\xef\xbb\xbfabc\xc3", "byte 0xc3 at offset 6"),
    ],
)
def test_refuses_what_is_not_text(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(BadFile, match=said) as caught:
        read_text(write(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_refuses_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        read_text(tmp_path / "nothing.txt")
    with pytest.raises(BadFile, match="directory"):
        read_text(tmp_path)


def test_two_texts_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"Hallo")
    with pytest.raises(SmidgenError, match="named de"):
        read_texts([f"de={path}", f"de={path}"])


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("length", [24, 100, 512])
def test_windows_hold_every_token_and_byte_once(adds_bos: bool, length: int) -> None:
    tokenizer = ByteTokenizer(adds_bos)
    windows = cut_into_windows(MIXED, tokenizer, length)
    pieces = [row[:n].tolist() for row, n in zip(windows.ids, windows.lengths.tolist(), strict=True)]
    if adds_bos:
        assert all(piece[0] == tokenizer.bos_id for piece in pieces)
        pieces = [piece[1:] for piece in pieces]
    assert [token for piece in pieces for token in piece] == tokenizer.encode(MIXED)
    assert [len(tokenizer.decode(piece).encode()) for piece in pieces] == windows.text_bytes.tolist()
    assert "\ufffd" not in "".join(tokenizer.decode(piece) for piece in pieces)
    assert windows.text_tokens == len(tokenizer.encode(MIXED)) == int(windows.text_bytes.sum())
    assert all(length - 3 <= n <= length for n in windows.lengths[:-1].tolist())
    assert windows.first_bytes.tolist() == [1] * len(windows)


def test_a_window_is_never_longer_than_what_a_model_knows() -> None:
    assert [window_length(context) for context in (8192, 512, 64, 1)] == [512, 512, 64, 2]
    assert window_length(8192, 64) == window_length(64, 8192) == 64


@pytest.mark.parametrize("adds_bos", [True, False])
def test_windows_cut_again_hold_the_same_tokens_at_the_same_places(adds_bos: bool) -> None:
    tokenizer, data = ByteTokenizer(adds_bos), MIXED.encode()
    windows = cut_into_windows(MIXED, tokenizer, 100).take([1, 4, 5])
    shorter = cut_again(windows, MIXED, tokenizer, 24)
    assert shorter.ids.shape[1] == 24 and shorter.text_tokens == windows.text_tokens
    assert int(shorter.text_bytes.sum()) == int(windows.text_bytes.sum())
    for row, start, size in zip(shorter.rows(), shorter.text_starts.tolist(), shorter.text_bytes.tolist(), strict=True):
        assert tokenizer.decode(row).encode() == data[start : start + size]


def test_text_of_replacement_characters_is_still_windowed() -> None:
    class CharacterTokenizer(ByteTokenizer):
        def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
            return [ord(character) + 2 for character in text]

        def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
            return "".join(chr(token - 2) for token in ids)

    windows = cut_into_windows("\ufffd" * 50, CharacterTokenizer(), 11)
    assert windows.lengths.tolist() == [11] * 5
    assert windows.text_bytes.tolist() == [30] * 5
    assert windows.first_bytes.tolist() == [3] * 5


def test_a_tokenizer_that_takes_a_leading_space_off_is_followed() -> None:
    class Stripping(ByteTokenizer):
        def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
            return super().decode(ids).removeprefix(" ")

    text = "a b c d e f g h i j k l m n o p"
    assert cut_into_windows(text, Stripping(), 4).text_bytes.sum() == len(text)


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    class Losing(ByteTokenizer):
        def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
            return super().decode(ids).upper()

    with pytest.raises(SmidgenError, match="does not give the text back"):
        cut_into_windows("some text " * 10, Losing(), 16)


def test_chosen_windows_are_spread_seeded_and_leave_out_the_excluded() -> None:
    chosen = choose_windows(100, 10, seed=1)
    assert chosen == choose_windows(100, 10, seed=1) != choose_windows(100, 10, seed=2)
    assert [index // 10 for index in chosen] == list(range(10))
    rest = choose_windows(100, 50, seed=1, exclude=chosen)
    assert len(set(rest)) == 50 and not set(rest) & set(chosen)
    assert choose_windows(5, 10, seed=0) == [0, 1, 2, 3, 4]
    for wanted in range(1, 97):
        assert len(set(choose_windows(97, wanted, seed=wanted))) == wanted


def test_spread_takes_whole_windows() -> None:
    windows = cut_into_windows("abcdefghij" * 100, ByteTokenizer(), 11)
    assert len(windows) == 100
    assert len(spread(windows, 95, seed=0)) == 10
    assert spread(windows, None, seed=0) is windows
    assert spread(windows, 1000, seed=0) is windows


def test_overlap_is_the_share_of_runs_seen_before() -> None:
    numbers = torch.randint(0, 50_000, (4, 300), generator=torch.Generator().manual_seed(0)).tolist()
    assert overlap(numbers, numbers) == 1.0
    assert overlap(numbers[:2], numbers[2:]) == 0.0
    assert overlap([numbers[0]], numbers) == pytest.approx(0.25)
    assert overlap([numbers[0]], [numbers[0][:150] + numbers[1][:157]]) == pytest.approx(143 / 300)
    assert overlap([], numbers) == overlap(numbers, [[1, 2, 3]]) == 0.0
