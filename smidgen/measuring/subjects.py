"""The cut that is measured, opened: a model that our decoder reads, or a folder that another framework runs.

Both are refused here where they cannot be measured, before any long work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.measuring.options import MeasureOptions
from smidgen.model.kept import AS_USUAL, KVType, bytes_per_token, keeping_of, refuse_kv

if TYPE_CHECKING:
    from smidgen.engines.answers import ModelAnswers
    from smidgen.engines.base import Answering, LogitScorer, Scorer
    from smidgen.engines.frameworks.engine import FrameworkEngine
    from smidgen.engines.llama_cpp.speed_result import SpeedResult
    from smidgen.engines.torch import TorchEngine
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.formats.exported import Exported
    from smidgen.formats.hub.catalogue import ModelName
    from smidgen.formats.hub.origin import Origin
    from smidgen.measuring.run import Keeping, Subject
    from smidgen.model.tokenizers.vocabulary import MetadataValue

_MEMORY_SHARE = 0.7  # of the machine's memory that two models may take at once


class Cut(Protocol):
    """What measuring asks of the cut.

    keeping: how it keeps keys and values; None where that is not known.  history: the steps that its file tells of.
    known_as: what its answers depend on.
    """

    @property
    def path(self) -> Path: ...
    @property
    def bytes(self) -> int: ...
    @property
    def tokenizer_metadata(self) -> Mapping[str, MetadataValue]: ...
    @property
    def keeping(self) -> Keeping | None: ...
    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def known_as(self) -> str: ...

    def subject(self, name: str | None) -> Subject[Scorer | LogitScorer]:
        """It as what is measured.  name: for the card; None for its own."""
        ...

    def speeds(self) -> Sequence[Mapping[str, Any]]:
        """Of the original and of the cut. Raises SmidgenError where they cannot be measured."""
        ...

    def answering(self) -> AbstractContextManager[Answering]:
        """It as what answers the questions of a task."""
        ...


@contextmanager
def open_cut(name: ModelName, original: Checkpoint, options: MeasureOptions) -> Iterator[Cut]:
    """The model of this name, to be measured against `original`.

    Raises SmidgenError where there is no such model, the two do not belong together, or the cut's heads do not fit the
    cache that was asked for.
    """
    from smidgen.formats.exported import runtime_of
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.formats.opening import open_model

    origin = origin_of(name)
    if runtime_of(origin.path) is not None:
        with _open_exported(origin, original, options) as cut:
            yield cut
        return
    with open_model(origin) as checkpoint:
        yield CheckpointCut(checkpoint, original, options)


def refuse_cut(path: Path, kv: KVType) -> None:
    """Raises SmidgenError for what can be known of a cut that cannot be measured so without opening its weights."""
    from smidgen.formats.exported import describe_exported, runtime_of
    from smidgen.formats.opening import read_config

    if runtime_of(path) is None:
        return refuse_kv(kv, keeping_of(read_config(path)))
    describe_exported(path)
    if kv != AS_USUAL:
        raise Unsupported(
            f"--kv {kv} is for llama.cpp: {printable(path)} is run by another program, which keeps keys and values as "
            "it does. Leave --kv out."
        )


class CheckpointCut:
    """A model that our decoder reads."""

    def __init__(self, checkpoint: Checkpoint, original: Checkpoint, options: MeasureOptions) -> None:
        self._checkpoint, self._original = checkpoint, original
        self._threads = options.threads
        self._kv: KVType = options.kv
        kept = keeping_of(checkpoint.config)
        refuse_kv(self._kv, kept)
        _refuse_other_tokens(original, checkpoint.file.metadata, checkpoint.origin.name)
        self._kept = kept

    @property
    def path(self) -> Path:
        return self._checkpoint.path

    @property
    def bytes(self) -> int:
        return self._checkpoint.file.size

    @property
    def tokenizer_metadata(self) -> Mapping[str, MetadataValue]:
        return self._checkpoint.tokenizer_metadata

    @property
    def keeping(self) -> Keeping:
        from smidgen.engines.torch import TorchEngine
        from smidgen.measuring.run import Keeping

        unrounded = None if self._kv == AS_USUAL else lambda: TorchEngine(self._checkpoint)
        of_tokens = bytes_per_token(self._kept, self._kv), bytes_per_token(self._kept, AS_USUAL)
        return Keeping(self._kv, *of_tokens, unrounded)

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        from smidgen.formats.history import history

        return history(self._checkpoint.file.metadata)

    @property
    def known_as(self) -> str:
        sha256 = self._checkpoint.sha256()
        return sha256 if self._kv == AS_USUAL else f"{sha256} {self._kv}"

    def subject(self, name: str | None) -> Subject[Scorer | LogitScorer]:
        """See `Cut`."""
        from smidgen.engines.torch import TorchEngine
        from smidgen.formats.history import kept_layers

        cut, before = self._checkpoint, self._original
        depths = len(before.config.layers), len(cut.config.layers)
        layers = kept_layers(before.file.metadata, cut.file.metadata, *depths)
        return subject_of(cut, name or cut.origin.name, TorchEngine(cut, kv=self._kv), layers)

    def speeds(self) -> list[SpeedResult]:
        """Of the original, where this machine can run it, and of the cut, which keeps keys and values as asked."""
        from smidgen.engines.llama_cpp.bench import measure_speed

        paths = _runnable(self._original, self._checkpoint)
        kept: list[KVType] = [AS_USUAL, self._kv]
        return measure_speed(paths, self._threads, kv=kept[-len(paths) :])

    def answering(self) -> ModelAnswers:
        """See `Cut`."""
        return answering(self._checkpoint, self._threads, self._kv)


class ExportedCut:
    """A folder that another framework runs, with the framework running."""

    keeping = None
    history = ()

    def __init__(
        self, exported: Exported, metadata: Mapping[str, MetadataValue], engine: FrameworkEngine, name: str
    ) -> None:
        self._exported, self._engine, self._name = exported, engine, name
        self.path, self.bytes, self.tokenizer_metadata = exported.path, exported.bytes, metadata
        self._sha256 = exported.sha256()

    @property
    def known_as(self) -> str:
        return " ".join([self._sha256, *(f"{name} {version}" for name, version in self._engine.runtime.items())])

    def subject(self, name: str | None) -> Subject[Scorer | LogitScorer]:
        """See `Cut`. Of its tensors nothing is told: each framework packs them in its own way."""
        from smidgen.measuring.facts import ModelFacts
        from smidgen.measuring.run import Subject
        from smidgen.model.tokenizers.padding import tokens_of

        facts = ModelFacts(
            name or self._name, self.path, self._sha256, self.bytes, self._exported.parameters, (),
            runtime=self._engine.runtime,
        )  # fmt: skip
        return Subject(facts, self._engine, tokens_of(self.tokenizer_metadata))

    def speeds(self) -> Sequence[Mapping[str, Any]]:
        """See `Cut`."""
        raise SmidgenError(f"smidgen does not measure how fast {_runtime_name(self._exported)} is")

    @contextmanager
    def answering(self) -> Iterator[Answering]:
        """See `Cut`."""
        from smidgen.engines.frameworks.answers import FrameworkAnswers

        yield FrameworkAnswers(self._engine, self.tokenizer_metadata)


@contextmanager
def _open_exported(origin: Origin, original: Checkpoint, options: MeasureOptions) -> Iterator[ExportedCut]:
    """Where its settings say how many tokens it has, these are compared before its framework is started, or fetched."""
    from smidgen.engines.frameworks.engine import FrameworkEngine
    from smidgen.formats.exported import describe_exported
    from smidgen.formats.hf.tokenizer import tokenizer_metadata

    refuse_cut(origin.path, options.kv)
    exported = describe_exported(origin.path)

    def tokens(rows: int) -> Mapping[str, MetadataValue]:
        metadata, _ = tokenizer_metadata(exported.path, rows)
        _refuse_other_tokens(original, metadata, origin.name)
        return metadata

    metadata = None if exported.vocabulary is None else tokens(exported.vocabulary)
    with FrameworkEngine.open(exported, options.threads) as engine:
        yield ExportedCut(exported, metadata or tokens(engine.config.vocabulary), engine, origin.name)


def _runtime_name(exported: Exported) -> str:
    from smidgen.engines.frameworks.known import FRAMEWORKS

    return FRAMEWORKS[exported.runtime].name


def _refuse_other_tokens(original: Checkpoint, metadata: Mapping[str, MetadataValue], name: str) -> None:
    """Raises Unsupported, naming the first token that does not fit, unless the cut's tokens are all the original's."""
    from smidgen.measuring.pairing import kept_tokens
    from smidgen.model.tokenizers.padding import tokens_of

    before, after = tokens_of(original.file.metadata), tokens_of(metadata)
    if before != after:
        kept_tokens(before, after, (original.origin.name, name))


def answering(model: Checkpoint, threads: int | None, kv: KVType = AS_USUAL) -> ModelAnswers:
    """A model that our decoder reads, as what answers the questions of a task. Close it."""
    from smidgen.engines.answers import ModelAnswers
    from smidgen.engines.torch import TorchEngine
    from smidgen.model.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(model.tokenizer_metadata)
    return ModelAnswers(TorchEngine(model, kv=kv), tokenizer, model.path, threads, kv)


def fit_together(original: Checkpoint, cut_bytes: int) -> bool:
    """Whether the original and a cut of so many bytes can be in memory at once."""
    from smidgen.memory import total_memory

    return original.file.size + cut_bytes <= _MEMORY_SHARE * total_memory()


def _runnable(original: Checkpoint, cut: Checkpoint) -> list[Path]:
    """The files whose speed to compare: both if they fit into memory side by side, else the cut's alone."""
    from smidgen.formats.convert import gguf_of
    from smidgen.progress import say

    if fit_together(original, cut.file.size):
        return [gguf_of(original.path), gguf_of(cut.path)]
    size = f"{original.file.size / 1e9:.1f} GB"
    say(f"The speed of the original is not measured: its {size} are too much for this machine.")
    return [gguf_of(cut.path)]


def subject_of(
    checkpoint: Checkpoint, name: str, engine: TorchEngine, layers: tuple[int, ...] | None = None
) -> Subject[Scorer]:
    """A model that our decoder reads, as what is measured.  layers: see `ModelFacts`."""
    from smidgen.measuring.facts import ModelFacts, TensorFacts
    from smidgen.measuring.run import Subject
    from smidgen.model.tokenizers.padding import tokens_of

    file, members = checkpoint.file, checkpoint.gguf_members
    met = dict.fromkeys([*map(checkpoint.gguf_name, checkpoint.names()), *file.tensors])
    tensors = tuple(
        TensorFacts(
            info.name, info.kind.name, info.kind.bits_per_weight, prod(info.shape), info.nbytes,
            tuple(members(info.name)),
        )
        for info in (file.tensors[tensor] for tensor in met)
    )  # fmt: skip
    facts = ModelFacts(
        name, checkpoint.path, checkpoint.sha256(), file.size, checkpoint.parameters, tensors, layers
    )  # fmt: skip
    return Subject(facts, engine, tokens_of(file.metadata))
