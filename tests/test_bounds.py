"""Options from Python that are out of range: one sentence for each, from every verb, and nothing written."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.bounds import one_of, several, within
from smidgen.errors import SmidgenError
from tests.tiny_models import write_llama

# In a process of its own: here, the checks of types that tests run under would come first.
_TABLE = """
import json, math, sys
from pathlib import Path
import smidgen
from smidgen.distillation.objectives.losses import Divergence
from smidgen.distillation.objectives.matching import MatchingOptions
from smidgen.distillation.students.fresh import FreshShape
from smidgen.distillation.students.lora import LoraOptions
from smidgen.errors import SmidgenError
from smidgen.training.collect import collect
from smidgen.training.distill import distill_together
from smidgen.training.tune import tune_together

nan, inf = math.nan, math.inf
counts = [0, -1, nan, 1.5, True, "many", 10**30]
shares = [-0.5, 1.5, nan, inf, "much", True]
threads = [0, -1, 513, nan, "all"]
model, out, files = "tiny.gguf", "out", ["examples.jsonl"]

def tune(**given): smidgen.tune(model, files, out, **given)
def distill(**given): smidgen.distill(model, None, out, **{"steps": 1, "texts": "text.txt", **given})
def measure(**given):
    smidgen.measure(model, model, with_speed=False, output="out.json", **{"texts": "text.txt", **given})
def cut(**given): smidgen.cut(model, out, **{"fit": "1MB", "texts": "text.txt", **given})
def serve(**given): smidgen.serve(model, **given)
def lora(**given): tune(lora=LoraOptions(**given))
def shape(**given): distill(shape=FreshShape(**given))
def divergence(**given): distill(divergence=Divergence(**given))
def matching(**given): distill(matching=MatchingOptions(**given))
def data(**given): collect(model, **{"sources": "text.txt", "output": out, **given})
def export(**given): smidgen.export(model, **{"to": "hf", "output": out, **given})
def load(**given):
    with smidgen.load(model, **given) as loaded:
        loaded.generate("a", max_tokens=1)
def tune_in_many(workers): tune_together(model, [Path(files[0])], Path(out), smidgen.TuneOptions(), workers)
def distill_in_many(workers): distill_together(model, None, Path(out), smidgen.DistillOptions(1), workers)
def generate(**given):
    with smidgen.load(model) as loaded:
        loaded.generate("a", **given)

table = {
    tune: {"steps": counts, "batch": counts, "context": [7, *counts], "epochs": [0, -1, nan, inf, "all"],
           "learning_rate": [0, -1e-4, nan, inf, 2, "quick"], "held_out": shares, "seed": [-1, nan, 2**31],
           "threads": threads},
    lora: {"rank": counts, "alpha": [0, -1, nan, inf], "dropout": [1, *shares],
           "targets": ["nothing", ["gate", "x"], 5]},
    distill: {"steps": counts, "batch": counts, "context": [1, *counts], "checkpoint_every": counts,
              "learning_rate": [0, -1, nan, inf], "on_policy": shares, "seed": [-1, nan, 2**31], "threads": threads,
              "optimizer": ["sgd", None, 3], "schedule": ["sawtooth", None], "beginning": ["middle", None],
              "texts": [["text.txt", 5], 5, "missing.txt", b"text.txt"], "data": [5, ["missing.jsonl"]]},
    shape: {"layers": counts, "width": counts, "ffn": counts, "heads": counts, "kv_heads": counts},
    divergence: {"beta": [0, 1, nan], "temperature": [0, -1, nan, inf], "hard": [-1, 2, nan], "kind": ["sideways"]},
    matching: {"hidden": [-1, nan, inf], "relations": [-1, nan, inf]},
    measure: {"tokens": [0, -1, 63, nan, "all"], "seed": [-1, nan], "threads": threads, "languages": ["xx", ["xx"], 5],
              "texts": ["missing.txt", 5, [5]]},
    cut: {"tokens": [0, -1, nan, "all"], "seed": [-1, nan, 2**63], "threads": threads, "fit": [0, -1, nan, "big", True],
          "ram": [0, nan], "speed": [0, -1, nan, inf, "fast"], "layers": counts, "vocabulary": counts, "ffn": counts,
          "languages": ["xx", 5], "types": ["Q9", 5], "steps": ["sleep", 5], "heal": [0, -5, nan, "soon"],
          "texts": [5, [5], "missing.txt"]},
    serve: {"port": [-1, 70000, nan, "http"], "parallel": [0, -1, nan, 10**6], "threads": threads,
            "ctx_size": [0, -1, True]},
    data: {"sources": [[], 5, [5], "missing.txt"]},
    export: {"to": ["onyx", None, 5], "dtype": ["int8", 5]},
    load: {"ctx_size": [0, -1, True, 10**9], "threads": threads[:3]},
    tune_in_many: {"workers": [0, -1, nan, 10**6]},
    distill_in_many: {"workers": [0, -1, nan, 10**6]},
    generate: {"max_tokens": [0, -1], "temperature": [-1, nan], "top_k": [-1], "top_p": [2, nan], "seed": [-1, 2**40]},
}
wrong = []
one = smidgen.DistillOptions(1, texts="text.txt", data="corpus")
if (one.texts, one.data) != (("text.txt",), (Path("corpus"),)):
    wrong.append("one text of distill is taken apart")
one = smidgen.CutOptions.of(fit=1e6, texts=Path("text.txt"), languages="de", types="Q8_0", heal=50000)
if (one.fit, one.texts, one.languages, one.types, one.heal) != (10**6, ("text.txt",), ("de",), ("Q8_0",), "50000"):
    wrong.append("one text of cut is taken apart")
for verb, options in table.items():
    for name, values in options.items():
        for value in values:
            try:
                verb(**{name: value})
                wrong.append(f"{verb.__name__} {name}={value!r}: nothing was said")
            except SmidgenError as error:
                if "\\n" in str(error):
                    wrong.append(f"{verb.__name__} {name}={value!r}: {error}")
            except BaseException as error:
                wrong.append(f"{verb.__name__} {name}={value!r}: {type(error).__name__}: {error}")
print(json.dumps(wrong))
"""


def test_every_verb_refuses_what_is_out_of_range_in_a_sentence(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    (tmp_path / "text.txt").write_text("the moon has risen and the golden stars are shining " * 60)
    (tmp_path / "examples.jsonl").write_text('{"text": "the moon has risen"}\n' * 8)
    there = sorted(tmp_path.iterdir())
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "SMIDGEN_HOME": str(tmp_path.parent / "home")}
    done = subprocess.run(
        [sys.executable, "-c", _TABLE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("value", [0, 11, 1.5, math.nan, math.inf, True, "5", [5], b"5"])
def test_a_count_is_a_whole_number_within_its_bounds(value: object) -> None:
    with pytest.raises(SmidgenError, match=r"^steps is .*; it must be a whole number from 1 to 10\.$"):
        within("steps", value, 1, 10)


def test_what_is_within_its_bounds_passes() -> None:
    for value in (1, 10, None):
        within("steps", value, 1, 10)
    for value in (0, 0.5, 1.0):
        within("share", value, 0, 1, whole=False)
    with pytest.raises(SmidgenError, match="share is nan; it must be a number from 0 to 1"):
        within("share", math.nan, 0, 1, whole=False)


def test_one_text_is_not_its_letters() -> None:
    assert several("texts", "de") == ("de",)
    assert several("texts", Path("de")) == (Path("de"),)
    assert several("texts", ["a", Path("b")]) == ("a", Path("b"))
    assert several("texts", None) == several("texts", ()) == ()
    for wrong in (5, ["a", 5], b"de"):
        with pytest.raises(SmidgenError, match="texts has"):
            several("texts", wrong)


def test_choices_are_named() -> None:
    one_of("optimizer", "muon", ("adamw", "muon"))
    with pytest.raises(SmidgenError, match="optimizer is 'sgd'; choose from adamw, muon"):
        one_of("optimizer", "sgd", ("adamw", "muon"))
