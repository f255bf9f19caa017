"""What is written is what was given, to the byte, and the target's name never shows anything else."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen import atomic
from smidgen.atomic import partial_path
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import BOOL, NUMBER_TYPES, STRING, GGUFFile, MetadataValue
from smidgen.formats.gguf.writer import TensorPlan, file_size, write_gguf
from smidgen.numerics.block_types import F32, Q4_K, Q8_0, READABLE

ARRAY_OF_STRINGS, ARRAY_OF_FLOATS, UINT32 = (9, 8), (9, 6), (4,)

METADATA: dict[str, MetadataValue] = {
    "toy.first": 7,
    "general.architecture": "toy",
    "toy.words": ["", "naïve", "日本語\n"],
    "toy.scores": np.array([0.5, -np.inf, np.nan], dtype=np.float32),
    "toy.no_words": [],
}
TYPES: dict[str, tuple[int, ...]] = {
    "toy.first": UINT32, "general.architecture": (STRING,), "toy.words": ARRAY_OF_STRINGS,
    "toy.scores": ARRAY_OF_FLOATS, "toy.no_words": ARRAY_OF_STRINGS,
}  # fmt: skip
PLANS = (TensorPlan("b", (3, 64), Q8_0), TensorPlan("a", (5,), F32), TensorPlan("c", (2, 3, 4), F32))


def data_of(name: str) -> np.ndarray:
    plan = next(plan for plan in PLANS if plan.name == name)
    return np.random.default_rng(ord(name)).integers(0, 256, plan.nbytes, dtype=np.uint8)


def plans_of(file: GGUFFile) -> list[TensorPlan]:
    return [TensorPlan(info.name, info.shape, info.kind) for info in file.tensors.values()]


def same_metadata(found: dict[str, MetadataValue], expected: dict[str, MetadataValue]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            other = found[key]
            assert isinstance(other, np.ndarray) and other.dtype == value.dtype
            assert other.tobytes() == value.tobytes()
        else:
            assert found[key] == value


def test_write_and_read_back(tmp_path: Path) -> None:
    target = tmp_path / "toy.gguf"
    write_gguf(target, METADATA, TYPES, PLANS, data_of)
    assert os.listdir(tmp_path) == ["toy.gguf"]
    assert target.stat().st_size == file_size(METADATA, TYPES, PLANS)
    with GGUFFile.open(target) as file:
        same_metadata(file.metadata, METADATA)
        assert file.metadata_types == TYPES
        assert plans_of(file) == list(PLANS)
        for plan in PLANS:
            assert file.packed(plan.name).tobytes() == data_of(plan.name).tobytes()


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    metadata = {key: METADATA[key] for key in METADATA if key != "toy.no_words"}  # its reader has no empty arrays
    write_gguf(tmp_path / "toy.gguf", metadata, {key: TYPES[key] for key in metadata}, PLANS, data_of)
    reader = GGUFReader(tmp_path / "toy.gguf")
    assert reader.fields["toy.words"].contents() == METADATA["toy.words"]
    assert {tensor.name: tensor.data.tobytes() for tensor in reader.tensors} == {
        plan.name: data_of(plan.name).tobytes() for plan in PLANS
    }


def test_alignment_of_the_metadata_is_respected(tmp_path: Path) -> None:
    metadata: dict[str, MetadataValue] = {**METADATA, "general.alignment": 256}
    types = {**TYPES, "general.alignment": UINT32}
    write_gguf(tmp_path / "toy.gguf", metadata, types, PLANS, data_of)
    assert (tmp_path / "toy.gguf").stat().st_size == file_size(metadata, types, PLANS)
    with GGUFFile.open(tmp_path / "toy.gguf") as file:
        assert file.alignment == 256
        assert all(info.offset % 256 == 0 for info in file.tensors.values())
        assert file.packed("c").tobytes() == data_of("c").tobytes()


def test_padded_bytes_are_the_difference_in_file_size() -> None:
    smaller, larger = TensorPlan("w", (3, 256), Q4_K), TensorPlan("w", (3, 256), Q8_0)
    difference = file_size(METADATA, TYPES, [*PLANS, larger]) - file_size(METADATA, TYPES, [*PLANS, smaller])
    assert difference == larger.padded_bytes() - smaller.padded_bytes()


@pytest.mark.parametrize("model", ["gemma_path", "smollm_path"])
def test_a_copy_of_a_real_model_is_identical(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Stronger than equal tensors and metadata: the same file, byte for byte."""
    path: Path = request.getfixturevalue(model)
    with GGUFFile.open(path) as file:
        assert file_size(file.metadata, file.metadata_types, plans_of(file)) == file.size
        write_gguf(tmp_path / "copy.gguf", file.metadata, file.metadata_types, plans_of(file), file.packed)
    with path.open("rb") as original, (tmp_path / "copy.gguf").open("rb") as copy:
        assert hashlib.file_digest(original, "sha256").digest() == hashlib.file_digest(copy, "sha256").digest()


COMPLETE = """
import sys
from xllamacpp import CommonParams, Server
params = CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = 64, 1, False, 2
reply = Server(params).handle_completions({"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0})
print("REPLY" + repr(reply["choices"][0]["text"]))
"""


def test_llama_cpp_loads_what_was_written(smollm_path: Path, tmp_path: Path) -> None:
    """Not just a copy: keys turned around, another alignment, an empty array, tensors in another order."""
    with GGUFFile.open(smollm_path) as file:
        metadata: dict[str, MetadataValue] = dict(reversed(file.metadata.items()))
        metadata |= {"general.alignment": 128, "toy.empty": []}
        types = {**file.metadata_types, "general.alignment": UINT32, "toy.empty": ARRAY_OF_STRINGS}
        write_gguf(tmp_path / "other.gguf", metadata, types, plans_of(file)[::-1], file.packed)
    command = [sys.executable, "-c", COMPLETE, str(tmp_path / "other.gguf")]
    output = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    assert "Paris" in next(line for line in output.splitlines() if line.startswith("REPLY"))


# --- any metadata, any tensors

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
letters = st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=["C", "Z"])
names = st.text(letters, min_size=1, max_size=20)
KEYS_WITH_RULES = {"general.alignment", "split.count"}  # hypothesis finds them in the source, and not any value will do
keys = names.filter(lambda key: key not in KEYS_WITH_RULES)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[MetadataValue, tuple[int, ...]]:
    kind = draw(st.sampled_from([STRING, *NUMBER_TYPES]))
    is_array = draw(st.booleans())
    if kind == STRING:
        return (draw(st.lists(texts, max_size=5)), (9, kind)) if is_array else (draw(texts), (kind,))
    dtype = NUMBER_TYPES[kind]
    raw = draw(st.binary(min_size=8 * dtype.itemsize, max_size=8 * dtype.itemsize))
    numbers = np.frombuffer(bytes(byte & 1 for byte in raw) if kind == BOOL else raw, dtype=dtype)
    if is_array:
        return numbers[: draw(st.integers(0, 8))], (9, kind)
    value = numbers[0].item()
    return (0.0 if value != value else value), (kind,)


@st.composite
def tensor_plans(draw: st.DrawFn) -> list[TensorPlan]:
    plans = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        kind = draw(st.sampled_from(READABLE))
        leading = draw(st.lists(st.integers(1, 3), max_size=3))
        plans.append(TensorPlan(name, (*leading, kind.block * draw(st.integers(1, 3))), kind))
    return plans


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
@given(pairs=st.dictionaries(keys, typed_values(), max_size=6), plans=tensor_plans(), seed=st.integers(0, 99))
def test_any_file_survives_writing_and_reading(
    tmp_path: Path, pairs: dict[str, tuple[MetadataValue, tuple[int, ...]]], plans: list[TensorPlan], seed: int
) -> None:
    metadata = {key: value for key, (value, _) in pairs.items()}
    types = {key: kinds for key, (_, kinds) in pairs.items()}
    rng = np.random.default_rng(seed)
    data = {plan.name: rng.integers(0, 256, plan.nbytes, dtype=np.uint8) for plan in plans}
    write_gguf(tmp_path / "any.gguf", metadata, types, plans, data.__getitem__)
    assert (tmp_path / "any.gguf").stat().st_size == file_size(metadata, types, plans)
    with GGUFFile.open(tmp_path / "any.gguf") as file:
        same_metadata(file.metadata, metadata)
        assert file.metadata_types == types
        assert plans_of(file) == plans
        for name, expected in data.items():
            assert file.packed(name).tobytes() == expected.tobytes()


# --- nothing half-written, nothing left behind


def failing(error: BaseException) -> Callable[[str], np.ndarray]:
    """Data that fails at the second tensor."""

    def packed(name: str) -> np.ndarray:
        if name == PLANS[1].name:
            raise error
        return data_of(name)

    return packed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bad"), OSError(28, "No space")], ids=repr)
@pytest.mark.parametrize("existing", [True, False], ids=["over a file", "new"])
def test_an_error_leaves_the_folder_as_it_was(tmp_path: Path, error: BaseException, existing: bool) -> None:
    target = tmp_path / "toy.gguf"
    if existing:
        target.write_bytes(b"before")
    with pytest.raises(SmidgenError if isinstance(error, OSError) else type(error)):
        write_gguf(target, METADATA, TYPES, PLANS, failing(error))
    assert os.listdir(tmp_path) == (["toy.gguf"] if existing else [])
    assert not existing or target.read_bytes() == b"before"


@pytest.mark.parametrize("data", [np.zeros(4, np.uint8), np.zeros(51, np.float32)], ids=["too short", "not bytes"])
def test_wrong_bytes_are_refused(tmp_path: Path, data: np.ndarray) -> None:
    with pytest.raises(ValueError, match="b as Q8_0 needs 204 bytes"):
        write_gguf(tmp_path / "toy.gguf", METADATA, TYPES, PLANS, lambda _: data)
    assert os.listdir(tmp_path) == []


def refused(target: Path, fragment: str) -> None:
    """Refused in one line, before any tensor is asked for."""

    def packed(name: str) -> np.ndarray:
        raise AssertionError(f"{name} was asked for")

    with pytest.raises(SmidgenError) as caught:
        write_gguf(target, METADATA, TYPES, PLANS, packed)
    assert fragment in str(caught.value) and str(caught.value).isprintable()


def test_a_folder_that_cannot_take_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none" / "toy.gguf", "there is no folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "toy.gguf", "is not a folder")
    refused(tmp_path, "it is a folder")
    refused(tmp_path / ("n" * 255), "cannot be written")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere, so by a patch
    refused(tmp_path / "toy.gguf", "is not writable")
    assert os.listdir(tmp_path) == ["file"]


def test_too_little_room_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = file_size(METADATA, TYPES, PLANS)
    usage = atomic.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    refused(tmp_path / "toy.gguf", f"needs {size} bytes")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=size))
    write_gguf(tmp_path / "toy.gguf", METADATA, TYPES, PLANS, data_of)


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the system refuses the same write in the same way."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, old[1]))
    try:
        with pytest.raises(SmidgenError, match="cannot be written") as caught:
            write_gguf(tmp_path / "toy.gguf", METADATA, TYPES, PLANS, data_of)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(caught.value).isprintable()
    assert os.listdir(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.numerics.block_types import F32
plans = [TensorPlan("a", (1000,), F32), TensorPlan("b", (1000,), F32)]
packed = lambda name: np.zeros(4000, np.uint8) if name == "a" else os.kill(os.getpid(), 9)
write_gguf(Path(sys.argv[1]), {}, {}, plans, packed)
"""


def test_a_killed_writer_leaves_a_known_name_that_the_next_one_takes_over(tmp_path: Path) -> None:
    target = tmp_path / "toy.gguf"
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)]).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".toy.gguf.partial"] == [partial_path(target).name]
    assert partial_path(target).stat().st_size >= 4000
    write_gguf(target, METADATA, TYPES, PLANS, data_of)
    assert os.listdir(tmp_path) == ["toy.gguf"]
    assert target.stat().st_size == file_size(METADATA, TYPES, PLANS)


def test_two_writers_of_one_target_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "toy.gguf"

    def packed(name: str) -> np.ndarray:
        refused(target, "being written by another process")
        return data_of(name)

    write_gguf(target, METADATA, TYPES, PLANS, packed)
    assert os.listdir(tmp_path) == ["toy.gguf"]


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"before")
    partial_path(tmp_path / "toy.gguf").symlink_to(tmp_path / "victim")
    refused(tmp_path / "toy.gguf", "cannot be written")
    assert (tmp_path / "victim").read_bytes() == b"before"


def test_a_file_may_be_written_over_its_own_source(tmp_path: Path) -> None:
    target = tmp_path / "toy.gguf"
    write_gguf(target, METADATA, TYPES, PLANS, data_of)
    before = target.read_bytes()
    with GGUFFile.open(target) as file:
        write_gguf(target, file.metadata, file.metadata_types, plans_of(file), file.packed)
    assert target.read_bytes() == before


# --- what the format cannot hold

BAD_VALUES: dict[str, tuple[MetadataValue, tuple[int, ...]]] = {
    "256 as uint8": (256, (0,)),
    "-1 as uint32": (-1, (4,)),
    "2^64 as uint64": (2**64, (10,)),
    "half as int32": (1.5, (5,)),
    "1e300 as float32": (1e300, (6,)),
    "2 as bool": (2, (7,)),
    "text as number": ("7", (4,)),
    "number as text": (7, (8,)),
    "lone surrogate": ("\ud800", (8,)),
    "scalar as array": (7, (9, 4)),
    "text as array": ("ab", (9, 8)),
    "numbers as texts": (np.array([1]), (9, 8)),
    "texts as numbers": (["1"], (9, 4)),
    "matrix": (np.zeros((2, 2), np.float32), (9, 6)),
    "array without element type": ([], (9,)),
    "array of arrays": ([], (9, 9)),
    "unknown type": (7, (13,)),
    "three types": (7, (4, 4, 4)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_do_not_fit_their_type(name: str, tmp_path: Path) -> None:
    value, types = BAD_VALUES[name]
    with pytest.raises(ValueError, match=r"toy\.key"):
        write_gguf(tmp_path / "toy.gguf", {"toy.key": value}, {"toy.key": types}, [], data_of)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "plans",
    [
        [TensorPlan("a", (33,), Q8_0)],
        [TensorPlan("a", (32, 0), F32)],
        [TensorPlan("a", (), F32)],
        [TensorPlan("a", (1, 1, 1, 1, 1), F32)],
        [TensorPlan("n" * 64, (1,), F32)],
        [TensorPlan("", (1,), F32)],
        [TensorPlan("a\n", (1,), F32)],
        [TensorPlan("a", (1,), F32), TensorPlan("a", (1,), F32)],
    ],
    ids=["rows", "zero", "no dimensions", "five", "long name", "no name", "line break", "twice"],
)
def test_plans_that_do_not_fit_the_format(plans: list[TensorPlan]) -> None:
    with pytest.raises(ValueError):
        file_size(METADATA, TYPES, plans)


@pytest.mark.parametrize("alignment", [0, 4, 48, 2**21])
def test_alignments_that_the_reader_would_refuse(alignment: int) -> None:
    with pytest.raises(ValueError, match=r"general\.alignment"):
        file_size({"general.alignment": alignment}, {"general.alignment": UINT32}, PLANS)


def test_metadata_without_its_type() -> None:
    with pytest.raises(ValueError, match=r"toy\.more"):
        file_size({**METADATA, "toy.more": 1}, TYPES, PLANS)


def test_tensors_in_pieces_are_the_same_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", METADATA, TYPES, PLANS, data_of)

    def pieces(name: str) -> Iterator[np.ndarray]:
        flat = data_of(name).reshape(-1)
        yield from (flat[:3], flat[3:3], flat[3:])

    write_gguf(tmp_path / "pieces.gguf", METADATA, TYPES, PLANS, pieces)
    assert (tmp_path / "pieces.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    for wrong in (lambda name: iter([data_of(name).reshape(-1)[:-1]]), lambda name: iter([data_of(name)] * 2)):
        with pytest.raises(ValueError, match="bytes as uint8, got"):
            write_gguf(tmp_path / "pieces.gguf", METADATA, TYPES, PLANS, wrong)
