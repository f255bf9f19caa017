"""What LiteRT-LM must know of a model beside its graphs: the Protocol Buffers message `LlmMetadata`.

Numbers of fields: `runtime/proto/llm_metadata.proto` in https://github.com/google-ai-edge/LiteRT-LM. A message is a
row of fields, each a key (its number and how it is stored) and a value, so the few that are needed are written here.
"""

from collections.abc import Mapping, Sequence

from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_template, chat_templates, render_chat
from smidgen.model.tokenizer import Tokenizer

_START_TOKEN, _STOP_TOKENS, _MOST_TOKENS, _MODEL_TYPE, _TEMPLATE = 1, 2, 5, 6, 7
_GENERIC = 1  # of `LlmModelType`: no particular family
_IDS = 1  # of `TokenUnion` and of `TokenIds`
_NUMBER, _BYTES = 0, 2  # how a field is stored
#: Before a template. LiteRT-LM hands in what a message says as a list of parts, which most templates do not expect.
_PARTS_TO_TEXT = """\
{%- set whole = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.content is string or message.content is not iterable -%}
{%- set whole.messages = whole.messages + [message] -%}
{%- else -%}
{%- set said = namespace(text="") -%}
{%- for part in message.content -%}{%- set said.text = said.text + (part.text or "") -%}{%- endfor -%}
{%- set whole.messages = whole.messages + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = whole.messages -%}"""


def llm_metadata(checkpoint: Checkpoint, most_tokens: int) -> bytes:
    """most_tokens: of a text, prompt and answer together."""
    tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    templates = chat_templates(checkpoint.tokenizer_metadata)
    template = chat_template(checkpoint.tokenizer_metadata) if templates else None
    message = b""
    if tokenizer.bos_id is not None and _is_put_before(tokenizer, template):
        message += _bytes(_START_TOKEN, _token([tokenizer.bos_id]))
    for token in sorted(tokenizer.eos_ids):
        message += _bytes(_STOP_TOKENS, _token([token]))
    message += _key(_MOST_TOKENS, _NUMBER) + _varint(most_tokens)
    message += _bytes(_MODEL_TYPE, _bytes(_GENERIC, b""))
    if template is not None:
        message += _bytes(_TEMPLATE, (_PARTS_TO_TEXT + template).encode())
    return message


def _is_put_before(tokenizer: Tokenizer, template: str | None) -> bool:
    """Whether LiteRT-LM shall put a BOS before texts.

    To a template it gives no text for `bos_token`; one that spells the token out needs no other.
    """
    if template is None:
        return tokenizer.adds_bos
    begin = tokenizer.special_texts["bos_token"]
    named = _rendered(template, tokenizer.special_texts).startswith(begin)
    spelled = _rendered(template, {**tokenizer.special_texts, "bos_token": ""}).startswith(begin)
    return not spelled and (named or tokenizer.adds_bos)


def _rendered(template: str, special_texts: Mapping[str, str]) -> str:
    """A question; nothing where the template cannot render it."""
    try:
        return render_chat(template, [{"role": "user", "content": "Hello"}], special_texts)
    except SmidgenError:
        return ""


def _token(ids: Sequence[int]) -> bytes:
    """A `TokenUnion`."""
    return _bytes(_IDS, b"".join(_key(_IDS, _NUMBER) + _varint(token) for token in ids))


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _key(field: int, stored: int) -> bytes:
    return _varint(field << 3 | stored)


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
