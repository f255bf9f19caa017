"""Personal data goes out of texts, without any connection; what is no personal data stays."""

import json
import subprocess
import sys
from typing import Any

import pytest

from smidgen.errors import SmidgenError, Unsupported
from smidgen.serving.guard import redaction
from smidgen.serving.guard.redaction import LONGEST_TEXT, Redactor, require_presidio

pytest.importorskip("presidio_analyzer")

CASES = {
    "Write to anna.meier@example.co.uk today.": "Write to <EMAIL_ADDRESS> today.",
    "Call +49 30 1234567 or (212) 555-0198.": "Call <PHONE_NUMBER> or <PHONE_NUMBER>.",
    "Card 4111 1111 1111 1111, no other": "Card <CREDIT_CARD>, no other",
    "To DE89370400440532013000 please": "To <IBAN_CODE> please",
    "from 192.168.1.17 and 2001:db8::1 it came": "from <IP_ADDRESS> and <IP_ADDRESS> it came",
    "SSN 536-22-1234.": "SSN <US_SSN>.",
    "Order 12345678 of 2024-05-06 at 14:30, 3.14159": "Order 12345678 of 2024-05-06 at 14:30, 3.14159",
    "": "",
}


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor()


@pytest.mark.parametrize("text", CASES)
def test_what_has_a_form_of_its_own_is_found(redactor: Redactor, text: str) -> None:
    done, counted = redactor.text(text)
    assert done == CASES[text]
    assert sum(counted.values()) == done.count("<")


@pytest.mark.parametrize("before", [0, 1790, 1795, 1800, 2030, 2040, 2047, 4000])
def test_it_is_found_wherever_it_stands_in_a_long_text(redactor: Redactor, before: int) -> None:
    text = ("word " * before)[:before] + " anna.meier@example.com " + "word " * 500
    done, counted = redactor.text(text)
    assert counted == {"EMAIL_ADDRESS": 1}
    assert done == text.replace("anna.meier@example.com", "<EMAIL_ADDRESS>")


def test_messages_are_redacted_in_every_field_but_those_that_say_what_they_are(redactor: Redactor) -> None:
    call = {
        "id": "a@example.com",
        "type": "function",
        "function": {"name": "f", "arguments": '{"to": "b@example.com"}'},
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "I am a@example.com"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    kept = json.dumps(messages)
    done, counted = redactor.messages(messages)
    assert json.dumps(messages) == kept
    assert done[0]["content"][0] == {"type": "text", "text": "I am <EMAIL_ADDRESS>"}
    assert done[1]["tool_calls"][0]["function"]["arguments"] == '{"to": "<EMAIL_ADDRESS>"}'
    assert done[1]["tool_calls"][0]["id"] == "a@example.com"
    assert counted == {"EMAIL_ADDRESS": 2}


def test_prompts_are_redacted_and_token_ids_refused(redactor: Redactor) -> None:
    assert redactor.prompt("a@example.com") == ("<EMAIL_ADDRESS>", {"EMAIL_ADDRESS": 1})
    assert redactor.prompt(["x", "a@example.com"])[0] == ["x", "<EMAIL_ADDRESS>"]
    for ids in ([1, 2], [[1]], None):
        with pytest.raises(SmidgenError, match="token ids"):
            redactor.prompt(ids)


def test_a_text_that_is_too_long_is_not_passed_through_unread(redactor: Redactor) -> None:
    with pytest.raises(SmidgenError, match="characters"):
        redactor.text("x" * (LONGEST_TEXT + 1))
    half = {"role": "user", "content": "x" * (LONGEST_TEXT // 2 + 1)}
    with pytest.raises(SmidgenError, match="characters"):
        redactor.messages([half, half])
    with pytest.raises(SmidgenError, match="characters"):
        redactor.prompt([half["content"]] * 2)


def test_a_log_gets_redacted_texts_and_of_long_ones_the_length(redactor: Redactor) -> None:
    assert redactor.for_log("I am a@example.com") == "I am <EMAIL_ADDRESS>"
    assert redactor.for_log("x" * (LONGEST_TEXT + 1)).startswith("<524289 characters")


def test_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match=r'pip install "smidgen\[guard\]"'):
        require_presidio()


def test_nothing_connects_and_nothing_is_loaded_before_it_is_needed() -> None:
    script = """
import socket, sys
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import smidgen.serving.guard.redaction as redaction, smidgen.serving.guard.judging
assert not {"presidio_analyzer", "spacy", "tldextract"} & set(sys.modules)
text, found = redaction.Redactor().text("a@example.com and b@example.co.uk")
assert not {"torch", "transformers"} & set(sys.modules)
assert (text, found) == ("<EMAIL_ADDRESS> and <EMAIL_ADDRESS>", {"EMAIL_ADDRESS": 2}), text
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
