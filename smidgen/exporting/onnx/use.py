"""How to run an exported model with onnxruntime-genai, for the README.md beside it."""

from collections.abc import Mapping

from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_template, chat_templates, render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.vocabulary import MetadataValue

_QUESTION, _BEGINNING = "Why is the sky blue?", "Once upon a time"
_MESSAGES = f'[{{"role": "user", "content": "{_QUESTION}"}}]'
_PROGRAM = """\
import onnxruntime_genai as og

model = og.Model(".")  # this folder
tokenizer = og.Tokenizer(model)
prompt = {prompt}
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=256)
generator = og.Generator(model, parameters)
generator.append_tokens({tokens})
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"""


def how_to_run(checkpoint: Checkpoint) -> list[str]:
    """A section of Markdown, in lines. onnxruntime-genai puts no BOS before a text by itself."""
    metadata = checkpoint.tokenizer_metadata
    chats = bool(chat_templates(metadata))
    prompt = f"tokenizer.apply_chat_template('{_MESSAGES}', add_generation_prompt=True)" if chats else f'"{_BEGINNING}"'
    tokens = "tokenizer.encode(prompt)"
    if _wants_bos(metadata, chats):
        tokens = f"[tokenizer.bos_token_id, *{tokens}]"
    program = _PROGRAM.format(prompt=prompt, tokens=tokens)
    return ["## Run it", "", "`pip install onnxruntime-genai`, then in this folder:", "", "```python",
            *program.splitlines(), "```", ""]  # fmt: skip


def _wants_bos(metadata: Mapping[str, MetadataValue], chats: bool) -> bool:
    """Whether the program has to put it there: not where a chat template writes it."""
    tokenizer = Tokenizer.from_gguf(metadata)
    if not tokenizer.adds_bos or not chats:
        return tokenizer.adds_bos
    try:
        message = {"role": "user", "content": _QUESTION}
        text = render_chat(chat_template(metadata), [message], tokenizer.special_texts)
    except SmidgenError:
        return False
    return not text.startswith(tokenizer.special_texts["bos_token"])
