"""How to run an exported model with LiteRT-LM, for the README.md beside it."""

from smidgen.exporting.litert.names import MODEL
from smidgen.exporting.litert.sizes import most_tokens
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_templates

_CHAT = """\
conversation = engine.create_conversation()
print(conversation.send_message("Why is the sky blue?"))"""
_CONTINUE = """\
session = engine.create_session(apply_prompt_template=False, max_output_tokens=100)
session.run_prefill(["Once upon a time"])
print(session.run_decode().texts[0])"""


def how_to_run(checkpoint: Checkpoint) -> list[str]:
    """A section of Markdown, in lines. LiteRT-LM itself applies the chat template, and puts BOS before a text."""
    chats = chat_templates(checkpoint.tokenizer_metadata)
    program = [
        "import litert_lm", "",
        f'engine = litert_lm.Engine("{MODEL}", backend=litert_lm.Backend.CPU())  # in this folder',
        *(_CHAT if chats else _CONTINUE).splitlines(),
    ]  # fmt: skip
    tokens = most_tokens(checkpoint.config)
    return [
        "## Run it", "", "`pip install litert-lm-api`, then in this folder:", "", "```python", *program, "```", "",
        f"On a phone, import `{MODEL}` in Google's AI Edge Gallery, and choose the processor (CPU): that is what the "
        "file was tried with.", "",
        f"Prompt and answer together can have {tokens} tokens, for which memory is taken at the beginning. LiteRT-LM "
        f"puts a file beside `{MODEL}` when it first loads it, to load it quicker the next time: up to twice its size, "
        "and free to be removed. Its warnings (`Section not found`) are about parts for other devices.", "",
    ]  # fmt: skip
