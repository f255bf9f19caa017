"""Real headers, damaged at random: the reader accepts or refuses them, and does nothing else.

Three starting points: a small valid file (mutations reach every part of it), the first kilobytes of a real Gemma header
(real keys, cut off), and the whole of that header in front of a file of the right size (mutations behind the vocabulary
too, where lengths and offsets are those of a real model). Then tiny real models whose metadata says something else
(tests/mutated_gguf.py). Seeded, so that a failure can be had again.
"""

import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.errors import SmidgenError
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.gguf.writer import TensorPlan, write_gguf
from smidgen.formats.summary import summarise
from smidgen.numerics.block_types import F32, Q4_K, Q8_0
from tests.mutated_gguf import mutated, mutations

INTERESTING = (0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53,
               2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1)  # fmt: skip

Mutation = Callable[[bytearray, float], None]


def overwrite(form: str, value: int) -> Mutation:
    """Put a number of this size somewhere."""

    def mutate(raw: bytearray, where: float) -> None:
        patch = struct.pack(form, value % 2 ** (8 * struct.calcsize(form)))
        at = int(where * max(0, len(raw) - len(patch)))
        raw[at : at + len(patch)] = patch

    return mutate


def add_to_byte(amount: int) -> Mutation:
    """Change one byte by a little: lengths that are wrong by one, types that are other types."""

    def mutate(raw: bytearray, where: float) -> None:
        if raw:  # another mutation may have deleted everything
            at = int(where * (len(raw) - 1))
            raw[at] = (raw[at] + amount) % 256

    return mutate


def insert(patch: bytes) -> Mutation:
    def mutate(raw: bytearray, where: float) -> None:
        at = int(where * len(raw))
        raw[at:at] = patch

    return mutate


def delete(count: int) -> Mutation:
    def mutate(raw: bytearray, where: float) -> None:
        at = int(where * len(raw))
        del raw[at : at + count]

    return mutate


def repeat(count: int) -> Mutation:
    """Duplicate a stretch: keys and tensors that come twice."""

    def mutate(raw: bytearray, where: float) -> None:
        at = int(where * len(raw))
        raw[at:at] = raw[at : at + count]

    return mutate


in_place = st.one_of(
    st.builds(overwrite, st.sampled_from(["<B", "<I", "<Q"]), st.sampled_from(INTERESTING) | st.integers(0, 2**64 - 1)),
    st.builds(add_to_byte, st.integers(-2, 2)),
)
moving = st.one_of(
    st.builds(insert, st.binary(min_size=1, max_size=40)),
    st.builds(delete, st.integers(1, 200)),
    st.builds(repeat, st.integers(1, 200)),
)
places = st.floats(0, 1, exclude_max=True)
damages = st.lists(st.tuples(in_place | moving, places), min_size=1, max_size=4)
damages_in_place = st.lists(st.tuples(in_place, places), min_size=1, max_size=3)

bounded = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def accepts_or_refuses(path: Path) -> bool:
    """Open; a refusal is one printable line, an accepted file really has what it says. True if accepted."""
    start = time.process_time()
    try:
        with GGUFFile.open(path) as file:
            for name, info in file.tensors.items():
                assert file.packed(name).nbytes == info.nbytes
                assert info.offset % file.alignment == 0
                assert info.offset + info.nbytes <= file.size
        accepted = True
    except SmidgenError as error:
        assert str(error).isprintable()
        accepted = False
    assert time.process_time() - start < 5
    return accepted


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """About 700 bytes of valid file: one key of each kind, three tensors."""
    path = tmp_path_factory.mktemp("fuzz") / "small.gguf"
    metadata = {
        "general.architecture": "toy", "general.alignment": 32, "toy.words": ["a", "bc", "", "déf"],
        "toy.scores": np.arange(3, dtype=np.float32), "toy.flags": np.array([True, False]), "toy.rate": 0.5,
        "toy.yes": True, "toy.large": 2**40,
    }  # fmt: skip
    types = {
        "general.architecture": (8,), "general.alignment": (4,), "toy.words": (9, 8), "toy.scores": (9, 6),
        "toy.flags": (9, 7), "toy.rate": (6,), "toy.yes": (7,), "toy.large": (10,),
    }  # fmt: skip
    plans = [TensorPlan("a", (2, 3), F32), TensorPlan("b", (2, 32), Q8_0), TensorPlan("c", (256,), Q4_K)]
    write_gguf(path, metadata, types, plans, lambda name: np.zeros({"a": 24, "b": 68, "c": 144}[name], np.uint8))
    return path.read_bytes()


@settings(bounded, max_examples=1500)
@given(damage=damages)
def test_a_small_file_with_damage(small_file: bytes, tmp_path: Path, damage: list[tuple[Mutation, float]]) -> None:
    raw = bytearray(small_file)
    for mutate, where in damage:
        mutate(raw, where)
    (tmp_path / "fuzz.gguf").write_bytes(raw)
    accepts_or_refuses(tmp_path / "fuzz.gguf")


@settings(bounded, max_examples=500)
@given(raw=st.binary(max_size=300), version=st.sampled_from([2, 3]), counts=st.tuples(*[st.integers(0, 4)] * 2))
def test_noise_behind_a_valid_start(tmp_path: Path, raw: bytes, version: int, counts: tuple[int, int]) -> None:
    (tmp_path / "fuzz.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", version, *counts) + raw)
    accepts_or_refuses(tmp_path / "fuzz.gguf")


@settings(bounded, max_examples=500)
@given(length=st.integers(24, 8192), damage=damages)
def test_the_start_of_a_real_header(
    gemma_path: Path, tmp_path: Path, length: int, damage: list[tuple[Mutation, float]]
) -> None:
    with gemma_path.open("rb") as file:
        raw = bytearray(file.read(length))
    for mutate, where in damage:
        mutate(raw, where)
    (tmp_path / "fuzz.gguf").write_bytes(raw)
    assert not accepts_or_refuses(tmp_path / "fuzz.gguf")


@pytest.fixture(scope="module")
def real_header(gemma_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Gemma's whole header in a sparse file of Gemma's size, to be changed in place; with the header's length."""
    path = tmp_path_factory.mktemp("fuzz") / "gemma.gguf"
    with GGUFFile.open(gemma_path) as file:
        length = min(info.offset for info in file.tensors.values())
        size = file.size
    with gemma_path.open("rb") as source, path.open("wb") as target:
        target.write(source.read(length))
        target.truncate(size)
    yield path, length
    shutil.rmtree(path.parent)


@settings(bounded, max_examples=60)
@given(damage=damages_in_place, region=st.sampled_from(["keys", "vocabulary", "last keys and tensors"]))
def test_a_whole_real_header(real_header: tuple[Path, int], damage: list[tuple[Mutation, float]], region: str) -> None:
    """Windows of 16 kB: the first holds all keys before the vocabulary, the last those after it and all tensors."""
    path, length = real_header
    window = 16_384
    start = {"keys": 0, "vocabulary": length // 2, "last keys and tensors": length - window}[region]
    with path.open("r+b") as file:
        file.seek(start)
        original = file.read(window)
        raw = bytearray(original)
        for mutate, where in damage:
            mutate(raw, where)
        file.seek(start)
        file.write(raw)
        file.flush()
        try:
            accepts_or_refuses(path)
        finally:
            file.seek(start)
            file.write(original)


def test_changed_values_are_accepted_or_refused(tmp_path: Path) -> None:
    """Headers that are sound as GGUF and say something else: whatever looks at them says so in one line."""
    path = tmp_path / "changed.gguf"
    outcomes: set[tuple[bool, bool]] = set()
    for seed in range(500):
        changed = mutated(seed)
        path.write_bytes(changed.as_bytes())
        outcomes.add((is_clean(lambda: check(path), changed.notes), is_clean(lambda: summarise(path), changed.notes)))
    assert outcomes == {(True, True), (False, False), (False, True)}  # what cannot be run is shown where it can be


def check(path: Path) -> None:
    with GGUFFile.open(path) as file:
        refuse_damaged(file)


def is_clean(look: Callable[[], object], notes: list[str]) -> bool:
    """Whether it passes; a refusal is one printable line."""
    try:
        look()
    except SmidgenError as error:
        assert str(error).isprintable() and len(str(error)) < 700, (notes, str(error))
        return False
    except Exception as error:
        raise AssertionError(f"{notes} ended in {error!r}") from error
    return True


def test_the_same_seed_gives_the_same_files() -> None:
    first, again = list(mutations(3, 4)), list(mutations(3, 4))
    assert first == again and len(set(first)) == 4
