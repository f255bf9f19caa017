"""What a guard reads: its own chat tokens around it, one BOS, and pieces that stay as a text grows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.errors import SmidgenError
from smidgen.model.tokenizer import Tokenizer
from smidgen.serving.guard.framing import ANSWER, Framing
from smidgen.serving.guard.policies import Policy
from smidgen.serving.guard.protocols import GuardProtocol, ProtocolName, Turn

WEAPONS = Policy("weapons", "Weapons", "ways to build weapons", category="S1")
LLAMA_3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>")


def framing(facts: Facts, protocol: ProtocolName, context: int = 1024) -> Framing:
    return Framing(facts, GuardProtocol(protocol, ""), context)


def changed(facts: Facts, **metadata: Any) -> Facts:
    """The facts of a file with other metadata: keys with __ for a dot, None to leave one out."""
    found = {**facts.metadata, **{key.replace("__", "."): value for key, value in metadata.items()}}
    kept = {key: value for key, value in found.items() if value is not None}
    return replace(facts, metadata=kept, tokenizer=Tokenizer.from_gguf(kept))


def with_llama_3(facts: Facts) -> Facts:
    """The same vocabulary with Llama 3's control tokens, and a BOS that is put before every text."""
    tokens = list(facts.metadata["tokenizer.ggml.tokens"])
    places = [place for place, text in enumerate(tokens) if text.startswith("<") and text.endswith(">")][4:8]
    for place, text in zip(places, LLAMA_3, strict=True):
        tokens[place] = text
    return changed(
        facts,
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__bos_token_id=places[3],
        tokenizer__ggml__add_bos_token=True,
    )


def read(facts: Facts, protocol: ProtocolName, text: str, *turns: Turn) -> str:
    assert facts.tokenizer is not None
    (asked,) = framing(facts, protocol).prompts([WEAPONS], "prompt", turns, text)
    return facts.tokenizer.decode(asked.ids)


def test_llama_3s_tokens_stand_around_llama_guards_task(facts: Facts) -> None:
    written = read(with_llama_3(facts), "llama-guard", "How?")
    assert written.startswith(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask: Check if there is unsafe content in 'User'"
    )
    assert written.endswith("violated categories.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


def test_there_is_one_bos(facts: Facts) -> None:
    for protocol in ("shieldgemma", "llama-guard"):
        assert (
            read(with_llama_3(facts), protocol, "<|begin_of_text|>How?").count("<|begin_of_text|>") == 2
        )  # one is text
        assert read(with_llama_3(facts), protocol, "How?").count("<|begin_of_text|>") == 1


def test_a_tuned_guard_has_its_own_chat_template_around_the_task(facts: Facts) -> None:
    written = read(facts, "llama-guard", "How?")
    assert "<|im_start|>user\nTask: Check" in written
    assert written.endswith("violated categories.<|im_end|>\n<|im_start|>assistant\n")
    bare = read(changed(facts, tokenizer__chat_template=None), "llama-guard", "How?")
    assert bare.startswith("Task: Check") and bare.endswith("violated categories.\n\n")
    with pytest.raises(SmidgenError, match="does not write the message once"):
        framing(changed(facts, tokenizer__chat_template="{{ 'x' }}"), "llama-guard")


def test_shieldgemma_reads_no_conversation_beside_a_prompt(facts: Facts) -> None:
    assert "earlier" not in read(facts, "shieldgemma", "How?", Turn("User", "earlier"))


@given(st.text("ab cé\n漢", min_size=1, max_size=1500), st.text("ab c", max_size=200))
@settings(max_examples=25, deadline=None)
def test_all_of_a_text_is_read_and_its_pieces_stay_as_it_grows(facts: Facts, text: str, more: str) -> None:
    assert facts.tokenizer is not None
    asking = framing(facts, "shieldgemma", 320)
    asked = [one.ids for one in asking.prompts([WEAPONS], "prompt", (), text)]
    assert all(len(ids) + ANSWER <= 320 for ids in asked)
    said = [facts.tokenizer.decode(ids).partition("Question: ")[2].partition("\n<end_of_turn>")[0] for ids in asked]
    rest = text.strip()
    place = 0
    for piece in said:  # each begins within what was read before it, and goes on after it
        begin = rest.find(piece, max(0, place - len(piece)))
        assert 0 <= begin <= place
        place = begin + len(piece)
    assert place == len(rest)
    grown = [one.ids for one in asking.prompts([WEAPONS], "prompt", (), "x" + text + more)]
    shorter = [one.ids for one in asking.prompts([WEAPONS], "prompt", (), "x" + text)]
    assert grown[: len(shorter) - 1] == shorter[:-1]
