"""What a cut leaves beside the model: README.md (a Hugging Face model card), recipe.toml, licence and notice files."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.atomic import write_whole
from smidgen.curve import write_curve
from smidgen.errors import SmidgenError, printable
from smidgen.formats.hub.catalogue import MODEL_FILE, companions_folder, entry_of, licence_files
from smidgen.formats.hub.notices import Licence, Terms, is_agreement, notice_name, notice_text, stated_licence, terms_of
from smidgen.owned import claim, refuse_others
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


def refuse_output(output: Path, original: Path) -> None:
    """Raises SmidgenError where a cut of `original` cannot write, or would destroy what is not its own.

    Writes nothing and needs no torch, so it can be asked before anything else.
    """
    shown, advice = printable(output), "Choose another folder with -o."
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise SmidgenError(f"{shown} cannot be a folder: {printable(nearest)} is a file. {advice}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SmidgenError(f"{shown} cannot be written: {printable(nearest)} is not writable by this user. {advice}")
    model, work = output / MODEL_FILE, output / WORK
    if model.exists() and model.samefile(original):
        raise SmidgenError(f"{printable(model)} is the model to be cut, and the result would replace it. {advice}")
    if original.is_dir() and output.exists() and output.samefile(original):
        raise SmidgenError(f"{shown} is the model to be cut, and its README.md would be replaced. {advice}")
    if work.exists() and not _is_of_a_cut(work):
        raise SmidgenError(f"{printable(work)} is in the way: its place is needed, but no cut has made it. {advice}")
    refuse_others(output, _names_written(original))


def claim_output(output: Path, original: Path) -> None:
    """Note that the files of `output` are being written: from here on they are smidgen's, see `owned`."""
    claim(output, _names_written(original))


def _names_written(original: Path) -> list[str]:
    return [*_WRITTEN, *(file.name for file in licence_files(original))]


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
    model: str,
    checkpoint: "Checkpoint",
    recipe: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None,
) -> None:
    """Write everything but the model and the card into `output`. steps: what was done, as on the card."""
    stated = _stated_licence(model, checkpoint)
    terms = terms_of(checkpoint.config.family, stated)
    notices = write_notices(output, model, terms)
    write_whole(output / "recipe.toml", _toml(recipe))
    write_whole(output / "README.md", _model_card(output, model, checkpoint, (stated, terms, notices), steps, card))


def write_export_notes(output: Path, model: str, checkpoint: "Checkpoint") -> None:
    """README.md, licence and notice files beside a model that was written in Hugging Face layout."""
    stated = _stated_licence(model, checkpoint)
    terms = terms_of(checkpoint.config.family, stated)
    notices = write_notices(output, model, terms, "model.safetensors")
    base = str(checkpoint.file.metadata.get("general.name", model))
    front = {**_front_licence(stated, terms), "base_model": base}
    what = f"The weights of {base} in Hugging Face layout, written by `smidgen export`."
    lines = [*_front_matter(front), f"# {base}", "", what, "", "## Licence", "", _licence(stated, terms, notices)]
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_tuning_notes(
    output: Path,
    model: str,
    checkpoint: "Checkpoint",
    written: Sequence[str],
    done: Sequence[str],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `tune` wrote.

    done: what was learned, in sentences.  evaluations: step, and loss on held-out examples before it.
    """
    stated = _stated_licence(model, checkpoint)
    terms = terms_of(checkpoint.config.family, stated)
    made = MODEL_FILE if MODEL_FILE in written else "adapter.gguf"
    notices = write_notices(output, model, terms, made)
    base = str(checkpoint.file.metadata.get("general.name", model))
    tags = ["smidgen", "gguf", *(["lora"] if "adapter.gguf" in written else [])]
    front = {**_front_licence(stated, terms), "base_model": base, "tags": tags}
    uses = []
    if "adapter.gguf" in written:
        front["library_name"] = "peft"
        named = Path(model).name if Path(model).exists() else model  # folders of this machine are nobody's business
        uses += [
            f"smidgen chat {as_word(named)} --lora .",
            "llama-cli -m MODEL.gguf --lora adapter.gguf",
        ]
    if made == MODEL_FILE:
        uses += ["smidgen chat .", "llama-cli -m model.gguf"]
    lines = [
        *_front_matter(front), f"# {base}, tuned", "", *(line + "  " for line in done), "",
        *_curve(output, evaluations, "examples"), "```", *uses, "```", "",
        "## Licence", "", _licence(stated, terms, notices),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_distilling_notes(
    output: Path,
    models: Sequence[tuple[str, "Checkpoint"]],
    done: Sequence[str],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `distill` wrote.

    models: name and file of what the student was made of, and of the teacher where that is another: the terms of both
    may bind it.  done: what was learned, in sentences.  evaluations: step, and loss on held-out text before it.
    """
    licences: list[str] = []
    for model, checkpoint in models:
        stated = _stated_licence(model, checkpoint)
        terms = terms_of(checkpoint.config.family, stated)
        named = checkpoint.file.metadata.get("general.name", model)
        licences += [f"{named}: {_licence(stated, terms, write_notices(output, model, terms))}", ""]
    model, checkpoint = models[0]
    stated = _stated_licence(model, checkpoint)
    base = str(checkpoint.file.metadata.get("general.name", model))
    front = {
        **_front_licence(stated, terms_of(checkpoint.config.family, stated)),
        "base_model": base,
        "tags": ["smidgen", "gguf"],
    }
    lines = [
        *_front_matter(front), f"# A student of {models[-1][1].file.metadata.get('general.name', models[-1][0])}", "",
        *(line + "  " for line in done), "", *_curve(output, evaluations, "text"), "```",
        'smidgen run . "Once upon a time"',
        "llama-cli -m model.gguf", "```", "", "## Licence", "", *licences,
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines))


def _curve(output: Path, evaluations: Sequence[tuple[int, float]], held_out: str) -> list[str]:
    """Draw the loss over the steps, where it was measured; lines that show it."""
    if len(evaluations) < 2:
        return []
    title = f"Loss on held-out {held_out}"
    write_curve(output / CURVE, title, evaluations, "steps", f"{title}, nats per token", from_zero=False)
    return [f"![{title} over the steps of training]({CURVE})", ""]


def write_notices(output: Path, model: str, terms: Terms | None, made: str = MODEL_FILE) -> list[str]:
    """Copy the original's licence and notice files into `output`, and add the notice that its terms ask for about the
    file `made`; their names."""
    originals = licence_files(model)
    for original in originals:
        if original.parent.resolve() != output.resolve():
            shutil.copyfile(original, output / original.name)  # what a link of the hub's cache leads to
    names = [original.name for original in originals]
    if terms is None:
        return names
    ours = notice_name(originals)
    write_whole(output / ours, notice_text(terms, made))
    return sorted({*names, ours})


def _stated_licence(model: str, checkpoint: "Checkpoint") -> Licence:
    """What the model says itself; what the catalogue knows where it says nothing."""
    stated, entry = stated_licence(checkpoint.file.metadata, companions_folder(model)), entry_of(model)
    return Licence(name=entry.licence) if entry is not None and not str(stated) else stated


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
    return json.dumps(value, ensure_ascii=False)


def _licence(stated: Licence, terms: Terms | None, notices: Sequence[str]) -> str:
    """What the model card says of the licence: no more than is known."""
    named = terms.agreement if terms else str(stated)
    known = f"The licence of the original applies: {named}." if named else "The original states no licence."
    if notices:
        known += f" These files go with it: {', '.join(notices)}."
    if terms is None:
        unknown = "No licence file came with it: look at the original's source before you pass this on."
        return known if notices else f"{known} {unknown}"
    if not any(map(is_agreement, notices)):
        known += f" The text of the {terms.agreement} did not come with it. Get it from {terms.text} and add it to this"
        known += " folder before you pass the model on."
    known += f" Uses that it forbids: {terms.policy}."
    return f"{terms.label}. {known}" if terms.label else known


def _front_licence(stated: Licence, terms: Terms | None) -> dict[str, str]:
    """The licence in the front matter: Hugging Face's identifier, or "other" with a name."""
    if terms is not None:
        return {"license": terms.identifier}
    if stated.identifier is None and not stated.name:
        return {"license": "unknown"}
    parts = {"license": stated.identifier or "other", "license_name": stated.name, "license_link": stated.link}
    return {key: value for key, value in parts.items() if value}


def _model_card(
    output: Path,
    model: str,
    checkpoint: "Checkpoint",
    licence: tuple[Licence, Terms | None, Sequence[str]],
    steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None,
) -> str:
    """Hugging Face's model card: front matter, then what this is and what it cost."""
    metadata = checkpoint.file.metadata
    base = str(metadata.get("general.name", model))
    front = {
        **_front_licence(*licence[:2]),
        "base_model": base,
        "tags": ["gguf", "smidgen"],
        "quantized_by": "smidgen",
    }
    size = (output / "model.gguf").stat().st_size
    lines = [
        *_front_matter(front),
        f"# {base}, cut to {format_size(size)}", "",
        f"`model.gguf` is {base} ({format_size(checkpoint.file.size)}), cut by smidgen to {size} bytes.",
        "It runs in llama.cpp, Ollama, LM Studio and other programs that read GGUF.", "",
        "What was done:", "", *(f"- {_step_in_words(step)}" for step in steps), "",
        "```", "smidgen run . \"Once upon a time\"", "llama-cli -m model.gguf", "```", "",
        "## What it cost", "", *_costs(card), "", "## Licence", "", _licence(*licence), "",
        "`recipe.toml` makes the same file again.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _step_in_words(step: Mapping[str, Any]) -> str:
    return str(step.get("summary", "Quantized, with error compensation."))


def _front_matter(front: Mapping[str, Any]) -> list[str]:
    """The YAML that Hugging Face reads, and an empty line. JSON's values are YAML's."""
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]


def _costs(card: Mapping[str, Any] | None) -> list[str]:
    if card is None:
        return ["Not measured. `smidgen measure ORIGINAL CUT` does it."]
    lines = ["| text | KL divergence (nats) | same top token | bits per byte before | after |", "|---|---|---|---|---|"]
    lines += [
        f"| {text['text']} | {text['kl_mean']:.4f} | {100 * text['same_top1']:.1f}% | "
        f"{text['bits_per_byte_original']:.4f} | {text['bits_per_byte_cut']:.4f} |"
        for text in card["fidelity"]
    ]
    return [*lines, "", "The whole report: `card.html`; as data: `card.json`."]
