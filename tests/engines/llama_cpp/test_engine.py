"""The llama.cpp engine: exact prompts, honest limits, clean ends."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.engines.llama_cpp.engine import Facts, LlamaCppEngine, Sampling, choose_context, require_chat_template
from smidgen.engines.llama_cpp.writer import LlamaCppWriter
from smidgen.errors import SmidgenError, Unsupported
from tests import tiny_models

GREEDY = Sampling(temperature=0)
CONTEXT = 128


@pytest.fixture(scope="module")
def smollm(smollm_path: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(smollm_path, CONTEXT, threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def gemma(gemma_path: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(gemma_path, CONTEXT, threads=1) as engine:
        yield engine


def test_exactly_one_bos(gemma: LlamaCppEngine, smollm: LlamaCppEngine) -> None:
    assert gemma.tokenize("Hi") == gemma.tokenize("<bos>Hi") == [2, 10979]
    assert gemma.stream("<bos>Hi", 1, GREEDY).prompt_tokens == 2
    assert smollm.tokenize("Hi") == [26843]  # its file says: no BOS


def test_counts_and_reasons(smollm: LlamaCppEngine) -> None:
    reply = smollm.stream("The capital of France is", 4, GREEDY)
    assert reply.stop is None
    assert reply.text() == " Paris.\n\n"
    assert (reply.prompt_tokens, reply.generated_tokens, reply.stop) == (5, 4, "max_tokens")
    assert reply.tokens_per_s is not None and reply.tokens_per_s > 0

    stopped = smollm.stream("The capital of France is", 20, Sampling(temperature=0, stop=(".",)))
    assert (stopped.text(), stopped.stop) == (" Paris", "stop_text")


def test_token_ids_and_text_are_the_same_prompt(smollm: LlamaCppEngine) -> None:
    ids = smollm.tokenize("Once upon a time")
    assert smollm.stream(ids, 8, GREEDY).text() == smollm.stream("Once upon a time", 8, GREEDY).text()


def test_seed_fixes_the_draw(smollm: LlamaCppEngine) -> None:
    drawn = [smollm.stream("Once upon a time", 12, Sampling(temperature=2.0, seed=seed)).text() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_last_place_of_the_context_is_used_and_no_more(smollm: LlamaCppEngine) -> None:
    ids = smollm.tokenize("word " * CONTEXT)
    reply = smollm.stream(ids[: CONTEXT - 1], 5, GREEDY)
    reply.text()
    assert (reply.generated_tokens, reply.stop) == (1, "context")
    with pytest.raises(SmidgenError, match=f"{CONTEXT} tokens: no room in a context of {CONTEXT}.*--ctx-size"):
        smollm.stream(ids[:CONTEXT], 5, GREEDY)
    with pytest.raises(SmidgenError, match="empty"):
        smollm.stream("", 5)


def test_a_full_context_in_the_middle_of_a_character_is_no_error(tmp_path: Path) -> None:
    """What a model of single bytes wrote has more tokens when it is read anew, and no room to ask for its end again."""
    with LlamaCppEngine(tiny_models.write_llama(tmp_path / "bytes.gguf"), 2 * CONTEXT, threads=1) as engine:
        for seed in (7, 14, 20, 21):
            reply = engine.stream("Once", None, Sampling(temperature=0.8, top_p=0.95, seed=seed))
            assert reply.text() and reply.stop in ("context", "end")


def test_chat_uses_the_models_template(smollm: LlamaCppEngine) -> None:
    reply = smollm.chat([{"role": "user", "content": "Hi"}], 4, GREEDY)
    written_out = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert reply.prompt_tokens == len(smollm.tokenize(written_out))
    assert reply.text() == smollm.stream(written_out, 4, GREEDY).text()


def test_a_reply_ends_at_every_end_token(tmp_path: Path) -> None:
    """Also at those for which GGUF has no key, which llama.cpp passes over."""
    plain = tiny_models.write_gemma3(tmp_path / "plain.gguf")
    with LlamaCppEngine(plain, 256, threads=1) as engine:
        written = engine._server.call(  # pyright: ignore[reportPrivateUsage]
            "/completion", {"prompt": [2, 50, 60], "n_predict": 8, "temperature": 0, "return_tokens": True}
        )["tokens"]
    end = written[3]
    ending = tiny_models.write_gemma3(tmp_path / "ending.gguf", {"tokenizer.smidgen.end_ids": [end]})
    with LlamaCppEngine(ending, 256, threads=1) as engine:
        reply = engine.stream([2, 50, 60], 8, GREEDY)
        reply.text()
        assert (reply.stop, reply.generated_tokens) == ("end", written.index(end) + 1)
    with LlamaCppWriter(ending, 256, threads=1) as writer:
        (tokens,) = writer.write([[2, 50, 60]], [8], seed=0, temperature=0)
        assert tokens == written[: written.index(end) + 1]


def test_a_base_model_does_not_chat(gemma: LlamaCppEngine) -> None:
    with pytest.raises(Unsupported, match="smidgen run"):
        gemma.chat([{"role": "user", "content": "Hi"}])


def test_an_engine_closes_in_the_middle_of_a_reply_and_gives_ctrl_c_back(smollm_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with LlamaCppEngine(smollm_path, 2048, threads=1) as engine:
        reply = engine.stream("Once", 2000, GREEDY)
        assert next(reply)
        assert signal.getsignal(signal.SIGINT) is before
    engine.close()


def test_an_engine_opens_and_closes_at_once(smollm_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        LlamaCppEngine(smollm_path, CONTEXT, threads=1).close()
    assert threading.active_count() == before


def test_a_native_refusal_is_one_of_our_errors(smollm: LlamaCppEngine) -> None:
    with pytest.raises(SmidgenError, match="llama.cpp: "):
        smollm.stream([10**9], 1).text()


def test_context_choice() -> None:
    facts = Facts(context_length=8192, tokenizer=None, foreign=None, appends_eos=False, metadata={})
    assert choose_context(facts, None) == 4096
    assert choose_context(facts, 8192) == 8192
    with pytest.raises(SmidgenError, match="8193.*8192"):
        choose_context(facts, 8193)
    with pytest.raises(Unsupported):
        require_chat_template(facts)


def test_a_template_by_name(tmp_path: Path) -> None:
    path = tiny_models.write_gemma3(
        tmp_path / "named.gguf",
        {"tokenizer.chat_template.short": "{{ messages[0].content }}", "tokenizer.chat_template.long": "{{ 'x' * 9 }}"},
    )
    with LlamaCppEngine(path, 256, threads=1) as engine:
        asked = [{"role": "user", "content": "Hi"}]
        short = engine.chat(asked, 1, GREEDY, "short").prompt_tokens
        assert short < engine.chat(asked, 1, GREEDY, "long").prompt_tokens
        with pytest.raises(SmidgenError, match="no chat template 'other'.*short, long"):
            engine.chat(asked, 1, GREEDY, "other")
        with pytest.raises(SmidgenError, match="several chat templates and no default"):
            engine.chat(asked, 1, GREEDY)
