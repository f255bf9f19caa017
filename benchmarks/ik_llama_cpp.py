"""ik_llama.cpp's own types on the same picture: another engine, whose files llama.cpp cannot read.

Its quantizer comes in the wheel `ik-llama-cpp-python` (MIT): `ik_llama_cpp/bin/llama-quantize` in an environment of its
own. It makes a file of each of its types with the imatrix of llama.cpp's side, in the imatrix format of old, and then
turns that file back into float32, which our meter reads: so its own decoder says what the weights are. The bytes are
those of the first file. Its type for the embedding is what it chooses itself. The trellis types (`_KT`) take long:
about an hour of processor time for IQ3_KT at 1.5 billion weights, where IQ3_K takes 3 minutes.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.artefacts import Shelf, name_of, sha256
from benchmarks.documents import Evaluation
from benchmarks.llama_cpp_tools import Tools
from benchmarks.meter import Meter
from smidgen.errors import SmidgenError
from smidgen.progress import say

TYPES = (
    "IQ2_KT", "IQ2_KS", "IQ2_K", "IQ2_KL", "IQ3_KT", "IQ3_KS", "IQ3_K", "IQ3_KL", "IQ4_KT", "IQ4_KSS", "IQ4_KS",
    "IQ4_K", "IQ5_KS", "IQ5_K", "IQ6_K",
)  # fmt: skip
_SLACK = 0.05  # how far below the smallest size and above the largest one a file may be to be measured
_QUANT_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MB")


class IkQuantizer:
    """Its llama-quantize with one imatrix on one model.

    imatrix: in the format of llama.cpp's today; rewritten here for this tool.
    """

    def __init__(self, quantize: Path, tools: Tools, original: Path, imatrix: Path, shelf: Shelf, threads: int) -> None:
        self._quantize, self._original, self._shelf, self._threads = quantize, original, shelf, threads
        self._log = shelf.folder / "ik-llama-quantize.log"
        self._imatrix = shelf.path("imatrix", ".dat", imatrix=sha256(imatrix), tool=tools.version())
        if not self._imatrix.exists():
            command = [tools.imatrix, "-m", original, "--in-file", imatrix, "--output-format", "dat"]
            record.run([*command, "-o", self._imatrix], self._log)

    def inputs(self, kind: str) -> dict[str, str]:
        """All that a file of this type depends on."""
        made_of = {"original": sha256(self._original), "imatrix": sha256(self._imatrix)}
        return {**made_of, "type": kind, "ik_llama.cpp": sha256(self._quantize)}

    def command(self) -> list[str | Path]:
        """The command that makes a file, but for where to, the type and the threads."""
        return [self._quantize, "--imatrix", self._imatrix, self._original]

    def expected_bytes(self, kind: str) -> int:
        """Size of the file that `made` would write, from the tool's dry run, without its header."""
        words = (self._quantize, "--dry-run", "--imatrix", self._imatrix, self._original, "none.gguf", kind)
        command = [str(word) for word in words]
        answer = subprocess.run(command, capture_output=True, text=True)
        found = _QUANT_SIZE.search(answer.stderr + answer.stdout)
        if answer.returncode or found is None:
            raise SmidgenError(f"{self._quantize} --dry-run failed for {kind}: {answer.stderr.strip()[-200:]}")
        return round(float(found[1]) * 2**20)

    def made(self, kind: str) -> Path:
        """The quantized model, which is kept."""
        path = self._shelf.path("ik_llama.cpp", ".gguf", **self.inputs(kind))
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            record.run([*self.command(), unfinished, kind, str(self._threads)], self._log)
            unfinished.replace(path)
        return path

    def decoded(self, path: Path) -> Path:
        """A file of `made` in float32, which the caller removes. One thread: some types have a scale for each row."""
        back = self._shelf.folder / "decoded.gguf"
        record.run([self._quantize, "--allow-requantize", path, back, "F32", "1"], self._log)
        return back


def chosen_types(names: str) -> list[str]:
    """Those of TYPES with these names, with commas between. Raises ValueError with the first that is none of them."""
    asked = names.split(",")
    if unknown := [name for name in asked if name not in TYPES]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(TYPES)}")
    return asked


def measured(
    quantizer: IkQuantizer, types: Sequence[str], sizes: Sequence[int], text: Evaluation, meter: Meter
) -> tuple[list[dict[str, Any]], list[str]]:
    """Those types whose files are about as large as these sizes, measured on a text.

    Also a sentence for each that failed. Files that are the same under two names count once: rows that a type does not
    fit get another type.
    """
    found: dict[tuple[int, float], dict[str, Any]] = {}
    failed = []
    for kind in types:
        try:
            if not (1 - _SLACK) * min(sizes) <= quantizer.expected_bytes(kind) <= (1 + _SLACK) * max(sizes):
                continue
            figures = _measured(quantizer, kind, text, meter)
        except SmidgenError as error:
            failed.append(f"ik_llama.cpp's quantizer failed for {kind}.")
            say(f"{failed[-1]} {error}")
            continue
        found.setdefault((figures["bytes"], figures["kl_mean"]), figures)
        say(f"{figures['bytes']:,} bytes, KL {figures['kl_mean']:.4f}: ik_llama.cpp {kind}")
    return list(found.values()), failed


def _measured(quantizer: IkQuantizer, kind: str, text: Evaluation, meter: Meter) -> dict[str, Any]:
    path = quantizer.made(kind)
    key = f"ik_llama.cpp {name_of(**quantizer.inputs(kind), ids=text.windows.rows())}"
    if key not in meter.known:
        back = quantizer.decoded(path)
        meter.remember(key, meter.by_article(back, text, f"ik_llama.cpp {kind}"))
        back.unlink()
    command = record.shown([*quantizer.command(), "quantized.gguf", kind])
    return {"engine": f"ik_llama.cpp {kind}", "file": path.name, "bytes": path.stat().st_size, "command": command,
            **meter.known[key]}  # fmt: skip
