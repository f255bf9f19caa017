"""One JSON list read entry by entry: as `json` reads it, wherever the pieces end, and never whole in memory."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import json_lines
from smidgen.data.json_array import Elements
from smidgen.data.json_lines import objects, stop
from smidgen.errors import BadFile

TRICKY = [
    {"a": "b]},{["}, {"\\": '\\"', "c": '"\\\\'}, {"deep": [[{"x": [1, {}]}], []]}, {}, {"n": -1.5e3, "t": None},
    {"u": "\u2192 \n"},
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("indent", [None, 1])
def test_entries_are_what_json_says(size: int, indent: int | None) -> None:
    raw = json.dumps(TRICKY, indent=indent, ensure_ascii=False).encode()
    elements = Elements((raw[start : start + size] for start in range(0, len(raw), size)), 1000)
    found = list(elements)
    assert [json.loads(entry or b"") for _, entry in found] == TRICKY and elements.closed and not elements.rest
    assert [end for end, _ in found] == sorted(end for end, _ in found) and found[-1][0] == len(raw)


def test_random_lists_in_random_pieces() -> None:
    draw = random.Random(0)
    for _ in range(200):
        texts = ["".join(draw.choices('[]{},:"\\ a\n\u00e4', k=draw.randrange(9))) for _ in range(draw.randrange(5))]
        made = [{text: [text, {"x": text}]} for text in texts]
        raw, pieces = json.dumps(made, indent=draw.choice([None, 2])).encode(), []
        while raw:
            pieces.append(raw[: (cut := draw.randrange(1, 9))])
            raw = raw[cut:]
        assert [json.loads(entry or b"") for _, entry in Elements(pieces, 1000)] == made


def entries(path: Path, raw: bytes, **options: Any) -> list[Any]:
    path.write_bytes(raw)
    return [line.value for line in objects(path, options.get("malformed", stop))]


def test_a_file_that_is_one_list(tmp_path: Path) -> None:
    raw = json.dumps(TRICKY, indent=2).encode()
    assert entries(tmp_path / "a.json", b"\xef\xbb\xbf \n" + raw + b"\n") == TRICKY
    assert entries(tmp_path / "a.json.gz", gzip.compress(raw)) == TRICKY
    assert entries(tmp_path / "a.json", b"[]") == entries(tmp_path / "a.json", b"[ ]") == []
    assert entries(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]  # JSON Lines by another name
    wheres = [line.where for line in objects(tmp_path / "a.json", stop)]
    assert wheres == [f"{tmp_path / 'a.json'} line {number}" for number in (1, 2)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'[{"a": 1}, 5]', "entry 2 is no JSON object but a int"),
        (b'[{"a": 1}, {"a": }]', "entry 2 is not JSON"),
        (b'[{"a": 1}, ]', "entry 2 is empty"),
        (b'[{"a": 1}, {"a": 2', "is cut off: its list does not end, after 1 entries"),
        (b'[{"a": 1}] {"a": 2}', "goes on behind its list, after 1 entries"),
        (b'[{"a": 1}, {"a": "' + b"x" * 5000 + b'"}]', "entry 2 is longer than"),
        (b'[{"a": 1}, {"a": "\xff"}]', "entry 2 is not UTF-8"),
    ],
)
def test_faults_are_named_by_their_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, reason: str
) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 4096)
    with pytest.raises(BadFile, match=r"a\.json " + reason):
        entries(tmp_path / "a.json", raw)
    told: list[str] = []
    assert entries(tmp_path / "a.json", raw, malformed=told.append) == [{"a": 1}] and len(told) == 1


def test_a_list_is_never_whole_in_memory() -> None:
    seen = 0

    def pieces() -> Any:
        nonlocal seen
        yield b"["
        for number in range(1000):
            seen = number
            yield b'{"a": "' + b"x" * 1000 + b'"},'
        yield b"{}]"

    elements = iter(Elements(pieces(), 4096))
    assert len(next(elements)[1] or b"") > 1000 and seen == 0
    assert sum(1 for _ in elements) == 1000
