"""The process that scores prompts: `python -m smidgen.serving.answers.scoring_child`, started by scorer.py.

stdin has one line of JSON with the settings, then one for each request; each is answered on stdout by its size in bytes
on a line, and so many bytes of JSON. The end of stdin, which comes with the end of the server however it ends, ends
this process at once, whatever it is doing.
"""

import json
import os
import queue
import sys
import threading
from typing import IO, Any

from smidgen.engines.llama_cpp.child import be_the_first_to_go, limit_private_memory, take_stdout
from smidgen.engines.token_scores import TokenScores, score_tokens
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.opening import open_checkpoint
from smidgen.memory import usable_memory

_MEMORY_SHARE = 0.5  # of what this machine has, or this container may use: llama.cpp has the model in memory, too


def main() -> None:
    """Answer one request after the other until the server lets go."""
    answers = take_stdout()
    be_the_first_to_go()
    limit_private_memory(int(_MEMORY_SHARE * usable_memory()))
    lines = queue.Queue[str]()
    threading.Thread(target=_read, args=[lines], daemon=True).start()
    settings = json.loads(lines.get())
    try:
        with open_checkpoint(settings["path"]) as checkpoint:
            engine = TorchEngine(checkpoint, settings["threads"], kv=settings["kv"])
            while True:
                _answer(answers, _scores(engine, **json.loads(lines.get())))
    except SmidgenError as error:
        status = 501 if isinstance(error, Unsupported) else 503
        _answer(answers, _refused(f"prompts cannot be scored with this model: {error}", status))
    except (MemoryError, RuntimeError):  # torch's word for memory that it did not get
        _answer(answers, _refused("there is not enough memory to score these prompts; send fewer at a time.", 503))


def _read(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _scores(engine: TorchEngine, texts: list[list[int]], alternatives: int) -> dict[str, Any]:
    size = engine.config.vocabulary
    if any(token >= size for text in texts for token in text):
        return _refused(f"a prompt of token ids needs integers from 0 to {size - 1}.", 400)
    return {"scores": [_as_json(one) for one in score_tokens(engine, texts, alternatives)]}


def _as_json(scores: TokenScores) -> dict[str, Any]:
    top = [list(zip(*one, strict=True)) for one in zip(scores.top.tolist(), scores.top_values.tolist(), strict=True)]
    return {"own": scores.own.tolist(), "top": top}


def _refused(message: str, status: int) -> dict[str, Any]:
    return {"refused": message, "status": status}


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    text = json.dumps(answer)  # ASCII: as many bytes as characters
    answers.write(f"{len(text)}\n{text}")
    answers.flush()


if __name__ == "__main__":
    main()
