"""The examples of docs/clients.md, run as they stand there against `smidgen serve`, with the versions of the clients.

    python -m venv OTHER && OTHER/bin/pip install openai langchain-openai llm "lm-eval[api]" transformers
    python -m benchmarks.clients --python OTHER/bin/python

The Python examples, and the commands of llm and lm_eval, in an empty folder with the files that the page shows, and
with the address that the server has got. The page's models are served, since the examples name them. Exit code 1 if one
of them fails. What the model answers is not judged.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import record
from benchmarks.serving_clients import smidgen_serve

PAGE = record.REPOSITORY / "docs" / "clients.md"
MODEL, WITH_TOOLS, ADDRESS = "smollm2-135m-instruct", "qwen2.5-coder-1.5b", "http://127.0.0.1:8080"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PACKAGES = ("openai", "langchain-openai", "llm", "lm-eval")
_QUESTION = {"question": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0}


def examples(page: str, address: str) -> Iterator[tuple[str, list[str]]]:
    """The examples as commands, each under a name; a word "python" is the one of the clients."""
    blocks = [(kind, text.replace(ADDRESS, address)) for kind, text in _BLOCK.findall(page)]
    for number, text in enumerate((text for kind, text in blocks if kind == "python"), 1):
        yield f"Python example {number}", ["python", "-c", text]
    commands = "\n".join(text for kind, text in blocks if kind == "").replace("\\\n", " ")
    for line in commands.splitlines():
        if "llm -m" in line or line.startswith("lm_eval"):
            yield " ".join(line.rpartition(" | ")[2].partition('"')[0].split()[:6]), ["sh", "-c", line]


def prepare(folder: Path, page: str, address: str) -> None:
    """The files that the examples read."""
    of_llm, task = [text.replace(ADDRESS, address) for kind, text in _BLOCK.findall(page) if kind == "yaml"][:2]
    (folder / "extra-openai-models.yaml").write_text(of_llm)
    (folder / "notes.txt").write_text("The meeting is at ten.\n")
    (folder / "mine.jsonl").write_text(json.dumps(_QUESTION) + "\n")
    (folder / "mine.yaml").write_text(task)
    said = task.replace("task: mine", "task: said").replace("multiple_choice", "generate_until")
    said = re.sub(r"(?m)^doc_to_choice.*\n", "", said).replace('"{{answer}}"', '"{{choices[answer]}}"')
    (folder / "said.yaml").write_text(said.replace("metric: acc", "metric: exact_match"))
    subprocess.run(record.smidgen("export", MODEL, "--to", "hf", "-o", folder / "smollm2-hf", "-q"), check=True)


def run(python: Path) -> dict[str, Any]:
    """Every example: whether it ended well, and its seconds."""
    page = PAGE.read_text(encoding="utf-8")
    listing = "import json, sys; from importlib.metadata import version\n"
    listing += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    versions = subprocess.run([python, "-c", listing, *_PACKAGES], check=True, capture_output=True, text=True).stdout
    done = []
    with TemporaryDirectory() as place, smidgen_serve(MODEL, WITH_TOOLS) as (_, address):
        prepare(Path(place), page, address)
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LLM_USER_PATH": place}
        environment = os.environ | offline | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        for name, words in examples(page, address):
            started = time.perf_counter()
            command = [str(python) if word == "python" else word for word in words]
            ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
            seconds = round(time.perf_counter() - started, 1)
            works = ended.returncode == 0 and bool(ended.stdout.strip())
            done.append({"example": name, "works": works, "seconds": seconds})
            if not works:
                print(f"{name}: code {ended.returncode}\n{ended.stderr[-2000:]}", file=sys.stderr)
    return {**record.facts(), "models": [MODEL, WITH_TOOLS], "clients": json.loads(versions), "examples": done}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has the clients")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "clients.json")
    options = parser.parse_args(arguments)
    result = run(options.python.absolute())
    record.save(options.output, result)
    rows = [(one["example"], "yes" if one["works"] else "no", one["seconds"]) for one in result["examples"]]
    print(record.table(("example", "works", "seconds"), rows))
    if not all(one["works"] for one in result["examples"]):
        sys.exit("an example does not work")


if __name__ == "__main__":
    main()
