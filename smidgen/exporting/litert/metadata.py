"""What LiteRT-LM must know of a model beside its graphs: the Protocol Buffers message `LlmMetadata`.

Numbers of fields: `runtime/proto/llm_metadata.proto` in https://github.com/google-ai-edge/LiteRT-LM. A message is a
row of fields, each a key (its number and how it is stored) and a value, so the few that are needed are written here.
"""

from collections.abc import Sequence

from smidgen.errors import SmidgenError
from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_template, chat_templates, render_chat
from smidgen.model.tokenizer import Tokenizer

_START_TOKEN, _STOP_TOKENS, _MOST_TOKENS, _MODEL_TYPE, _TEMPLATE = 1, 2, 5, 6, 7
_GENERIC = 1  # of `LlmModelType`: no particular family
_IDS = 1  # of `TokenUnion` and of `TokenIds`
_NUMBER, _BYTES = 0, 2  # how a field is stored


def llm_metadata(checkpoint: Checkpoint, most_tokens: int) -> bytes:
    """most_tokens: of a text, prompt and answer together."""
    tokenizer = Tokenizer.from_gguf(checkpoint.tokenizer_metadata)
    message = b""
    if tokenizer.bos_id is not None and _begins_with_bos(checkpoint, tokenizer):
        message += _bytes(_START_TOKEN, _token([tokenizer.bos_id]))
    for token in sorted(tokenizer.eos_ids):
        message += _bytes(_STOP_TOKENS, _token([token]))
    message += _key(_MOST_TOKENS, _NUMBER) + _varint(most_tokens)
    message += _bytes(_MODEL_TYPE, _bytes(_GENERIC, b""))
    if chat_templates(checkpoint.tokenizer_metadata):
        message += _bytes(_TEMPLATE, chat_template(checkpoint.tokenizer_metadata).encode())
    return message


def _begins_with_bos(checkpoint: Checkpoint, tokenizer: Tokenizer) -> bool:
    """Whether texts do. LiteRT-LM puts it there itself, and has no text for it where a template would write it."""
    if tokenizer.adds_bos or not chat_templates(checkpoint.tokenizer_metadata):
        return tokenizer.adds_bos
    try:
        template, message = chat_template(checkpoint.tokenizer_metadata), {"role": "user", "content": "Hello"}
        return render_chat(template, [message], tokenizer.special_texts).startswith(
            tokenizer.special_texts["bos_token"]
        )
    except SmidgenError:
        return False


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
