"""A file some of whose matrices get another type, each the one that it is told: no plan is sought, the rest is a cut.

Text to calibrate on → survey (what will that cost?) → quantize block by block, errors compensated → write. Matrices
that are not named stay as they are, to the byte, and so does everything else; what is behind them is fitted to what
really reaches it, as in any cut.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smidgen.atomic import refuse_full_disk
from smidgen.cutting.learning import calibration_texts, learned_from
from smidgen.cutting.plan import Choice, layout, matrices
from smidgen.cutting.quantize import Quantization, surveyed_model
from smidgen.cutting.recipe import DEFAULT_TOKENS, CutOptions
from smidgen.cutting.steps import Material
from smidgen.data.sources import read_texts
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.gguf.writer import TensorPlan
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.block_types import BlockType
from smidgen.quantization.survey import Survey
from smidgen.quantization.workspace import QuantWorkspace


@dataclass(frozen=True)
class Requantized:
    """choices: of the matrices that got another type.  notes: what they were calibrated on, and which were only
    rounded, in lines for people."""

    choices: list[Choice]
    notes: list[str]

    @property
    def expected(self) -> float:
        """Nats of KL divergence per token that they are expected to cost, against the file as it was."""
        return sum(choice.damage for choice in self.choices)


def requantize(
    checkpoint: Checkpoint, kinds: Mapping[str, BlockType], path: Path,
    texts: Sequence[str | os.PathLike[str]] = (), tokens: int | None = None,
) -> Requantized:  # fmt: skip
    """Write the model as the GGUF file `path`, with unfinished parts in a folder beside it, which goes at the end.

    kinds: tensor of the file → its new type, which its rows must fit.  texts: to calibrate on, as `--text` takes them;
    none for text by the model itself.  tokens: of calibration; None for as many as a cut takes.
    Raises SmidgenError or BadFile for bad texts and a full disk.
    """
    named = tuple(os.fspath(text) for text in texts)
    options = CutOptions(fit=checkpoint.file.size, texts=named, tokens=DEFAULT_TOKENS if tokens is None else tokens)
    sources = read_texts(options.texts)
    refuse_full_disk(path, 2 * layout(checkpoint, kinds).size)  # the parts, and the file that is made of them
    workspace = QuantWorkspace.start(path.with_name("work"), options.fingerprint(checkpoint.sha256(), sources))
    tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    learned = calibration_texts(checkpoint, tokenizer, sources, options)
    material = Material(options, learned, checkpoint, checkpoint, tokenizer, None, workspace)
    windows = material.windows(checkpoint)
    surveyed = surveyed_model(checkpoint, windows, tuple(dict.fromkeys(kinds.values())), options.seed, workspace)
    planned = Quantization(checkpoint, _choices(checkpoint, kinds, surveyed), surveyed, windows, workspace)
    planned.write(path)
    notes = [learned_from(material), *filter(None, [planned.only_rounded()])]
    workspace.finish()
    return Requantized([choice for choice in planned.choices if not choice.keep], notes)


def _choices(checkpoint: Checkpoint, kinds: Mapping[str, BlockType], surveyed: Survey) -> list[Choice]:
    """Each matrix of the file, in its new type or kept."""
    found = []
    for tensor, members in matrices(checkpoint).items():
        info, kind = checkpoint.file.tensors[tensor], kinds.get(tensor)
        damage = 0.0 if kind is None else sum(surveyed.damage[name][kind.name] for name in members)
        nbytes = TensorPlan(tensor, info.shape, kind or info.kind).padded_bytes(checkpoint.file.alignment)
        found.append(Choice(tensor, members, kind or info.kind, kind is None, nbytes, damage))
    return found
