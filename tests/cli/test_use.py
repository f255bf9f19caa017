"""The commands on the real small models."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PROMPT = "The capital of France is"


xllamacpp: Any = import_module("xllamacpp")


def direct_greedy(path: Path, prompt: str, tokens: int) -> str:
    """llama.cpp's own greedy continuation, without any of our code."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.verbosity, params.warmup = 512, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": prompt, "max_tokens": tokens, "temperature": 0})
    return answer["choices"][0]["text"]


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_greedy_run_equals_llama_cpp(run_smidgen, request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue("gemma_path" if name.startswith("gemma") else "smollm_path")
    done = run_smidgen("run", name, PROMPT, "--temperature", "0", "-n", "48", "--threads", "1", "--json")
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["text"] == direct_greedy(path, PROMPT, 48)
    assert result["generated_tokens"] == 48
    assert result["prompt_tokens"] == (6 if name.startswith("gemma") else 5)  # Gemma's with one BOS
    assert result["tokens_per_s"] > 0
    assert result["stop"] == "max_tokens"


def test_run_reads_stdin_and_streams_text(run_smidgen, smollm_path: Path) -> None:
    done = run_smidgen("run", str(smollm_path), "-", "--temperature", "0", "-n", "2", "--threads", "1", stdin=PROMPT)
    assert (done.returncode, done.stdout, done.stderr) == (0, " Paris.\n", "")


def test_run_refuses_a_prompt_longer_than_the_context(run_smidgen) -> None:
    done = run_smidgen("run", "smollm2-135m-instruct", "word " * 100, "--ctx-size", "32", "--threads", "1")
    assert (done.returncode, done.stdout) == (2, "")
    for part in ("101 tokens", "context of 32", "--ctx-size"):
        assert part in done.stderr


def test_run_says_that_the_context_is_full(run_smidgen) -> None:
    words = ["run", "smollm2-135m-instruct", PROMPT, "--ctx-size", "16", "--threads", "1", "--temperature", "0"]
    assert "the context of 16 tokens is full" in run_smidgen(*words).stderr
    assert run_smidgen(*words, "--quiet").stderr == ""


def test_chat_remembers_and_resets(run_smidgen) -> None:
    lines = "Name a colour.\nWhy that one?\n/reset\nWhy that one?\n/exit\nnever answered\n"
    words = ["chat", "smollm2-135m-instruct", "--temperature", "0", "-n", "12", "--threads", "1"]
    done = run_smidgen(*words, stdin=lines)
    assert done.returncode == 0
    assert done.stderr == "The conversation starts over.\n"
    _, remembered, forgotten = done.stdout.splitlines()
    assert remembered != forgotten


def test_models_and_inspect(run_smidgen) -> None:
    listed = json.loads(run_smidgen("models", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == ["gemma-3-270m", "smollm2-135m-instruct", "qwen2.5-coder-1.5b"]
    facts = json.loads(run_smidgen("inspect", "gemma-3-270m", "--json").stdout)
    assert facts["parameters"] == 268_098_176
    assert sum(share["parameters"] for share in facts["parts"].values()) == facts["parameters"]
    assert "tied to the embedding" in run_smidgen("inspect", "gemma-3-270m").stdout


def test_bench_compares_two_models(run_smidgen) -> None:
    words = ["bench", "smollm2-135m-instruct", "--vs", "smollm2-135m-instruct", "--threads", "1", "--repeats", "1"]
    done = run_smidgen(*words, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    for model in json.loads(done.stdout)["models"]:
        assert model["name"] == "smollm2-135m-instruct" and "path" not in model  # people publish these figures
        assert model["decode_tokens_per_s"] > 0 and model["prompt_tokens_per_s"] > 0
        assert 98_000_000 < model["resident_bytes"] <= model["peak_ram_bytes"] < 600_000_000
        assert sum(model["resident_parts"].values()) == model["resident_bytes"]
        assert model["bytes_per_token"] < 98_362_432
        assert model["energy"]["joules_per_token"] is not None or model["energy"]["reason"]
