"""`smidgen inspect`: what is in a model file."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.options import Debug, Json, Model, Quiet
from smidgen.errors import printable

if TYPE_CHECKING:
    from smidgen.formats.summary import Share, Summary


def command(model: Model, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What is in a model file: parameters and bytes by part and type, tokenizer, context, licence.

    Reads headers and settings only, so it is quick for models of any size; of a GGUF file's head also some rows, to see
    whether it is the embedding, stored twice. MODEL may also be a folder in Hugging Face
    layout or a repository on the hub. A model that smidgen cannot cut or run is described too, with the reason.

    \b
    Examples:
      smidgen inspect gemma-3-270m
      smidgen inspect gemma-small/model.gguf --json
    """
    from smidgen.formats.summary import summarise

    summary = summarise(model)
    if summary.cannot_cut is None and not summary.tied_head and summary.format.startswith("GGUF"):
        summary.stored_twice = _stored_twice(Path(summary.path))
    if json:
        print(json_format.dumps(asdict(summary)))
        return
    for label, value in _facts(summary):
        print(f"{label:<14}{value}")
    counted = "numbers" if summary.parameters is None else "parameters"
    _print_shares("part", counted, summary.parts, summary.bytes)
    _print_shares("type", counted, summary.types, summary.bytes)


def _stored_twice(path: Path) -> int | None:
    """Bytes of a head that is the embedding, as far as some rows tell; None where it is another matrix."""
    from smidgen.formats.head_apart import head_may_be_embedding

    if not head_may_be_embedding(path):
        return None
    from smidgen.formats.opening import open_checkpoint
    from smidgen.formats.stored_twice import stored_twice  # which loads torch

    with open_checkpoint(path) as checkpoint:
        twice = stored_twice(checkpoint, sample=True)
    return None if twice is None else twice.nbytes


def _facts(summary: "Summary") -> list[tuple[str, str]]:
    """Label and text of each fact that the file states."""
    head = "head tied to the embedding" if summary.tied_head else "head of its own"
    if summary.stored_twice is not None:
        head = f"the head is the embedding, stored twice ({summary.stored_twice / 1e6:.1f} MB)"
    bits = "" if summary.bits_per_weight is None else f", {summary.bits_per_weight:.2f} bits a weight"
    padding = f" ({summary.padding} of them padding that no text becomes)" if summary.padding else ""
    template = ", ".join(summary.chat_templates) or "no (a base model: it completes text)"
    template = "yes" if summary.chat_templates == ["default"] else template
    heads = f"{summary.heads}, {summary.kv_heads} key/value" if summary.heads and summary.kv_heads else None
    parts = f", {summary.files} parts" if summary.files > 1 else ""
    facts: list[tuple[str, object]] = [
        ("file", f"{printable(summary.path)} ({summary.format}{parts})"),
        ("name", summary.name),
        ("architecture", _architecture(summary)),
        ("family", summary.family),
        *_limits(summary),
        ("heads", heads),
        ("window", _window(summary)),
        ("experts", f"{summary.experts}, {summary.experts_used} for each token" if summary.experts else None),
        ("parameters", "not known, packed" if summary.parameters is None else f"{summary.parameters / 1e6:.1f} M"),
        ("packed by", summary.quantization),
        ("size", f"{summary.bytes / 1e6:.1f} MB" + bits),
        ("context", f"{summary.context_length} tokens" if summary.context_length else None),
        ("each token", _kept(summary)),
        ("vocabulary", f"{summary.vocabulary} tokens{padding}, {head}" if summary.vocabulary else None),
        ("tokenizer", summary.tokenizer),
        ("chat template", template),
        ("licence", summary.licence or "not stated"),
    ]
    facts += [("", printable(path)) for path in summary.licence_files]
    facts += [("" if place else "cut", line) for place, line in enumerate(summary.history)]
    return [(label, str(value)) for label, value in facts if value is not None]


def _kept(summary: "Summary") -> str | None:
    """Bytes of keys and values of a token, as usual and with `--kv`."""
    if summary.kept_bytes_per_token is None:
        return None
    (_, usual), *smaller = summary.kept_bytes_per_token.items()
    more = f" ({', '.join(f'--kv {kv}: {size:,}' for kv, size in smaller)})" if smaller else ""
    return f"keeps {usual:,} bytes of keys and values{more}"


def _architecture(summary: "Summary") -> str:
    layers = "" if summary.layers is None else f", {summary.layers} layers"
    return summary.architecture + layers + ("" if summary.hidden is None else f", hidden {summary.hidden}")


def _limits(summary: "Summary") -> list[tuple[str, str | None]]:
    """What smidgen cannot do with a model, and why; nothing where it can do everything."""
    if summary.cannot_cut is None:
        return []
    if summary.cannot_run is not None:
        return [("smidgen", f"cannot cut or run it: {summary.cannot_run}")]
    return [
        ("smidgen", f"cannot cut, measure, export, distill or tune it: {summary.cannot_cut}"),
        ("", "run, chat, serve and bench hand it to llama.cpp as it is"),
    ]


def _window(summary: "Summary") -> str | None:
    """How far the layers see: L for a layer with the window, G for one that sees everything."""
    if summary.window is None or not summary.windowed:
        return None
    letters = "".join("L" if local else "G" for local in summary.windowed)
    return f"{summary.window} tokens in {sum(summary.windowed)} of {len(letters)} layers: {letters}"


def _print_shares(title: str, counted: str, shares: "dict[str, Share]", file_bytes: int) -> None:
    """counted: what the tensors hold one by one: parameters, or numbers that several of them are packed into."""
    each = "bits/weight" if counted == "parameters" else "bits/number"
    print(f"\n{title:<14}{'tensors':>8}{counted:>14}{'MB':>9}{'of file':>9}{each:>13}")
    for name, share in shares.items():
        bits = 8 * share.bytes / share.parameters
        print(
            f"{name:<14}{share.tensors:>8}{share.parameters / 1e6:>12.2f} M{share.bytes / 1e6:>9.2f}"
            f"{share.bytes / file_bytes:>9.1%}{bits:>13.2f}"
        )
