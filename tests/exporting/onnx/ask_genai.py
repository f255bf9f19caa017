"""Run by a Python that has onnxruntime-genai: what it makes of exported models. JSON in, JSON out.

It is given {"folder", "ids", "prompt", "texts"}; its answer is {"logits", "encoded", "readme"}: the logits after
the first `prompt` tokens and after each of the others, the texts' tokens, and what the program in README.md prints.
"""

import json
import os
import re
import sys

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    asked = json.load(sys.stdin)
    model = og.Model(asked["folder"])
    tokenizer = og.Tokenizer(model)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(asked["ids"]) + 1)
    generator = og.Generator(model, parameters)
    ids, first, logits = asked["ids"], asked["prompt"], []
    for part in [ids[:first], *([token] for token in ids[first:])]:
        generator.append_tokens(np.array(part, np.int32))
        logits.append(np.array(generator.get_logits()).reshape(-1).tolist())
    os.chdir(asked["folder"])
    with open("README.md", encoding="utf-8") as file:
        program = re.search("```python\n(.*?)```", file.read(), re.DOTALL)
    assert program is not None
    printed: list[str] = []
    exec(program[1], {"print": printed.append})
    answer = {
        "logits": logits, "encoded": [list(map(int, tokenizer.encode(text))) for text in asked["texts"]],
        "readme": printed,
    }  # fmt: skip
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
