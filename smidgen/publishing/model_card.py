"""README.md of a cut: a model card as the Hugging Face hub reads it. Front matter, then what it is, what was done, what
it cost, how to run it, and what its licence asks for.

No folder of this machine is named in it, and what strangers say in their files stays plain text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smidgen.publishing.first_words import run_command
from smidgen.publishing.licence import Licensed
from smidgen.publishing.measured import measured_lines, results_in_front
from smidgen.publishing.wording import front_matter, in_markdown
from smidgen.sizes import format_size

if TYPE_CHECKING:
    from smidgen.formats.checkpoint import Checkpoint

_LANGUAGE = re.compile(r"[a-z]{2,3}|code")
_MOST_LANGUAGES = 64
#: The Modelfile beside the model says the rest.
IN_OLLAMA = "ollama create my-model && ollama run my-model"
_RUN_ELSEWHERE = [
    "llama-cli -m model.gguf",
    IN_OLLAMA,
    "lms import --copy --user-repo smidgen/my-model model.gguf  # LM Studio",
]
_ON_CUTS = (
    "A cut can answer otherwise than its original even where the figures are close. What was measured is above; what "
    "is not there was not measured. Try it on your own cases before others depend on it."
)


def model_card(
    checkpoint: "Checkpoint", licence: Licensed, recipe: Mapping[str, Any], steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None, size: int, chats: bool,
) -> str:  # fmt: skip
    """The whole file. checkpoint: the original.  steps: what was done, as on the card.  size: of model.gguf.

    chats: whether that has a chat template.
    """
    base = title(checkpoint)
    front = {
        **licence.in_front(), **base_model(checkpoint), **_relation(checkpoint, steps),
        **_languages(recipe, checkpoint.file.metadata), "pipeline_tag": "text-generation",
        "tags": ["gguf", "smidgen"], "quantized_by": "smidgen", **results_in_front(card),
    }  # fmt: skip
    lines = [
        *front_matter(front),
        f"# {base}, cut to {format_size(size)}", "",
        f"`model.gguf` is {base} ({format_size(checkpoint.file.size)}), cut by smidgen to {size} bytes.",
        "It runs in llama.cpp, Ollama, LM Studio and other programs that read GGUF.", "",
        "## How to run it", "", "In the folder of these files:", "",
        "```", run_command(".", chats), *_RUN_ELSEWHERE, "```", "",
        "## How it was cut", "", *(f"- {step_in_words(step)}" for step in steps), "",
        "[recipe.toml](recipe.toml) makes the same file again.", "",
        *measured_lines(card), "",
        "## Responsible use", "", licence.on_use(), "", _ON_CUTS, "",
        "## Licence", "", licence.in_words(),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def title(checkpoint: "Checkpoint") -> str:
    """What to call the original, inside a line of Markdown."""
    return in_markdown(checkpoint.origin.title(checkpoint.file.metadata))


def base_model(checkpoint: "Checkpoint") -> dict[str, str]:
    """`base_model` in the front matter, where it is known: Hugging Face takes it for a repository."""
    base = checkpoint.origin.base_model(checkpoint.file.metadata)
    return {} if base is None else {"base_model": base}


def step_in_words(step: Mapping[str, Any]) -> str:
    return in_markdown(step.get("summary", "Quantized, with error compensation."), 1000)


def _relation(checkpoint: "Checkpoint", steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How it is made from its base, where the hub has a word for it: it has none for what was pruned or healed."""
    only = steps and all(step.get("step") == "quantize" for step in steps)
    return {"base_model_relation": "quantized"} if only and base_model(checkpoint) else {}


def _languages(recipe: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Codes of the languages that the cut was asked to keep; else those that the original's header names."""
    for said in (recipe.get("languages"), metadata.get("general.languages")):
        codes = [code for code in said if isinstance(code, str)] if isinstance(said, list | tuple) else []
        known = [code for code in codes[:_MOST_LANGUAGES] if _LANGUAGE.fullmatch(code)]
        if known:
            return {"language": known}
    return {}
