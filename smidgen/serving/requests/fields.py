"""The kinds of fields that requests have. All are strict: a number in quotes is a text, and 1 is not true.

A field that is null counts as absent. What has bounds has those within which llama.cpp does what it is told: beyond
them it takes another number without a word, or ends.
"""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from smidgen.serving.requests.bounds import LONGEST_STOP, MOST_ENTRIES

_T = TypeVar("_T")
_O = TypeVar("_O")
HINT = "\u2023"  # begins the names of alternatives, which are no part of a field's place
NO_EFFECT = "x-no-effect"  # marks fields that are taken and do nothing here
MOST_ANSWERS = 16
MOST_ALTERNATIVES = 20  # tokens whose probabilities are reported at each place
_MOST_TOKENS = 2**31 - 1


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


def kind_of(value: Any) -> str:
    """The name of an alternative, by what a value is."""
    kinds = {str: f"{HINT}text", list: f"{HINT}list", dict: f"{HINT}object"}
    return kinds.get(type(value), "")


# A text or a list; generic in the list.
TextOr = Annotated[
    Annotated[str, Tag(f"{HINT}text")] | Annotated[_T, Tag(f"{HINT}list")],
    Discriminator(kind_of, custom_error_type="kind", custom_error_message="must be a text or a list"),
]
# A text or an object; generic in both.
TextOrObject = Annotated[
    Annotated[_T, Tag(f"{HINT}text")] | Annotated[_O, Tag(f"{HINT}object")],
    Discriminator(kind_of, custom_error_type="kind", custom_error_message="must be a text or an object"),
]
# Lists of which the first bad entry is the one that is named.
Listed = Annotated[list[_T], Field(fail_fast=True)]
PartsOf = Annotated[list[_T], Field(max_length=MOST_ENTRIES["parts"], fail_fast=True)]
ToolsOf = Annotated[list[_T], Field(max_length=MOST_ENTRIES["tools"], fail_fast=True)]
MessagesOf = Annotated[list[_T], Field(min_length=1, max_length=MOST_ENTRIES["messages"], fail_fast=True)]
# A field that is taken, and does nothing here.
Unused = Annotated[
    _T | None, Field(description="Accepted, and without effect here.", json_schema_extra={NO_EFFECT: True})
]

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
TopK = Annotated[int, Field(ge=-1, le=_MOST_TOKENS)]
Limit = Annotated[int, Field(ge=-1, le=_MOST_TOKENS), AfterValidator(_not_zero)]
LimitOrNone = Annotated[int, Field(ge=-1, le=_MOST_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Seed = Annotated[int, Field(ge=-1, le=2**32 - 2, description="-1 is chance, as without a seed.")]
Answers = Annotated[int, Field(ge=1, le=MOST_ANSWERS)]
Alternatives = Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_STOP)]
StopTexts = Annotated[Listed[StopText], Field(max_length=MOST_ENTRIES["stop"])]
Stop = Annotated[
    Annotated[StopText, Tag(f"{HINT}text")] | Annotated[StopTexts, Tag(f"{HINT}list")],
    Discriminator(kind_of, custom_error_type="kind", custom_error_message="must be a text or a list of texts"),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Metadata = dict[str, Any]
