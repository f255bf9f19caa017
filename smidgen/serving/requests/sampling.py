"""How the next token is chosen: OpenAI's fields and llama.cpp's own."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.bounds import LONGEST_GRAMMAR, LONGEST_LOOK_BACK, MOST_ENTRIES, excess_of_grammar
from smidgen.serving.requests.fields import (
    HINT,
    Bias,
    Body,
    Count,
    Listed,
    Penalty,
    Probability,
    Seed,
    Strength,
    TopK,
    kind_of,
)  # fmt: skip

SamplerName = Literal[
    "dry", "top_k", "top_p", "typ_p", "typical_p", "min_p", "temperature", "xtc", "penalties", "top_n_sigma",
    "adaptive_p",
]  # fmt: skip
_SAMPLER_LETTERS = "dkypmtxesa"


def _checked_bias(bias: dict[str, float]) -> dict[str, float]:
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"must have token ids as keys, not {token[:30]!r}; /tokenize gives the ids of a text")
    return bias


def refuse_unknown_biases(bias: dict[str, float] | None, tokens: int) -> None:
    """Raises Refusal for ids that a model of so many tokens does not have: llama.cpp passes over them."""
    unknown = next((token for token in bias or () if int(token) >= tokens), None)
    if unknown is not None:
        raise Refusal(
            f"logit_bias has the token id {unknown}; this model's go from 0 to {tokens - 1}.", param="logit_bias"
        )


def _checked_letters(letters: str) -> str:
    unknown = next((letter for letter in letters if letter not in _SAMPLER_LETTERS), None)
    if unknown is not None:
        raise ValueError(f"has the letter {unknown!r}, which stands for no sampler; give their names as a list")
    return letters


def _checked_grammar(grammar: str) -> str:
    if grammar.lstrip().startswith("%"):
        raise ValueError("must be in GBNF")  # another notation, whose errors llama.cpp passes over
    excess = excess_of_grammar(grammar)
    if excess is not None:
        raise ValueError(excess)
    return grammar


LogitBias = Annotated[dict[str, Bias], Field(max_length=MOST_ENTRIES["logit_bias"]), AfterValidator(_checked_bias)]
LookBack = Annotated[int, Field(ge=-1, le=LONGEST_LOOK_BACK)]
Grammar = Annotated[
    str, StringConstraints(min_length=1), Field(json_schema_extra={"maxLength": LONGEST_GRAMMAR}),
    AfterValidator(_checked_grammar),
]  # fmt: skip
Letters = Annotated[str, AfterValidator(_checked_letters)]
Breakers = Annotated[
    Listed[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
    Field(min_length=1, max_length=MOST_ENTRIES["dry_sequence_breakers"]),
]
Samplers = Annotated[Listed[SamplerName], Field(max_length=MOST_ENTRIES["samplers"])]


class Temperature(Body):
    """What all dialects know."""

    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    """How much chance there is; at 0 the likeliest token is taken."""
    top_p: Probability | None = None


class Sampling(Temperature):
    """What OpenAI's dialects have in common with llama.cpp, and what llama.cpp has besides."""

    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    """Token id → what is added to its logit."""
    top_k: TopK | None = None
    """0 and -1 are all tokens."""
    min_p: Probability | None = None
    typical_p: Probability | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100, allow_inf_nan=False)] | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    dynatemp_range: Strength | None = None
    dynatemp_exponent: Strength | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    repeat_last_n: LookBack | None = None
    """Limit that the penalties look back on; -1 is the whole context."""
    dry_multiplier: Strength | None = None
    dry_base: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: LookBack | None = None
    dry_sequence_breakers: Breakers | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Strength | None = None
    mirostat_eta: Strength | None = None
    adaptive_target: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    adaptive_decay: Annotated[float, Field(ge=0, le=0.99, allow_inf_nan=False)] | None = None
    min_keep: Count | None = None
    samplers: (
        Annotated[
            Annotated[Letters, Tag(f"{HINT}text")] | Annotated[Samplers, Tag(f"{HINT}list")], Discriminator(kind_of)
        ]
        | None
    ) = None
    """Which samplers there are, in this order."""
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    """Whether what an earlier request has computed of the same prompt may be used; never where there is a seed."""
    grammar: Grammar | None = None
    """In GBNF, llama.cpp's notation."""
    json_schema: Any | None = None
    """A JSON schema that the answer must follow."""
