"""What a request asks for, once it has been read and checked."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request that may be carried out.

    path: its endpoint under its first name: `/v1/chat/completions` also where `/chat/completions` was called.
    body: what goes to llama.cpp. The front sends it once for each answer, so `n` is not in it; nor are `model`,
    `best_of`, `stream_options`, nor what llama.cpp has no part in (the `echo` of completions).
    model: as it was asked for.  stream: the same as in the body.  include_usage: a last event with the counts.
    n: how many answers; answer number i has the seed `seed + i`.
    echo: of completions: the prompt is part of the answer. Of chats: so is the beginning that the request gave.
    logprobs: alternatives at each token; 0 is that of the token itself alone, None is no log-probabilities. In the
    body llama.cpp is asked for at least one, because it leaves them out at 0.
    max_tokens: None where none was given. 0 (completions with echo only): nothing is to be written.
    seed: None where chance decides. Where it is given, the body asks for no cached prompt, which rounds otherwise.
    stop: texts that end the answer.
    prompts: of completions and infill, each a text or token ids.  inputs: the same of embeddings.
    encoding_format: of embeddings, `float` or `base64`.  dimensions: of embeddings, the width that was asked for.
    messages: the conversation in the shape of chat completions, whichever dialect it came in.
    tools: in that shape too.  tool_choice: `none`, `auto` or `required`.  tool_name: the one that was named.
    schema: the JSON schema that the answer must follow.
    warnings: a line for each field that has no effect here.
    given: the body as it came, for engines that have OpenAI's endpoints themselves.
    """

    path: str
    body: dict[str, Any]
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    echo: bool = False
    logprobs: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prompts: tuple[str | list[int], ...] = ()
    inputs: tuple[str | list[int], ...] = ()
    encoding_format: str = "float"
    dimensions: int | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str = "auto"
    tool_name: str | None = None
    schema: Any = None
    warnings: tuple[str, ...] = field(default=())
    given: dict[str, Any] = field(default_factory=dict)
