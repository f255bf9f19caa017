"""AutoRound's GGUF file of a model, to be measured beside smidgen's and llama.cpp's.

    smidgen export original.gguf --to hf -o original-hf
    python -m benchmarks.autoround original-hf learned.txt autoround.gguf --python OTHER/bin/python [--scheme Q4_K_M]
    python -m benchmarks.quality_vs_llama_cpp … --file "AutoRound Q4_K_M=autoround.gguf"

`auto-round` (Apache 2.0) lives in an environment of its own, with torch for CPUs, `gguf` and `sentencepiece`. It
calibrates on the text that both sides learned from (learned-….txt in the work folder of quality_vs_llama_cpp.py), in
windows of 512 tokens.
`--iterations 0` is what its authors recommend for GGUF: rounding with an importance matrix of its own. More iterations
are its signed gradient descent (arXiv:2309.05516), which takes hours on a CPU. Nothing is downloaded.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options as shared
from benchmarks import record
from smidgen.errors import SmidgenError

# Runs in the other environment.
_AUTOROUND = """
import sys, torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer
source, text, output, scheme, iterations, tokens, threads, seed = sys.argv[1:]
torch.set_num_threads(int(threads))
tokenizer = AutoTokenizer.from_pretrained(source)
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
with open(text, encoding="utf-8") as stream:
    ids = tokenizer(stream.read(), add_special_tokens=False)["input_ids"][: int(tokens)]
first = tokenizer("")["input_ids"]  # BOS, where the model has one
room = 512 - len(first)
rows = [torch.tensor([first + ids[at : at + room]]) for at in range(0, len(ids) - room + 1, room)]
data = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
method = AutoRound(model, tokenizer, scheme="GGUF:" + scheme, dataset=data, iters=int(iterations), nsamples=len(data),
                   seqlen=512, batch_size=4, amp=False, device_map="cpu", seed=int(seed))
method.quantize_and_save(output, format="gguf:" + scheme.lower())
"""


def made(options: argparse.Namespace, folder: Path) -> record.Run:
    """Have the file written to `options.destination`."""
    arguments = (options.scheme, options.iterations, options.tokens, options.threads, options.seed)
    command = [options.python, "-c", _AUTOROUND, options.source, options.text, folder, *map(str, arguments)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    cost = record.run(command, options.destination.with_suffix(".log"), offline)
    files = list(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise SmidgenError(f"AutoRound wrote {len(files)} GGUF files, one was expected.")
    shutil.move(files[0], options.destination)
    return cost


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder in Hugging Face layout")
    parser.add_argument("text", type=Path, help="to calibrate on")
    parser.add_argument("destination", type=Path, help="GGUF file to write")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with auto-round")
    parser.add_argument("--scheme", default="Q4_K_M", help="one of its GGUF schemes")
    parser.add_argument("--iterations", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    shared.add_tokens(parser, 16_384, "of calibration")
    shared.add_seed(parser)
    options = parser.parse_args(arguments)
    with shared.work_folder("autoround", options.destination.parent) as folder:
        cost = made(options, folder)
    print(
        f"{options.destination}: {options.destination.stat().st_size:,} bytes, {cost.cpu_seconds:.0f} processor seconds"
    )


if __name__ == "__main__":
    main()
