"""The commands on the real small models."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models

PROMPT = "The capital of France is"
RAW = "Continuing the text, by --raw.\n"


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
    done = run_smidgen("run", name, PROMPT, "--temperature", "0", "-n", "48", "--threads", "1", "--json", "--raw")
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["mode"] == "raw"
    assert result["text"] == direct_greedy(path, PROMPT, 48)
    assert result["generated_tokens"] == 48
    assert result["prompt_tokens"] == (6 if name.startswith("gemma") else 5)  # Gemma's with one BOS
    assert result["tokens_per_s"] > 0
    assert result["stop"] == "max_tokens"


def test_run_reads_stdin_and_streams_text(run_smidgen, smollm_path: Path) -> None:
    words = ["run", str(smollm_path), "-", "--raw", "--temperature", "0", "-n", "2", "--threads", "1"]
    for ending in ("", "\n", "\r\n"):
        done = run_smidgen(*words, stdin=b"\xef\xbb\xbf" + PROMPT.encode() + ending.encode())
        assert (done.returncode, done.stdout, done.stderr) == (0, " Paris.\n", RAW)


QUESTION = "What is the capital of France?"
BRIEF = ["--temperature", "0", "-n", "8", "--threads", "1"]


def test_run_answers_where_there_is_a_chat_template(run_smidgen) -> None:
    done = run_smidgen("run", "smollm2-135m-instruct", QUESTION, *BRIEF)
    written_out = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    raw = run_smidgen("run", "smollm2-135m-instruct", written_out, "--raw", *BRIEF)
    assert done.stdout == raw.stdout != "\n" and raw.stderr == RAW
    assert done.stderr == "Answering as a chat model; --raw continues the text.\n"
    quiet = run_smidgen("run", "smollm2-135m-instruct", QUESTION, *BRIEF, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
    answer = run_smidgen("run", "smollm2-135m-instruct", QUESTION, *BRIEF, "--json", "--system", "Be kind.")
    result = json.loads(answer.stdout)
    assert (result["mode"], answer.stderr) == ("chat", "")
    assert result["text"] != done.stdout.strip() and result["stop"] in ("end", "max_tokens")


def test_run_continues_text_with_a_base_model_and_says_so(run_smidgen) -> None:
    done = run_smidgen("run", "gemma-3-270m", PROMPT, *BRIEF)
    assert done.returncode == 0 and done.stdout.strip()
    assert done.stderr == "Continuing the text: this model has no chat template.\n"
    refused = run_smidgen("run", "gemma-3-270m", PROMPT, "--system", "Be kind.")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "base model" in refused.stderr and "without --system" in refused.stderr


@pytest.mark.parametrize("words", [["--raw", "--system", "Be kind."], ["--raw", "--template", "default"]])
def test_text_as_it_is_has_no_system_message_and_no_template(run_smidgen, words: list[str]) -> None:
    done = run_smidgen("run", "smollm2-135m-instruct", "Hi", *words)
    assert (done.returncode, done.stdout) == (2, "") and words[1] in done.stderr


def test_a_system_message_without_a_role_for_it_is_part_of_the_question(run_smidgen, tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    tiny_models.write_gemma3(tmp_path / "tiny.gguf", {"tokenizer.chat_template": template})
    done = run_smidgen("run", "tiny.gguf", "Hi", "--system", "Be kind.", *BRIEF)
    assert done.returncode == 0 and "no system role" in done.stderr
    result = json.loads(run_smidgen("run", "tiny.gguf", "Hi", "--system", "Be kind.", *BRIEF, "--json").stdout)
    assert result["prompt_tokens"] == len("\u2581Be kind.\n\nHi") + 1  # each letter a token of its own, after BOS


def test_run_refuses_a_prompt_longer_than_the_context(run_smidgen) -> None:
    words = ["run", "smollm2-135m-instruct", "word " * 100, "--ctx-size", "32", "--threads", "1"]
    for more, tokens in ((["--raw"], 101), ([], 131)):
        done = run_smidgen(*words, *more)
        assert (done.returncode, done.stdout) == (2, "")
        for part in (f"{tokens} tokens", "context of 32", "--ctx-size"):
            assert part in done.stderr


def test_run_says_that_the_context_is_full(run_smidgen) -> None:
    words = [
        "run",
        "smollm2-135m-instruct",
        PROMPT,
        "--raw",
        "--ctx-size",
        "16",
        "--threads",
        "1",
        "--temperature",
        "0",
    ]
    assert "the context of 16 tokens is full" in run_smidgen(*words).stderr
    assert run_smidgen(*words, "--quiet").stderr == ""


def test_run_says_that_its_own_limit_ended_a_text(run_smidgen, tmp_path: Path) -> None:
    tiny_models.write_gemma3(tmp_path / "tiny.gguf")
    words = ["run", "tiny.gguf", "Hi", "--threads", "1", "--temperature", "0"]
    assert "stopped after 256 tokens; --max-tokens N" in run_smidgen(*words).stderr
    assert "stopped after" not in run_smidgen(*words, "-n", "4").stderr


def test_a_question_of_nothing_is_refused(run_smidgen) -> None:
    done = run_smidgen("run", "smollm2-135m-instruct", stdin="\n")
    assert (done.returncode, done.stdout) == (2, "") and "the prompt is empty" in done.stderr


def test_chat_takes_the_lines_of_a_pipe_one_by_one(run_smidgen) -> None:
    lines = "Name a colour.\n/etc/hosts is no command.\n/clear\n\nWhy that one?\n/bye\nnever answered\n"
    words = ["chat", "smollm2-135m-instruct", "--temperature", "0", "-n", "12", "--threads", "1"]
    done = run_smidgen(*words, stdin=lines)
    assert (done.returncode, done.stderr) == (0, "The conversation starts over.\n")
    assert len([line for line in done.stdout.splitlines() if line.strip()]) >= 3


def test_chat_keeps_a_conversation(run_smidgen, tmp_path: Path) -> None:
    tiny_models.write_gemma3(tmp_path / "tiny.gguf", {"tokenizer.chat_template": "{{ messages[-1].content }}"})
    words = ["chat", "tiny.gguf", "-n", "4", "--threads", "1", "--temperature", "0", "--system", "Be kind."]
    done = run_smidgen(*words, stdin='"""\ndef f():\n    pass\n"""\n/stats\n/save talk.json\n')
    assert done.returncode == 0 and "Last answer: 4 tokens" in done.stderr and "of 4096 tokens used" in done.stderr
    saved = json.loads((tmp_path / "talk.json").read_text("utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["messages"][1]["content"] == "def f():\n    pass" and saved["model"] == "tiny.gguf"
    again = run_smidgen(*words, stdin="/load talk.json\n/save talk.json\n")
    assert (again.returncode, again.stdout) == (2, "") and "there already" in again.stderr


def test_models_and_inspect(run_smidgen) -> None:
    listed = json.loads(run_smidgen("models", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == ["gemma-3-270m", "smollm2-135m-instruct", "qwen2.5-coder-1.5b"]
    facts = json.loads(run_smidgen("inspect", "gemma-3-270m", "--json").stdout)
    assert facts["parameters"] == 268_098_176
    assert sum(share["parameters"] for share in facts["parts"].values()) == facts["parameters"]
    assert "tied to the embedding" in run_smidgen("inspect", "gemma-3-270m").stdout


@pytest.mark.parametrize(
    ("option", "value"), [("--grid", "nan"), ("--grid", "-1"), ("--seconds", "1"), ("--seconds", "nan")]
)
def test_bench_refuses_times_and_grids_that_are_none(run_smidgen, option: str, value: str) -> None:
    done = run_smidgen("bench", "smollm2-135m-instruct", option, value)
    assert (done.returncode, done.stdout) == (2, "") and option.strip("-") in done.stderr


def test_bench_compares_two_models(run_smidgen) -> None:
    words = ["bench", "smollm2-135m-instruct", "--vs", "smollm2-135m-instruct", "--threads", "1", "--repeats", "1"]
    done = run_smidgen(*words, "--seconds", "10", "--grid", "400", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    for model in json.loads(done.stdout)["models"]:
        assert model["name"] == "smollm2-135m-instruct" and "path" not in model  # people publish these figures
        if model["reason"] is None:  # else this machine is too busy to tell
            assert model["decode_tokens_per_s"] > 0 and model["prompt_tokens_per_s"] > 0
            assert model["energy"]["decode"]["cpu_seconds_per_token"] > 0
        else:
            assert model["decode_tokens_per_s"] is None and "too busy" in model["reason"]
        assert model["busy"].keys() == {"share", "others", "spread", "load", "sentence"}
        assert model["energy"]["co2"]["grid_grams_per_kwh"] == 400
        assert 98_000_000 < model["resident_bytes"] <= model["peak_ram_bytes"] < 600_000_000
        assert sum(model["resident_parts"].values()) == model["resident_bytes"]
        assert model["bytes_per_token"] < 98_362_432
        assert model["energy"]["joules_per_token"] is not None or model["energy"]["reason"]
