"""The verb `ui`: a page to chat with models, compare and cut them, until it is told to stop."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from smidgen.bounds import MOST_THREADS, within
from smidgen.errors import SmidgenError
from smidgen.formats.hub.catalogue import ModelName
from smidgen.formats.hub.home import cache_folder
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.serving.admission import own_names
from smidgen.serving.keys import Key
from smidgen.serving.listening import address_of, is_loopback, listening_socket
from smidgen.serving.web_server import WebServer
from smidgen.showing.ballots import BallotBox
from smidgen.showing.cut_desk import CutDesk
from smidgen.showing.door import Door
from smidgen.showing.extra import prepare_gradio
from smidgen.showing.models import Shelf

_MOST_PARALLEL = 4096
_LAST_WORDS_S = 1  # that open windows have when the page is told to stop


@dataclass(frozen=True)
class Shown:
    """A page that has begun. address: `http://host:port`.  votes: the file that votes go to."""

    address: str
    names: Sequence[str]
    votes: Path


def ui(
    models: Sequence[ModelName], *, host: str = "127.0.0.1", port: int = 7860, api_key: str | None = None,
    parallel: int = 1, ctx_size: int | None = None, threads: int | None = None, votes: Path | None = None,
    kv: KVType = AS_USUAL, announce: Callable[[Shown], None] | None = None,
) -> NoReturn:  # fmt: skip
    """Show one or two models on a page until Ctrl-C or SIGTERM, which end this process with code 0.

    host: any but a loopback address needs `api_key`.  port: 0 takes a free one.
    parallel: answers at a time of each model, each with `ctx_size` tokens of context; default the model's own, at most
    4096.  votes: an SQLite file, default `votes.sqlite` in smidgen's folder.
    kv: how every model on the page keeps keys and values, and what is cut there while its card is measured.
    announce: called once, when the page can be opened.
    Raises SmidgenError for an address that may not or cannot be listened on, for a file of votes that is none, and
    where Gradio is not installed; BadFile or Unsupported for a model.
    """
    within("port", port, 0, 65535)
    within("parallel", parallel, 1, _MOST_PARALLEL)
    within("threads", threads, 1, MOST_THREADS)
    if not 1 <= len(models) <= 2:
        raise SmidgenError(f"the page shows one model, or two to compare; {len(models)} were given.")
    if not api_key and not is_loopback(host):
        raise SmidgenError(
            f"--host {host} lets other machines in, which needs a key: add --api-key SECRET, or use --host 127.0.0.1."
        )
    keys = [Key.of_secret(api_key)] if api_key else []
    home = cache_folder()
    prepare_gradio(home / "ui")
    with ExitStack() as stack:
        listener = stack.enter_context(listening_socket(host, port))
        box = _ballot_box(votes, home)
        shelf = stack.enter_context(Shelf(models, ctx_size, threads, parallel, kv))
        for model in shelf.given:
            model.load()
        from smidgen.showing.page import build_page  # which imports Gradio

        desk = stack.enter_context(CutDesk(shelf, Path.cwd(), home / "ui"))
        door = Door(build_page(shelf, box, desk), own_names(host), keys, any_address=not is_loopback(host))
        shown = Shown(address_of(listener, host), shelf.names, box.path)
        WebServer(door, lambda: announce and announce(shown), _LAST_WORDS_S).run([listener])
    sys.exit(0)


def _ballot_box(votes: Path | None, home: Path) -> BallotBox:
    if votes is None:
        home.mkdir(parents=True, exist_ok=True)
        votes = home / "votes.sqlite"
    return BallotBox(votes.absolute())
