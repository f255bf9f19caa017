"""The kinds of fields that requests have. All are strict: a number in quotes is a text, and 1 is not true.

A field that is null counts as absent. What has bounds has those within which llama.cpp does what it is told: beyond
them it takes another number without a word, or ends.
"""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, FailFast, Field, StringConstraints, Tag

from smidgen.serving.requests.bounds import LONGEST_STOP, MOST_ENTRIES

_T = TypeVar("_T")
HINT = "\u2023"  # begins the names of alternatives, which are no part of a field's place
MOST_ANSWERS = 16
MOST_ALTERNATIVES = 20  # tokens whose probabilities are reported at each place
_MOST_TOKENS = 2**31 - 1
NO_EFFECT = "x-no-effect"  # marks fields that are taken and do nothing here


class Body(BaseModel):
    """What a request, or an object in it, may hold; nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class Lenient(BaseModel):
    """An object whose other fields are left out, with a warning."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, use_attribute_docstrings=True)


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must be at least 1 (or -1 for no limit)")
    return value


def _kind_of(value: Any) -> str:
    return f"{HINT}text" if isinstance(value, str) else f"{HINT}list" if isinstance(value, list) else ""


def text_or(several: Any, otherwise: str) -> Any:
    """The annotation of a field that is a text or a list. otherwise: what is said of anything else."""
    return Annotated[
        Annotated[str, Tag(f"{HINT}text")] | Annotated[several, Tag(f"{HINT}list")],
        Discriminator(_kind_of, custom_error_type="kind", custom_error_message=otherwise),
    ]


def without_effect(kind: Any) -> Any:
    """The annotation of a field that is taken, and does nothing here."""
    return Annotated[
        kind | None, Field(description="Accepted, and without effect here.", json_schema_extra={NO_EFFECT: True})
    ]


def listed(kind: Any, most: int, least: int = 1) -> Any:
    """The annotation of a list; the first bad entry is the one that is named."""
    return Annotated[list[kind], Field(min_length=least, max_length=most), FailFast()]


Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
Tokens = Annotated[int, Field(ge=-1, le=_MOST_TOKENS), AfterValidator(_not_zero)]
TokensOrNone = Annotated[int, Field(ge=-1, le=_MOST_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
TokenIds = Annotated[list[TokenId], Field(min_length=1), FailFast()]
Seed = Annotated[int, Field(ge=-1, le=2**32 - 2, description="-1 is chance, as without a seed.")]
Answers = Annotated[int, Field(ge=1, le=MOST_ANSWERS)]
Alternatives = Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_STOP)]
Stop = Annotated[
    Annotated[StopText, Tag(f"{HINT}text")]
    | Annotated[listed(StopText, MOST_ENTRIES["stop"], 0), Tag(f"{HINT}list")],
    Discriminator(_kind_of, custom_error_type="kind", custom_error_message="must be a text or a list of texts"),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Metadata = dict[str, Any]
