"""What a cut leaves beside the model: README.md (a Hugging Face model card), recipe.toml, licence and notice files."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from smidgen.atomic import write_whole
from smidgen.curve import write_curve
from smidgen.errors import SmidgenError, printable
from smidgen.formats.hub.notices import Licence, Terms, is_agreement, notice_name, notice_text, terms_of
from smidgen.formats.hub.origin import MODEL_FILE, Origin
from smidgen.owned import claim, refuse_others
from smidgen.publishing.wording import front_matter, in_markdown, licence_in_front, licence_in_words
from smidgen.shell import as_word
from smidgen.sizes import format_size

if TYPE_CHECKING:
    from smidgen.formats.checkpoint import Checkpoint

WORK, CURVE = "work", "loss.svg"
#: What the verbs that make models write into their folder, beside the original's licence and notice files.
_WRITTEN = (
    MODEL_FILE, "card.json", "card.html", "README.md", "recipe.toml", "NOTICE", "NOTICE.smidgen.txt", CURVE,
    "metrics.jsonl", "adapter_model.safetensors", "adapter_config.json", "adapter.gguf",
)  # fmt: skip
_UNFINISHED_START = {".fingerprint.json.partial"}  # all that a cut killed at its very beginning leaves in WORK


def refuse_output(output: Path, origin: Origin) -> None:
    """Raises SmidgenError where a cut of a model cannot write, or would destroy what is not its own.

    Writes nothing and needs no torch, so it can be asked before anything else.
    """
    shown, advice = printable(output), "Choose another folder with -o."
    if not _is_utf8(output.absolute()):
        raise SmidgenError(f"{shown} has a name that is not UTF-8, which libraries cannot write to. {advice}")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise SmidgenError(f"{shown} cannot be a folder: {printable(nearest)} is a file. {advice}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SmidgenError(f"{shown} cannot be written: {printable(nearest)} is not writable by this user. {advice}")
    original, model, work = origin.path, output / MODEL_FILE, output / WORK
    if model.exists() and model.samefile(original):
        raise SmidgenError(f"{printable(model)} is the model to be cut, and the result would replace it. {advice}")
    if original.is_dir() and output.exists() and output.samefile(original):
        raise SmidgenError(f"{shown} is the model to be cut, and its README.md would be replaced. {advice}")
    if work.exists() and not _is_of_a_cut(work):
        raise SmidgenError(f"{printable(work)} is in the way: its place is needed, but no cut has made it. {advice}")
    refuse_others(output, _names_written(origin))


def _is_utf8(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def claim_output(output: Path, *origins: Origin) -> None:
    """Note that the files of `output` are being written: from here on they are smidgen's, see `owned`.

    origins: of all models whose licences go along.
    """
    for origin in origins:
        claim(output, _names_written(origin))


def _names_written(origin: Origin) -> list[str]:
    return [*_WRITTEN, *(file.name for file in origin.notices)]


def _is_of_a_cut(work: Path) -> bool:
    if not work.is_dir():
        return False
    return (work / "fingerprint.json").is_file() or {path.name for path in work.iterdir()} <= _UNFINISHED_START


def remove_outdated(output: Path) -> None:
    """Remove what an earlier cut wrote about an earlier model here: it is not true of the new one."""
    for name in ("card.json", "card.html", "README.md", "recipe.toml"):
        (output / name).unlink(missing_ok=True)


def write_companions(
    output: Path,
    checkpoint: "Checkpoint",
    recipe: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None,
) -> None:
    """Write everything but the model and the card into `output`. steps: what was done, as on the card."""
    licence = _Licensed.beside(output, checkpoint)
    write_whole(output / "recipe.toml", _toml(recipe))
    write_whole(output / "README.md", _model_card(output, checkpoint, licence, steps, card))


def write_export_notes(output: Path, checkpoint: "Checkpoint") -> None:
    """README.md, licence and notice files beside a model that was written in Hugging Face layout."""
    licence, base = _Licensed.beside(output, checkpoint, "model.safetensors"), _title(checkpoint)
    what = f"The weights of {base} in Hugging Face layout, written by `smidgen export`."
    lines = [
        *front_matter({**licence.in_front(), **_base(checkpoint)}), f"# {base}", "", what, "",
        "## Licence", "", licence.in_words(),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_tuning_notes(
    output: Path,
    checkpoint: "Checkpoint",
    written: Sequence[str],
    done: Sequence[str],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `tune` wrote.

    done: what was learned, in sentences.  evaluations: step, and loss on held-out examples before it.
    """
    made = MODEL_FILE if MODEL_FILE in written else "adapter.gguf"
    licence = _Licensed.beside(output, checkpoint, made)
    tags = ["smidgen", "gguf", *(["lora"] if "adapter.gguf" in written else [])]
    front = {**licence.in_front(), **_base(checkpoint), "tags": tags}
    uses = []
    if "adapter.gguf" in written:
        front["library_name"] = "peft"
        uses += [
            f"smidgen chat {as_word(checkpoint.origin.file)} --lora .",
            "llama-cli -m MODEL.gguf --lora adapter.gguf",
        ]
    if made == MODEL_FILE:
        uses += ["smidgen chat .", "llama-cli -m model.gguf"]
    lines = [
        *front_matter(front), f"# {_title(checkpoint)}, tuned", "", *_paragraph(done), "",
        *_curve(output, evaluations, "examples"), "```", *uses, "```", "",
        "## Licence", "", licence.in_words(),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_distilling_notes(
    output: Path,
    models: Sequence["Checkpoint"],
    done: Sequence[str],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `distill` wrote.

    models: what the student was made of, and the teacher where that is another: the terms of both may bind it.
    done: what was learned, in sentences.  evaluations: step, and loss on held-out text before it.
    """
    licences = [_Licensed.beside(output, checkpoint) for checkpoint in models]
    front = {**licences[0].in_front(), **_base(models[0]), "tags": ["smidgen", "gguf"]}
    of_each = [f"Of {_title(model)}: {licence.in_words()}" for model, licence in zip(models, licences, strict=True)]
    lines = [
        *front_matter(front), f"# A student of {_title(models[-1])}", "",
        *_paragraph(done), "", *_curve(output, evaluations, "text"), "```",
        'smidgen run . "Once upon a time"',
        "llama-cli -m model.gguf", "```", "", "## Licence", "", "\n\n".join(of_each),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def _title(checkpoint: "Checkpoint") -> str:
    """What to call the original, inside a line of Markdown."""
    return in_markdown(checkpoint.origin.title(checkpoint.file.metadata))


def _base(checkpoint: "Checkpoint") -> dict[str, str]:
    """`base_model` in the front matter, where it is known: Hugging Face takes it for a repository."""
    base = checkpoint.origin.base_model(checkpoint.file.metadata)
    return {} if base is None else {"base_model": base}


def _paragraph(lines: Sequence[str]) -> list[str]:
    """Each on a line of its own, in Markdown."""
    return [f"{in_markdown(line, 1000)}  " for line in lines]


def _curve(output: Path, evaluations: Sequence[tuple[int, float]], held_out: str) -> list[str]:
    """Draw the loss over the steps, where it was measured; lines that show it."""
    if len(evaluations) < 2:
        return []
    title = f"Loss on held-out {held_out}"
    write_curve(output / CURVE, title, evaluations, "steps", f"{title}, nats per token", from_zero=False)
    return [f"![{title} over the steps of training]({CURVE})", ""]


def write_notices(output: Path, origin: Origin, terms: Terms | None, made: str = MODEL_FILE) -> list[str]:
    """Copy the original's licence and notice files into `output`, and add the notice that its terms ask for about the
    file `made`; their names."""
    originals = origin.notices
    for original in originals:
        if original.parent.resolve() != output.resolve():
            shutil.copyfile(original, output / original.name)  # what a link of the hub's cache leads to
    names = [original.name for original in originals]
    if terms is None:
        return names
    ours = notice_name(originals)
    write_whole(output / ours, notice_text(terms, made))
    return sorted({*names, ours})


def _toml(recipe: Mapping[str, Any]) -> str:
    """The recipe as TOML: plain keys, the versions as a table, each step as an element of `[[steps]]`."""
    lines = ["# Makes the same file again, bit for bit:  smidgen cut MODEL --recipe recipe.toml -o DIR", ""]
    lines += [f"{key} = {_literal(value)}" for key, value in recipe.items() if key not in ("versions", "steps")]
    lines += ["", "[versions]", *(f"{key} = {_literal(value)}" for key, value in recipe["versions"].items())]
    for step in recipe["steps"]:
        lines += ["", "[[steps]]", *(f"{key} = {_literal(value)}" for key, value in step.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """A TOML value. JSON's strings, numbers and lists are TOML's; tables are written inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_literal(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(part) for part in value) + "]"
    shown = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return shown.encode("utf-8", "replace").decode()  # names of files may hold what UTF-8 does not


@dataclass(frozen=True)
class _Licensed:
    """What is known of an original's licence, and the names of the files that were written beside the model for it."""

    stated: Licence
    terms: Terms | None
    notices: Sequence[str]

    @classmethod
    def beside(cls, output: Path, checkpoint: "Checkpoint", made: str = MODEL_FILE) -> Self:
        """Writes these files into `output`, for the model file `made`."""
        stated = checkpoint.origin.stated_licence(checkpoint.file.metadata)
        terms = terms_of(checkpoint.config.family, stated)
        return cls(stated, terms, write_notices(output, checkpoint.origin, terms, made))

    def in_words(self) -> str:
        """What the model card says of the licence: no more than is known."""
        terms, notices = self.terms, self.notices
        named = terms.agreement if terms else licence_in_words(self.stated)
        known = f"The licence of the original applies: {named}." if named else "The original states no licence."
        if notices:
            known += f" These files go with it: {', '.join(map(in_markdown, notices))}."
        if terms is None:
            unknown = "No licence file came with it: look at the original's source before you pass this on."
            return known if notices else f"{known} {unknown}"
        if not any(map(is_agreement, notices)):
            known += f" The text of the {terms.agreement} did not come with it. Get it from {terms.text} and add it to"
            known += " this folder before you pass the model on."
        known += f" Uses that it forbids: {terms.policy}."
        return f"{terms.label}. {known}" if terms.label else known

    def in_front(self) -> dict[str, str]:
        """What the front matter says of it."""
        return {"license": self.terms.identifier} if self.terms else licence_in_front(self.stated, self.notices)


def _model_card(
    output: Path,
    checkpoint: "Checkpoint",
    licence: _Licensed,
    steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None,
) -> str:
    """Hugging Face's model card: front matter, then what this is and what it cost."""
    base = _title(checkpoint)
    front = {
        **licence.in_front(),
        **_base(checkpoint),
        "tags": ["gguf", "smidgen"],
        "quantized_by": "smidgen",
    }
    size = (output / "model.gguf").stat().st_size
    lines = [
        *front_matter(front),
        f"# {base}, cut to {format_size(size)}", "",
        f"`model.gguf` is {base} ({format_size(checkpoint.file.size)}), cut by smidgen to {size} bytes.",
        "It runs in llama.cpp, Ollama, LM Studio and other programs that read GGUF.", "",
        "What was done:", "", *(f"- {_step_in_words(step)}" for step in steps), "",
        "```", "smidgen run . \"Once upon a time\"", "llama-cli -m model.gguf", "```", "",
        "## What it cost", "", *_costs(card), "", "## Licence", "", licence.in_words(), "",
        "`recipe.toml` makes the same file again.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _step_in_words(step: Mapping[str, Any]) -> str:
    return in_markdown(step.get("summary", "Quantized, with error compensation."), 1000)


def _costs(card: Mapping[str, Any] | None) -> list[str]:
    if card is None:
        return ["Not measured. `smidgen measure ORIGINAL CUT` does it."]
    lines = ["| text | KL divergence (nats) | same top token | bits per byte before | after |", "|---|---|---|---|---|"]
    lines += [
        f"| {in_markdown(text['text'])} | {text['kl_mean']:.4f} | {100 * text['same_top1']:.1f}% | "
        f"{text['bits_per_byte_original']:.4f} | {text['bits_per_byte_cut']:.4f} |"
        for text in card["fidelity"]
    ]
    said = [card["verdict"]["sentence"], *card["notes"]] if "verdict" in card else []
    words = [line for sentence in said for line in ("", in_markdown(sentence, 1000))]
    return [*lines, *words, "", "The whole report: `card.html`; as data: `card.json`."]
