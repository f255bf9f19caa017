"""What llama.cpp's quantizer is asked to make when smidgen is compared with it, and how it is made.

The aim is the best file that a person who knows the tool gets out of it at a size. Its file types (`Q4_K_M` …) are
already mixtures: they give some tensors more bits by rule. On top of those it takes a type for the embedding, and types
for tensors by name. BODIES are the ways to store the transformer blocks, EMBEDDINGS those for the token embedding,
which in a small model with a tied head is most of the file; every pair is a candidate. Where a row does not fit a
type's blocks, the tool takes a larger type by itself: rows of 640 cannot be k-quants.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import record
from benchmarks.artefacts import Shelf, sha256
from benchmarks.llama_cpp_tools import Tools
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.numerics.block_types import BY_NAME


@dataclass(frozen=True)
class Body:
    """How to store the blocks.

    file_type: llama.cpp's mixture.  tensors: (name, type) that go before the mixture's choice.
    pure: the file type's own type for every tensor, without the mixture's rules.
    """

    file_type: str
    tensors: tuple[tuple[str, str], ...] = ()
    pure: bool = False

    def options(self) -> list[str]:
        """Words of the command line."""
        words = ["--pure"] if self.pure else []
        for name, kind in self.tensors:
            words += ["--tensor-type", f"{name}={kind}"]
        return words

    def __str__(self) -> str:
        pure = ["pure"] if self.pure else []
        return " ".join([self.file_type, *pure, *(f"{name}={kind}" for name, kind in self.tensors)])


_OUTPUT, _DOWN, _VALUE, _KEY, _QUERY = "attn_output", "ffn_down", "attn_v", "attn_k", "attn_q"
_SIX = ((_OUTPUT, "q6_k"), (_DOWN, "q6_k"))
_EIGHT = ((_VALUE, "q8_0"), (_KEY, "q8_0"))

BODIES = (
    *(Body(name) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S")),
    *(Body(name) for name in ("Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ3_M", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K_S")),
    *(Body(name) for name in ("Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")),
    *(Body(name, pure=True) for name in ("IQ4_NL", "Q5_0")),
    Body("IQ4_NL", ((_VALUE, "q8_0"),)),
    Body("IQ4_NL", _EIGHT),
    Body("IQ4_XS", _EIGHT),
    Body("IQ4_NL", ((_OUTPUT, "q5_k"),)),
    Body("IQ4_XS", ((_OUTPUT, "q5_k"),)),
    Body("IQ4_XS", ((_OUTPUT, "q5_k"), (_VALUE, "q8_0"))),
    Body("IQ4_XS", ((_OUTPUT, "q5_k"), (_KEY, "q5_1"))),
    Body("IQ3_S", ((_QUERY, "q5_0"), (_KEY, "q5_0"), (_VALUE, "q8_0"), ("ffn_gate", "q5_0"))),
    Body("Q4_K_S", ((_OUTPUT, "iq4_xs"), (_DOWN, "iq4_xs"))),
    Body("Q5_0", ((_OUTPUT, "q5_k"), (_DOWN, "q5_k"))),
    Body("Q5_0", _SIX),
    Body("Q5_0", (*_SIX, *_EIGHT)),
    Body("Q5_1", _SIX),
    Body("Q5_1", (*_SIX, (_VALUE, "q8_0"))),
    Body("Q5_1", (*_SIX, *_EIGHT, (_QUERY, "q8_0"))),
)
UNTOUCHED = "f16"  # the embedding type, and in capitals the file type, that leave an F16 model as it is
EMBEDDINGS = (
    "q2_k", "iq3_xxs", "iq3_s", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k",  # where rows fit them
    "mxfp4", "nvfp4", "q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0",
)  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """One way to quantize a whole model with llama.cpp's tool."""

    body: Body
    embedding: str

    def __str__(self) -> str:
        return f"{self.body}, embedding {self.embedding}"

    def options(self) -> list[str]:
        """Words of the command line, but for the file names and the file type."""
        return [*self.body.options(), "--token-embedding-type", self.embedding]


def candidates(bodies: Sequence[Body] = BODIES, embeddings: Sequence[str] = EMBEDDINGS) -> Iterator[Mixture]:
    """Every pair of a body and an embedding."""
    return (Mixture(body, embedding) for embedding in embeddings for body in bodies)


def alone(body: Body) -> Mixture:
    """A body beside an embedding that is left as it is."""
    return Mixture(body, UNTOUCHED)


def only(embedding: str) -> Mixture:
    """An embedding beside blocks that are left as they are."""
    return Mixture(Body(UNTOUCHED.upper()), embedding)


class Quantizer:
    """llama-quantize with one imatrix on one model.

    A body takes minutes at 1.5 billion weights, and occurs with many embeddings. So it is made once, with the embedding
    left as it is, and the candidates are made from that: the tool copies a tensor that already has the wanted type, so
    each candidate has the bytes of one run from the original.

    shelf: where files in between are kept.
    """

    def __init__(self, tools: Tools, original: Path, imatrix: Path, shelf: Shelf, threads: int) -> None:
        self.tools, self.original, self.imatrix = tools, original, imatrix
        self.shelf, self.threads = shelf, threads
        self.log = shelf.folder / "llama-quantize.log"

    def inputs(self, mixture: Mixture) -> dict[str, str]:
        """All that a file of this mixture depends on."""
        made_of = {"original": sha256(self.original), "imatrix": sha256(self.imatrix)}
        return {**made_of, "mixture": str(mixture), "llama.cpp": self.tools.version()}

    def command(self, mixture: Mixture, source: Path, destination: Path) -> list[str | Path]:
        """The command that makes `destination`."""
        words = [self.tools.quantize, "--imatrix", self.imatrix, *mixture.options()]
        return [*words, source, destination, mixture.body.file_type, str(self.threads)]

    def expected_bytes(self, mixture: Mixture) -> int:
        """Size of the file that `make` would write, from the tool's dry run, to about 0.01 MiB."""
        words = [self.tools.quantize, "--dry-run", "--imatrix", self.imatrix, *mixture.options()]
        command = [
            str(word) for word in (*words, self.original, self.shelf.folder / "none.gguf", mixture.body.file_type)
        ]
        answer = subprocess.run(command, capture_output=True, text=True)
        found = re.search(
            r"model size\s*=\s*([\d.]+) MiB.*quant size\s*=\s*([\d.]+) MiB", answer.stderr + answer.stdout, re.S
        )
        if answer.returncode or found is None:
            raise SmidgenError(f"llama-quantize --dry-run failed for {mixture}: {answer.stderr.strip()[-200:]}")
        return self.original.stat().st_size - round((float(found[1]) - float(found[2])) * 2**20)

    def expected_sizes(self, mixtures: Iterable[Mixture]) -> dict[Mixture, int]:
        """The same for many: what a body saves and what an embedding saves add up.

        Without those whose type of embedding does not fit its rows: there the tool foretells a size, and then fails.
        """
        with GGUFFile.open(self.original) as file:
            width = file.tensors["token_embd.weight"].shape[-1]
        mixtures = [one for one in mixtures if BY_NAME[one.embedding.upper()].fits(width)]
        whole = self.original.stat().st_size
        bodies = {body: self.expected_bytes(alone(body)) for body in {one.body for one in mixtures}}
        kinds = {kind: self.expected_bytes(only(kind)) for kind in {one.embedding for one in mixtures}}
        return {one: bodies[one.body] + kinds[one.embedding] - whole for one in mixtures}

    def make(self, mixture: Mixture, destination: Path) -> None:
        """Quantize the model."""
        source = self.original
        if UNTOUCHED not in (mixture.embedding, mixture.body.file_type.lower()):
            source = self.made(alone(mixture.body))
        record.run(self.command(mixture, source, destination), self.log)

    def made(self, mixture: Mixture) -> Path:
        """The quantized model, which is kept."""
        path = self.shelf.path("llama.cpp", ".gguf", **self.inputs(mixture))
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            self.make(mixture, unfinished)
            unfinished.replace(path)
        return path
