"""Texts to continue, texts to fill in, texts to embed, texts and tokens."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from smidgen.serving.requests.bounds import MOST_ENTRIES
from smidgen.serving.requests.chat import ResponseFormat, StreamOptions
from smidgen.serving.requests.fields import (
    HINT,
    Alternatives,
    Answers,
    Body,
    Count,
    Limit,
    LimitOrNone,
    Name,
    Stop,
    TokenIds,
    Unused,
)  # fmt: skip
from smidgen.serving.requests.sampling import Sampling


def _kind_of(value: Any) -> str:
    """By the first entry, so that a long list is looked at once."""
    if isinstance(value, str):
        return f"{HINT}text"
    if not isinstance(value, list):
        return ""
    first = value[0] if value else ""
    return f"{HINT}texts" if isinstance(first, str) else f"{HINT}lists" if isinstance(first, list) else f"{HINT}ids"


_Several = Field(min_length=1, max_length=MOST_ENTRIES["prompts"], fail_fast=True)
Texts = Annotated[
    Annotated[str, Tag(f"{HINT}text")]
    | Annotated[list[str], _Several, Tag(f"{HINT}texts")]
    | Annotated[TokenIds, Tag(f"{HINT}ids")]
    | Annotated[list[TokenIds], _Several, Tag(f"{HINT}lists")],
    Discriminator(
        _kind_of,
        custom_error_type="kind",
        custom_error_message="must be a text, a list of texts, token ids or a list of them",
    ),
]


class Completion(Sampling):
    """The body of POST /v1/completions."""

    model: Name | None = None
    prompt: Texts
    max_tokens: LimitOrNone | None = None
    """0 only with echo, to score a prompt."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Answers | None = None
    best_of: Answers | None = None
    """The same as n: all answers are returned."""
    stop: Stop | None = None
    logprobs: Alternatives | None = None
    echo: bool | None = None
    """Whether the prompt is part of the answer, with log-probabilities where they are asked for."""
    response_format: ResponseFormat | None = None
    user: Unused[str] = None
    store: Unused[bool] = None
    metadata: Unused[dict[str, Any]] = None


class ExtraFile(Body):
    filename: str | None = None
    text: str


class Infill(Sampling):
    """The body of POST /infill: what stands between a beginning and an end."""

    model: Name | None = None
    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraFile], Field(max_length=256, fail_fast=True)] | None = None
    prompt: str | None = None
    n_indent: Count | None = None
    max_tokens: Limit | None = None
    n_predict: Limit | None = None
    stream: bool | None = None
    stop: Stop | None = None


class Embedding(Body):
    """The body of POST /v1/embeddings."""

    model: Name | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=2**20)] | None = None
    user: Unused[str] = None


class Tokenization(Body):
    """The body of POST /tokenize."""

    model: Name | None = None
    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: Literal[False] | None = None
    """/detokenize gives the texts of tokens."""


class Detokenization(Body):
    """The body of POST /detokenize."""

    model: Name | None = None
    tokens: TokenIds
