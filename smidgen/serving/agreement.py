"""Where llama.cpp renders or encodes a text otherwise than we do.

Calibration, training and the card use our templates and our tokenizer, and so does the server where it can. Where an
answer may have calls of tools or reasoning it must use llama.cpp's, which reads the answer with the same template. So
both are asked before serving begins, with texts that are known to divide tokenizers and templates, and the person is
told where they part.
"""

from collections.abc import Iterator

from smidgen.engines.llama_cpp.engine import Facts
from smidgen.engines.llama_cpp.server import LlamaServer
from smidgen.errors import SmidgenError, printable
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.tokenizers.vocabulary import END_IDS

# Spaces and newlines in every place, composed and decomposed letters, scripts with combining marks, digits, emoji.
_TEXTS = (
    "Hello, world!", " leading space", "  two  spaces  ", "trailing space ", "\n\nnew\nlines\n", "tabs\tand\r\nends",
    "na\u00efve", "nai\u0308ve", "\ufb01ne", "\u00a0\u3000", "1234567890", "3.14 and 1,000", "can't WON'T I'm",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u65e5\u672c\u8a9e",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "def f(x):\n    return x", "CamelCaseWORDS_and_snake",
)  # fmt: skip
_AFFECTED = "Requests with tools, of models that think aloud, and with a begun answer"
_USER = {"role": "user", "content": "  What is 2+2?\n"}
_ANSWER = {"role": "assistant", "content": " It is 4. "}
_CHATS: tuple[list[dict[str, str]], ...] = (
    [_USER],
    [_USER, _ANSWER, {"role": "user", "content": "Sure?"}],
    [{"role": "system", "content": "Answer briefly."}, _USER],
)


def disagreements(server: LlamaServer, facts: Facts, template: str | None = None) -> Iterator[str]:
    """A sentence for each kind of difference; nothing where both agree, or where our side knows no such tokenizer.

    template: the name of the one that is used, None for the default.
    """
    if facts.tokenizer is None:
        return
    for text in _TEXTS:
        if _encoded_by_llama_cpp(server, text) != facts.tokenizer.encode(text, parse_special=True):
            yield (
                f"llama.cpp encodes some texts otherwise than this model's tokenizer, such as {printable(repr(text))}. "
                f"{_AFFECTED} get llama.cpp's tokens."
            )
            break
    if END_IDS in facts.metadata:
        yield f"{_AFFECTED} stop at some of the model's {len(facts.tokenizer.eos_ids)} end tokens only."
    if not facts.has_chat_template:
        return
    for chat in _CHATS:
        ours, theirs = _rendered(facts, chat, template), _rendered_by_llama_cpp(server, facts, chat)
        if ours is not None and ours != theirs:
            yield (
                "llama.cpp renders this model's chat template otherwise than it is meant"
                f"{' (a system message)' if chat[0]['role'] == 'system' else ''}; {_AFFECTED.lower()} get it so."
            )
            break


def _encoded_by_llama_cpp(server: LlamaServer, text: str) -> list[int]:
    request = {"content": text, "add_special": False, "parse_special": True}
    return server.call("/tokenize", request)["tokens"]


def _rendered(facts: Facts, chat: list[dict[str, str]], template: str | None) -> list[int] | None:
    """As token ids; None where the template refuses the conversation."""
    assert facts.tokenizer is not None
    try:
        return _encoded(
            facts, render_chat(chat_template(facts.metadata, template), chat, facts.tokenizer.special_texts)
        )
    except SmidgenError:
        return None


def _rendered_by_llama_cpp(server: LlamaServer, facts: Facts, chat: list[dict[str, str]]) -> list[int] | None:
    try:
        return _encoded(facts, server.call("/apply-template", {"messages": chat})["prompt"])
    except SmidgenError:
        return None


def _encoded(facts: Facts, text: str) -> list[int]:
    """With one BOS whether the template wrote it or not, since llama.cpp takes it away and puts it back."""
    assert facts.tokenizer is not None
    return facts.tokenizer.encode(text, add_bos=facts.tokenizer.bos_id is not None, parse_special=True)
