"""`smidgen models`: the catalogue, and what of it is on this machine."""

import json as json_format

from smidgen.cli.options import Debug, Json, Quiet
from smidgen.formats.hub.catalogue import CATALOGUE, Entry, cached_file, is_ready


def command(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """The models that are known by name, with sizes and licences.

    \b
    Examples:
      smidgen models
      smidgen models --json
    """
    if json:
        print(json_format.dumps({"models": [_describe(entry) for entry in CATALOGUE.values()]}))
        return
    for entry in CATALOGUE.values():
        print(f"{entry.name:<24}{entry.bytes / 1e6:>5.0f} MB  {entry.licence:<21}{_state(entry)}")
        print(f"  {entry.description}")
    missing = [entry for entry in CATALOGUE.values() if not is_ready(entry)]
    if missing:
        print("\nInstall the missing ones with:")
    for entry in missing:
        print(f"  {entry.install:<44}# {entry.name}")
    print(
        "\nIn place of a name: a .gguf file, a folder that `smidgen cut` wrote, a folder in Hugging Face layout, or a"
    )
    print("repo of the Hugging Face hub (org/name), which is downloaded.")


def _describe(entry: Entry) -> dict[str, str | int]:
    return {
        "name": entry.name,
        "description": entry.description,
        "licence": entry.licence,
        "package": entry.package,
        "bytes": entry.bytes,
        "state": _state(entry),
    }


def _state(entry: Entry) -> str:
    if len(entry.parts) > 1 and cached_file(entry).is_file():
        return "cached"
    return "installed" if is_ready(entry) else "not installed"
