"""What OpenVINO GenAI makes of exported folders, in a process of its own. JSON in, JSON out.

A process of pytest-xdist in which it had run ended at the next SIGINT, although Python had a handler for it.

It is given {"folder", "rows", "new", "settings"}, and answers {"written"}: for each of the settings the tokens that it
writes after each row. Or it is given {"folder", "texts"}, and answers {"encoded", "decoded", "chat"}.
"""

import json
import sys
from typing import Any

modules: dict[str, Any] = sys.modules
modules["openvino_telemetry"] = None  # else the import is reported to Google Analytics

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402


def written(folder: str, rows: list[list[int]], new: int, settings: dict[str, str]) -> list[list[int]]:
    pipeline = genai.LLMPipeline(folder, "CPU", **settings)
    wanted = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
    return [pipeline.generate(ov.Tensor(np.array([row], np.int64)), wanted).tokens[0] for row in rows]


def read(folder: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = genai.Tokenizer(folder)
    encoded = [tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist() for text in texts]
    decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], True)
    return {"encoded": encoded, "decoded": decoded, "chat": chat}


def main() -> None:
    asked = json.load(sys.stdin)
    if "texts" in asked:
        answer = read(asked["folder"], asked["texts"])
    else:
        each = asked["settings"]
        answer = {"written": [written(asked["folder"], asked["rows"], asked["new"], settings) for settings in each]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
