"""A teacher's distributions on disk: run once over all batches, then learned from as often as one likes.

Of each distribution p the `top` likeliest tokens are kept, their probabilities, and that of all others together, r. The
others alone would leave the student in the dark about the tail, or teach it overconfidence if they were left out
("Sparse Logit Sampling", Anshumann et al. 2025, https://arxiv.org/abs/2503.16870, section 3). So `samples` tokens are
drawn from the tail in proportion to p, and kept with their probabilities. The slope of the forward divergence that the
loss makes of all this (`distillation.objectives.slopes`) is that of the whole distribution, in expectation over the
draws. The paper draws all tokens and lets each stand for an equal share of p: without bias too, but with noise that
stays while the slope fades. On Gemma 3 270M, for the slope along hidden states at one position, against a student at KL
0.055:

    50 draws, the paper's way     noise 0.99 of the slope      16 likeliest, 16 draws     noise 0.46
    24 likeliest, 24 draws, so    noise 0.83                   24 likeliest, 24 draws     noise 0.33
    50 likeliest, renormalised    bias 1.66                    50 likeliest and r         bias 0.15

Draws are systematic, one from each of `samples` equal parts of the tail's mass, which leaves the expectation as it is
and makes them vary less. Other divergences use the list and r.

Positions that count (of weight other than 0) are kept, under a hash of the row that they are in. So rows may come in
any order and company, and once for all epochs: the hash goes by where documents begin, since a batch says nothing of
them where every row happens to be one. A cache is bound to the teacher's file and to what the caller says of the texts.
A shard is written whole or not at all, and enters the index with its checksum after that: whatever happens,
`cache_teacher` goes on behind the last whole shard, and the result is the same.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from smidgen.atomic import replacing, write_whole
from smidgen.distillation.objectives.losses import Drawn, Listed, Spelled, Target, positions_at_once
from smidgen.distillation.teachers.live import Teacher
from smidgen.distillation.text.batch import NO_TARGET, Batch, Batches
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.progress import track
from smidgen.shapes import Float, Int

_FORMAT = 2
_INDEX = "index.json"
_KEY_BYTES = 16
#: What is kept of each position: the likeliest tokens and their probabilities, that of all others together, tokens
#: drawn from these and their probabilities.
_FIELDS = ("ids", "probabilities", "rest", "drawn", "drawn_probabilities")
_FEW = "few"  # 1 where but a few tokens are possible at all (`objectives.slopes.Spelled`)
_RUN = 2**22  # probabilities at a time
_HASH_BYTES = 2**20


@dataclass(frozen=True)
class CacheOptions:
    """What is kept of a distribution. temperature: at which it is softened, then and for ever.  seed: of the draws."""

    top: int = 24
    samples: int = 24
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top < 0 or self.samples < 0 or self.top + self.samples == 0:
            raise SmidgenError(f"a teacher cache of {self.top} likeliest and {self.samples} drawn tokens holds nothing")


def cache_teacher(
    teacher: Teacher, batches: Batches, steps: int, folder: Path, *, teacher_sha256: str,
    fingerprint: Mapping[str, Any], options: CacheOptions = CacheOptions(), steps_a_shard: int = 16,  # noqa: B008
    begin: int = 0,
) -> None:  # fmt: skip
    """Ask the teacher about the first `steps` batches; go on where an earlier call was stopped, or asked for fewer.

    begin: leave out the batches before this one; another worker asks about them (`join_caches`).
    fingerprint: plain data of all that decides which texts come (files, tokenizer, length of rows …).
    Raises SmidgenError where the folder holds another cache, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "format": _FORMAT, "teacher": teacher_sha256, "fingerprint": _plain(fingerprint), "options": asdict(options),
        "vocabulary": teacher.vocabulary,
    }  # fmt: skip
    index = _read_index(folder) if (folder / _INDEX).exists() else {**wanted, "shards": []}
    _refuse_another(folder, index, wanted)
    known = {key for shard in index["shards"] for key in _keys(folder / shard["file"])}
    first = index["shards"][-1]["steps"] if index["shards"] else begin
    with track("Asking the teacher", max(steps - first, 0)) as task:
        for start in range(first, steps, steps_a_shard):
            rows = _Rows(options, teacher.vocabulary)
            stop = min(start + steps_a_shard, steps)
            for step in range(start, stop):
                rows.add(teacher, batches.batch(step), step, known)
                task.advance()
            name = f"shard-{len(index['shards']):05d}.safetensors"
            index["shards"].append({"file": name, "steps": stop, **rows.write(folder / name)})
            write_whole(folder / _INDEX, json.dumps(index, indent=1))


def join_caches(parts: Sequence[Path], folder: Path) -> None:
    """Make one cache of several of the same teacher and text, in the order of their steps. Their shards are moved.

    What an earlier call has moved already is left where it is.
    """
    joined = _read_index(folder) if (folder / _INDEX).exists() else None
    for part in parts:
        if not part.exists():
            continue
        index = _read_index(part)
        joined = joined or {**index, "shards": []}
        _refuse_another(part, index, {name: value for name, value in joined.items() if name != "shards"})
        for shard in index["shards"]:
            name = f"shard-{len(joined['shards']):05d}.safetensors"
            shutil.copyfile(part / shard["file"], folder / name)
            joined["shards"].append({**shard, "file": name})
        write_whole(folder / _INDEX, json.dumps(joined, indent=1))
        shutil.rmtree(part)


def steps_cached(folder: Path) -> int:
    """Up to which step a cache goes; 0 where there is none."""
    shards = _read_index(folder)["shards"] if (folder / _INDEX).exists() else []
    return shards[-1]["steps"] if shards else 0


class CachedTeacher:
    """A teacher read from disk.

    Raises SmidgenError where the cache is another's, BadFile, as soon as it is read, for a damaged shard.
    """

    def __init__(self, folder: Path, teacher_sha256: str, fingerprint: Mapping[str, Any]) -> None:
        index = _read_index(folder)
        _refuse_another(folder, index, {"teacher": teacher_sha256, "fingerprint": _plain(fingerprint)})
        self._temperature = float(index["options"]["temperature"])
        self._vocabulary = int(index["vocabulary"])
        self._shards = [_Shard(folder / shard["file"], shard["sha256"]) for shard in index["shards"]]
        self._rows = {key: (shard, row) for shard in self._shards for row, key in enumerate(_keys(shard.path))}

    @property
    def vocabulary(self) -> int:
        """The student's tokens."""
        return self._vocabulary

    def targets(self, batch: Batch) -> Target:
        """Of a batch whose rows were cached."""
        places = torch.full(batch.ids.shape, -1, dtype=torch.long)
        parts: list[dict[str, Tensor]] = []
        done = 0
        for row, key in enumerate(_row_keys(batch)):
            counts = batch.weights[row].cpu() != 0
            if not counts.any():  # such as fill up what processes share
                parts.append({name: values[:0] for name, values in self._shards[0].read(0).items()})
                continue
            if key not in self._rows:
                where = f"{printable(batch.name)}, row {row}" if batch.name else f"row {row} of a batch"
                raise SmidgenError(f"{where} is not in the teacher cache: cache it with the same texts and settings")
            shard, number = self._rows[key]
            part = shard.read(number)
            count = len(part["ids"])
            places[row, counts] = torch.arange(done, done + count)
            parts.append(part)
            done += count
        device = batch.ids.device
        found = {name: torch.cat([part[name] for part in parts]).to(device) for name in (*_FIELDS, _FEW)}
        ids, p, rest, drawn, drawn_p = (found[name] for name in _FIELDS)
        few = found[_FEW] != 0
        listed = Listed(
            ids, p, rest, drawn=Drawn(drawn, drawn_p) if drawn.shape[1] else None, few=few if few.any() else None
        )
        return CachedTarget(listed, places.flatten().to(device), self._temperature)


@dataclass(frozen=True)
class CachedTarget:
    """Some tokens of each distribution. places: of each position in `listed`, −1 where it was not kept."""

    listed: Listed
    places: Int[Tensor, " position"]
    temperature: float

    @property
    def columns(self) -> int:
        """Tokens that were kept of each distribution."""
        return self.listed.ids.shape[1] + (0 if self.listed.drawn is None else self.listed.drawn.ids.shape[1])

    def chosen(self, positions: Int[Tensor, " chosen"]) -> "CachedTarget":
        """The same at these positions only."""
        return replace(self, places=self.places[positions])

    def scores(self, run: slice, temperature: float) -> Listed:
        """What was kept. Raises SmidgenError for another temperature than that of the cache."""
        if temperature != self.temperature:
            raise SmidgenError(f"the teacher was cached at temperature {self.temperature}, not at {temperature}")
        return self.listed.part(self.places[run])


# -- from distributions to what is kept ------------------------------------------------------------------------------


@torch.no_grad()
def thin_out(
    scores: Float[Tensor, "position vocab"], options: CacheOptions, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is kept of distributions, by the names in `_FIELDS`. Overwrites the scores."""
    weights = scores.sub_(scores.amax(1, keepdim=True)).exp_()
    total = weights.sum(1, keepdim=True, dtype=torch.float64)
    best, ids = weights.topk(min(options.top, weights.shape[1]), dim=1)
    tail = weights.scatter_(1, ids, 0.0)
    sums = tail.cumsum(1, dtype=torch.float64)
    start = torch.rand(len(tail), 1, dtype=torch.float64, generator=generator)
    share = (torch.arange(options.samples, dtype=torch.float64) + start) / max(options.samples, 1)
    last = (sums < sums[:, -1:]).sum(1, keepdim=True)  # the last that weighs anything: rounding may go beyond it
    drawn = torch.searchsorted(sums, share.to(sums.device) * sums[:, -1:], right=True).minimum(last)
    found = ids, best / total, (sums[:, -1:] / total)[:, 0], drawn, tail.gather(1, drawn) / total
    return dict(zip(_FIELDS, found, strict=True))


class _Rows:
    """What will be one shard."""

    def __init__(self, options: CacheOptions, vocabulary: int) -> None:
        self._options, self._vocabulary = options, vocabulary
        token = np.uint16 if vocabulary <= 2**16 else np.uint32
        kinds = token, np.float16, np.float32, token, np.float32, np.uint8
        self._types = dict(zip((*_FIELDS, _FEW), kinds, strict=True))
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, teacher: Teacher, batch: Batch, step: int, known: set[bytes]) -> None:
        """The rows of a batch that are not known yet."""
        keys = _row_keys(batch)
        new = [row for row, key in enumerate(keys) if key not in known and key not in keys[:row]]
        known.update(keys)
        if not new:
            return
        part = batch.rows(torch.tensor(new))
        self._keys += [keys[row] for row in new]
        self._sizes += (part.weights != 0).sum(1).tolist()
        positions = (part.weights.flatten() != 0).nonzero()[:, 0]
        target = teacher.targets(part).chosen(positions)
        generator = torch.Generator().manual_seed(_seed(self._options.seed, step))
        at_once = positions_at_once(_RUN, self._vocabulary, target)
        for start in range(0, len(positions), at_once):
            said = target.scores(slice(start, min(start + at_once, len(positions))), self._options.temperature)
            few, scores = (said.few, said.scores) if isinstance(said, Spelled) else (None, said)
            if not isinstance(scores, Tensor):
                raise SmidgenError("a cached teacher cannot be cached again: cache the model itself")
            found = thin_out(scores, self._options, generator)
            found[_FEW] = torch.zeros(len(scores), dtype=torch.bool) if few is None else few
            self._parts.append({name: found[name].cpu().numpy().astype(kind) for name, kind in self._types.items()})

    def write(self, path: Path) -> dict[str, Any]:
        """Write the shard. Returns what the index says about it."""
        top = min(self._options.top, self._vocabulary)
        samples = self._options.samples
        shapes = dict(zip((*_FIELDS, _FEW), ((0, top), (0, top), (0,), (0, samples), (0, samples), (0,)), strict=True))
        found = {
            name: np.concatenate([np.zeros(shapes[name], kind), *(part[name] for part in self._parts)])
            for name, kind in self._types.items()
        }
        keys = np.frombuffer(b"".join(self._keys), dtype=np.uint8).reshape(-1, _KEY_BYTES)
        ends = np.cumsum(np.array([0, *self._sizes], dtype=np.int64))
        data = save({"keys": keys, "ends": ends, **found})
        with replacing(path, len(data)) as file:
            file.write(data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "rows": len(keys), "positions": int(ends[-1])}


def _seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "little") >> 1


# -- reading -----------------------------------------------------------------------------------------------------------


class _Shard:
    """One file, of which only what is asked for is read."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self._sha256 = path, sha256

    def read(self, row: int) -> dict[str, Tensor]:
        """What was kept of a row's positions, ids as int64 and the rest as float32."""
        start, stop = self._file.get_slice("ends")[row : row + 2].tolist()
        arrays = {name: self._file.get_slice(name)[start:stop] for name in (*_FIELDS, _FEW)}
        return {
            name: torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
            for name, array in arrays.items()
        }

    @cached_property
    def _file(self) -> Any:
        """The mapped file, after its checksum."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                while chunk := stream.read(_HASH_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise BadFile(f"{printable(self.path)} is gone from the teacher cache. Make the cache anew.") from error
        if digest.hexdigest() != self._sha256:
            raise _damaged(self.path)
        return safe_open(self.path, "np")


def _keys(path: Path) -> list[bytes]:
    """The hashes of a shard's rows."""
    try:
        with safe_open(path, "np") as file:
            return [key.tobytes() for key in file.get_tensor("keys")]
    except Exception as error:  # the library's own error type, and what damaged headers lead to
        raise _damaged(path) from error


def _damaged(path: Path) -> BadFile:
    return BadFile(f"{printable(path)}, a part of the teacher cache, is damaged. Make the cache anew.")


def _row_keys(batch: Batch) -> list[bytes]:
    """A hash of each row, the same in any batch: its tokens up to the last place that counts, which places count, what
    comes after these, and where documents begin.
    """
    counts = (batch.weights != 0).cpu()
    lengths = (counts * torch.arange(1, counts.shape[1] + 1)).amax(1).tolist()
    begins = torch.zeros_like(counts)
    begins[:, 1:] = (batch.documents[:, 1:] != batch.documents[:, :-1]).cpu()
    fields = batch.ids.cpu(), counts, batch.targets.cpu().where(counts, NO_TARGET), begins
    arrays = [np.ascontiguousarray(field.numpy().astype("<i8")) for field in fields]
    return [
        hashlib.blake2b(b"".join(array[row, :length].tobytes() for array in arrays), digest_size=_KEY_BYTES).digest()
        for row, length in enumerate(lengths)
    ]


# -- whose cache it is -------------------------------------------------------------------------------------------------


def _plain(fingerprint: Mapping[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(fingerprint))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SmidgenError(f"{printable(folder)} holds no teacher cache; make one there first") from error
    except (OSError, ValueError) as error:
        raise BadFile(f"{printable(path)} cannot be read. Make the teacher cache anew.") from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT or not isinstance(index.get("shards"), list):
        raise BadFile(f"{printable(path)} is no index of a teacher cache. Make the cache anew.")
    return index


def _refuse_another(folder: Path, index: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises SmidgenError where the cache in the folder differs from what is wanted, naming in what."""
    where = printable(folder)
    if index.get("teacher") != wanted["teacher"]:
        raise SmidgenError(
            f"{where} is a cache from another teacher (hash mismatch: {str(index.get('teacher'))[:12]} there, "
            f"{wanted['teacher'][:12]} here). Take that teacher, or another folder."
        )
    found = index.get("fingerprint")
    if found != wanted["fingerprint"]:
        asked = wanted["fingerprint"]
        known = found if isinstance(found, dict) else {}
        differs = ", ".join(sorted(key for key in asked.keys() | known.keys() if asked.get(key) != known.get(key)))
        raise SmidgenError(f"{where} is a cache of other texts: {printable(differs)} differs. Take another folder.")
    for key in wanted.keys() - {"teacher", "fingerprint"}:
        if index.get(key) != wanted[key]:
            raise SmidgenError(
                f"{where} is a cache with {key} {index.get(key)}, now it is {wanted[key]}. Take another folder."
            )
