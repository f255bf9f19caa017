"""A model in several files is read as one, whichever part is named; parts that do not belong together are refused."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from smidgen.errors import BadFile
from smidgen.formats.gguf.checkpoint import GGUFCheckpoint
from smidgen.formats.gguf.contents import parts_of, refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from tests.gguf_forms import fused, plain, write_parts


def whole(folder: Path) -> Path:
    (folder / "whole.gguf").write_bytes(plain().as_bytes())
    return folder / "whole.gguf"


@pytest.mark.parametrize("named", [0, 1, 2])
def test_any_part_may_be_named(tmp_path: Path, named: int) -> None:
    paths = write_parts(plain(), tmp_path)
    with GGUFFile.open(paths[named]) as file, GGUFFile.open(whole(tmp_path)) as one:
        assert (file.path, file.paths) == (paths[0], tuple(paths))
        assert file.size == sum(path.stat().st_size for path in paths)
        assert list(file.tensors) == list(one.tensors)
        for name in one.tensors:
            assert file.packed(name).tobytes() == one.packed(name).tobytes()
        assert file.metadata.keys() == one.metadata.keys() == file.metadata_types.keys()
        refuse_damaged(file)
    assert parts_of(paths[named]) == paths
    assert parts_of(tmp_path / "whole.gguf") == [tmp_path / "whole.gguf"]


def test_the_decoder_reads_all_parts(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    with GGUFCheckpoint.open(paths[1]) as checkpoint, GGUFCheckpoint.open(whole(tmp_path)) as one:
        for name in one.names():
            assert np.array_equal(checkpoint.tensor(name), one.tensor(name))
        assert checkpoint.sha256() == hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def test_fused_and_in_parts(tmp_path: Path) -> None:
    paths = write_parts(fused(plain()), tmp_path, count=2)
    with GGUFCheckpoint.open(paths[0]) as checkpoint, GGUFCheckpoint.open(whole(tmp_path)) as one:
        for name in one.names():
            assert np.array_equal(checkpoint.tensor(name), one.tensor(name))


def test_a_whole_model_may_be_named_as_a_part(tmp_path: Path) -> None:
    path = tmp_path / "model-00002-of-00003.gguf"
    path.write_bytes(plain().as_bytes())
    assert parts_of(path) == [path]


def refusal(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        GGUFFile.open(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    paths[2].unlink()
    for path in paths[:2]:
        assert "model-00003-of-00003.gguf is not beside it" in refusal(path)


def test_parts_of_other_splits_are_refused(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    (tmp_path / "other").mkdir()
    others = write_parts(fused(plain()), tmp_path / "other")  # fewer tensors in all
    paths[1].write_bytes(others[1].read_bytes())
    assert "should be part 2 of 3 with 21 tensors in all, but is part 2 of 3 with 17" in refusal(paths[0])
    paths[1].write_bytes(paths[2].read_bytes())
    assert "but is part 3 of 3" in refusal(paths[0])
    paths[1].write_bytes(whole(tmp_path).read_bytes())
    assert "but is a whole model" in refusal(paths[2])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    number = b"split.no" + struct.pack("<IH", 2, 0)
    assert number in (raw := paths[0].read_bytes())
    paths[1].write_bytes(raw.replace(number, number[:-2] + struct.pack("<H", 1)))
    assert "is in two of its parts" in refusal(paths[0])


def test_a_part_with_too_few_tensors_is_refused(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    for path in paths:
        said, other = (b"split.tensors.count" + struct.pack("<Ii", 5, count) for count in (21, 22))
        path.write_bytes(path.read_bytes().replace(said, other))
    assert "its parts have 21 tensors, but should have 22" in refusal(paths[0])


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    paths = write_parts(plain(), tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    message = refusal(paths[0])
    assert message.startswith(str(paths[1])) and "ends at byte" in message
