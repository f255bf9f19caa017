"""`smidgen models`: the catalogue, what of it is on this machine, and what the cache holds."""

import json as json_format
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from smidgen.cli.options import Debug, Json, Quiet
from smidgen.errors import printable
from smidgen.formats.hub.catalogue import CATALOGUE, Entry, cache_folder, cached_file, is_ready

if TYPE_CHECKING:
    from smidgen.formats.cache import Kept


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of something in the cache.", show_default=False)
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache", help="What smidgen downloaded, converted, wrote and installed for itself: size, last use."
        ),
    ] = False,
    clear: Annotated[
        bool, typer.Option("--clear", help="With --cache: remove it, or only NAME. No file of others is touched.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The models that are known by name, with sizes and licences; with --cache, what smidgen keeps on this machine.

    \b
    Examples:
      smidgen models
      smidgen models --json
      smidgen models --cache
      smidgen models --cache --clear
      smidgen models --cache --clear google/gemma-2-2b-it
    """
    if cache:
        _cache(name, clear, json)
        return
    if clear or name is not None:
        raise typer.BadParameter("--clear and NAME are about the cache; add --cache")
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


def _cache(name: str | None, clear: bool, json: bool) -> None:
    """List what is kept, or remove it."""
    from smidgen.formats.cache import kept, remove

    things = kept(name)
    total = sum(one.bytes for one in things)
    if clear:
        remove(things)
    if json:
        state = {"cache": [_figures(one) for one in things], "bytes": total, "cleared": clear}
        print(json_format.dumps(state | {"folder": str(cache_folder())}))
        return
    if not things:
        print(f"The cache is empty ({printable(cache_folder())}).")
        return
    if clear:
        for one in things:
            print(f"Removed: {printable(one.name)}, {one.kind}, {one.bytes / 1e6:.1f} MB")
        print(f"{total / 1e6:.1f} MB are free again.")
        return
    for one in things:
        print(f"{printable(one.name, 64):<40}  {one.kind:<12}{one.bytes / 1e6:>10.1f} MB  last used {_day(one)}")
    print(f"{'in all':<40}  {'':<12}{total / 1e6:>10.1f} MB")
    print(f"\nConversions, texts and environments are in {printable(cache_folder())}, downloads in the hub's cache.")
    print("`smidgen models --cache --clear` removes all of it, with a name behind it only that.")
    if any(one.name != one.group for one in things):
        print("What follows the last dot tells things of one name apart; the name without it means all of them.")


def _figures(one: "Kept") -> dict[str, str | int]:
    used = datetime.fromtimestamp(one.last_used, UTC).isoformat(timespec="seconds")
    return {"name": one.name, "kind": one.kind, "bytes": one.bytes, "last_used": used}


def _day(one: "Kept") -> str:
    return datetime.fromtimestamp(one.last_used).astimezone().date().isoformat()
