"""What a cut leaves beside the model: README.md (a Hugging Face model card), recipe.toml, Modelfile, licence files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.atomic import refuse_unmakeable, write_whole
from smidgen.curve import write_curve
from smidgen.errors import SmidgenError, printable
from smidgen.formats.hub.origin import MODEL_FILE, Origin
from smidgen.owned import claim, refuse_others
from smidgen.publishing.first_words import can_chat, run_command
from smidgen.publishing.licence import Licensed
from smidgen.publishing.model_card import IN_OLLAMA, base_model, model_card, title
from smidgen.publishing.modelfile import MODELFILE, write_modelfile
from smidgen.publishing.wording import front_matter, in_markdown
from smidgen.shell import as_word

if TYPE_CHECKING:
    from smidgen.formats.checkpoint import Checkpoint

WORK, CURVE = "work", "loss.svg"
#: What the verbs that make models write into their folder, beside the original's licence and notice files.
WRITTEN = (
    MODEL_FILE, "card.json", "card.html", "README.md", "recipe.toml", "NOTICE", "NOTICE.smidgen.txt", CURVE,
    MODELFILE, "metrics.jsonl", "adapter_model.safetensors", "adapter_config.json", "adapter.gguf",
)  # fmt: skip
_LONGEST_SENTENCE = 2000
_UNFINISHED_START = {".fingerprint.json.partial"}  # all that a cut killed at its very beginning leaves in WORK


def refuse_output(output: Path, origin: Origin) -> None:
    """Raises SmidgenError where a cut of a model cannot write, or would destroy what is not its own.

    Writes nothing and needs no torch, so it can be asked before anything else.
    """
    shown, advice = printable(output), "Choose another folder with -o."
    if not _is_utf8(output.absolute()):
        raise SmidgenError(f"{shown} has a name that is not UTF-8, which libraries cannot write to. {advice}")
    refuse_unmakeable(output, advice)
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
    return [*WRITTEN, *(file.name for file in origin.notices)]


def _is_of_a_cut(work: Path) -> bool:
    if not work.is_dir():
        return False
    return (work / "fingerprint.json").is_file() or {path.name for path in work.iterdir()} <= _UNFINISHED_START


def remove_outdated(output: Path) -> None:
    """Remove what an earlier cut wrote about an earlier model here: it is not true of the new one."""
    for name in ("card.json", "card.html", "README.md", "recipe.toml", MODELFILE):
        (output / name).unlink(missing_ok=True)


def remove_others(output: Path, written: Iterable[str]) -> None:
    """Remove what an earlier training left here and this one has not written: nobody shall take it for the new one."""
    for name in {*WRITTEN} - {*written, "NOTICE", "NOTICE.smidgen.txt"}:
        (output / name).unlink(missing_ok=True)


def write_companions(
    output: Path,
    checkpoint: "Checkpoint",
    recipe: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    card: Mapping[str, Any] | None,
) -> None:
    """Write everything but the model and the card into `output`. steps: what was done, as on the card."""
    licence = Licensed.beside(output, checkpoint)
    write_whole(output / "recipe.toml", _toml(recipe))
    size = (output / MODEL_FILE).stat().st_size
    write_whole(output / "README.md", model_card(checkpoint, licence, recipe, steps, card, size, can_chat(output)))
    write_modelfile(output, [licence])


def run_by(install: str, command: str) -> list[str]:
    """A section on a program that runs the folder it is called in, for `write_export_notes`."""
    return ["## Run it", "", f"`{install}`, then in this folder:", "", "```", command, "```", ""]


def write_export_notes(
    output: Path,
    checkpoint: "Checkpoint",
    layout: str = "in Hugging Face layout",
    made: str = "model.safetensors",
    use: Sequence[str] = (),
    done: Sequence[str] = (),
) -> None:
    """README.md, licence and notice files beside a model that was exported to a folder.

    layout: what the folder is, after "The weights of …".  made: the file with the weights.  use: how to run it.
    done: what happened to the weights on the way, in sentences; none where they are as they were.
    """
    licence, base = Licensed.beside(output, checkpoint, made), title(checkpoint)
    what = f"The weights of {base} {layout}, written by `smidgen export`."
    lines = [
        *front_matter({**licence.in_front(), **base_model(checkpoint)}), f"# {base}", "", what, "",
        *(part for sentence in done for part in (in_markdown(sentence, _LONGEST_SENTENCE), "")),
        *use, "## Licence", "", licence.in_words(), "", licence.on_use(),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_tuning_notes(
    output: Path,
    checkpoint: "Checkpoint",
    written: Sequence[str],
    done: Sequence[str],
    losses: "LossCurve",
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `tune` wrote.

    done: what was learned, in sentences.
    """
    made = MODEL_FILE if MODEL_FILE in written else "adapter.gguf"
    licence = Licensed.beside(output, checkpoint, made)
    tags = ["smidgen", "gguf", *(["lora"] if "adapter.gguf" in written else [])]
    front = {**licence.in_front(), **base_model(checkpoint), "tags": tags}
    uses = []
    if "adapter.gguf" in written:
        front["library_name"] = "peft"
        uses += [
            f"smidgen chat {as_word(checkpoint.origin.file)} --lora .",
            "llama-cli -m MODEL.gguf --lora adapter.gguf",
        ]
    if made == MODEL_FILE:
        uses += ["smidgen chat .", "llama-cli -m model.gguf", IN_OLLAMA]
        write_modelfile(output, [licence])
    lines = [
        *front_matter(front), f"# {title(checkpoint)}, tuned", "", *_paragraph(done), "",
        *losses.draw(output), "```", *uses, "```", "",
        "## Licence", "", licence.in_words(), "", licence.on_use(),
    ]  # fmt: skip
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def write_distilling_notes(
    output: Path,
    models: Sequence["Checkpoint"],
    done: Sequence[str],
    losses: "LossCurve",
) -> None:
    """README.md, the curve of the loss, licence and notice files beside what `distill` wrote.

    models: what the student was made of, and the teacher where that is another: the terms of both may bind it.
    done: what was learned, in sentences.
    """
    licences = [Licensed.beside(output, checkpoint) for checkpoint in models]
    front = {**licences[0].in_front(), **base_model(models[0]), "tags": ["smidgen", "gguf"]}
    of_each = [
        f"Of {title(model)}: {licence.in_words()}\n\n{licence.on_use()}"
        for model, licence in zip(models, licences, strict=True)
    ]
    lines = [
        *front_matter(front), f"# A student of {title(models[-1])}", "",
        *_paragraph(done), "", *losses.draw(output), "```",
        run_command(".", can_chat(output)),
        "llama-cli -m model.gguf", IN_OLLAMA, "```", "", "## Licence", "", "\n\n".join(of_each),
    ]  # fmt: skip
    write_modelfile(output, licences)
    write_whole(output / "README.md", "\n".join(lines) + "\n")


def _paragraph(lines: Sequence[str]) -> list[str]:
    """Each on a line of its own, in Markdown."""
    return [f"{in_markdown(line, 1000)}  " for line in lines]


@dataclass(frozen=True)
class LossCurve:
    """points: step, and the loss before it.  kept: step whose state was written.  what: it was measured on.

    chosen: whether what it was measured on has chosen that state; something else has said how good it is then.
    """

    points: Sequence[tuple[int, float]]
    kept: int | None
    what: str
    chosen: bool

    def draw(self, output: Path) -> list[str]:
        """Draw it, where there is something to see; lines that show it."""
        if len(self.points) < 2:
            return []
        named = f"Loss on held-out {self.what}{', the half that chose' if self.chosen else ''}"
        axis = f"{named}, nats per token"
        write_curve(output / CURVE, named, self.points, "steps", axis, from_zero=False, marked=self.kept)
        return [f"![{named} over the steps of training; the ring is what was written]({CURVE})", ""]


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
