"""Sends files to a repository of the Hugging Face hub, as one commit: it is changed as a whole or not at all.

huggingface_hub does the sending: large files first, and of those only what the hub does not have, so another try after
a broken connection goes on with the next file. It sends by Git LFS and not by Xet, whose client (hf-xet 1.8) reports
every transfer: how long it took, the system, the number of processors. Addresses and tokens are the library's, by its
environment variables. What the repository has already is looked at first: nothing of others is replaced without a word,
and what smidgen sent there earlier about another model is removed.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

from smidgen.errors import SmidgenError, printable
from smidgen.formats.hub.hub import DEFAULT_REVISION, HubModel
from smidgen.formats.hub.transfer import NO_NETWORK, endpoint, is_offline
from smidgen.owned import MANIFEST
from smidgen.progress import Task, track
from smidgen.publishing.companions import WRITTEN
from smidgen.version import __version__

_LARGE = (".gguf", ".safetensors")
_AGAIN = "Run the same command again: what has arrived there is not sent twice."


@dataclass(frozen=True)
class Wishes:
    """As `push.push` has them."""

    private: bool = False
    pull_request: bool = False
    replace: bool = False
    message: str | None = None


@dataclass(frozen=True)
class Sent:
    """Where it is: the address of the repository or of the pull request, and the commit."""

    address: str
    commit: str


def address_of(repo: str) -> str:
    """The page of a repository."""
    return f"{endpoint()}/{repo}"


def upload(folder: Path, names: Sequence[str], wish: HubModel, wishes: Wishes) -> Sent:
    """Send these files of a folder. Raises SmidgenError, in one line, as `push.push` says."""
    if is_offline():
        raise SmidgenError("HF_HUB_OFFLINE=1 allows no request to the hub, so nothing was sent; unset it to push.")
    token = get_token()
    if token is None:
        raise SmidgenError(
            f"there is no token for {endpoint()}: make one that may write ({endpoint()}/settings/tokens), then set "
            "HF_TOKEN or run `hf auth login`."
        )
    api = HfApi(endpoint=endpoint(), library_name="smidgen", library_version=__version__, token=token)
    with _explained(wish), _library_quiet():
        there = _repository(api, wish, wishes)
        present = [] if there is None else [file.rfilename for file in there.siblings or []]
        _refuse_to_replace(wish, names, present, wishes)
        outdated = [name for name in present if MANIFEST in present and name in WRITTEN and name not in names]
        with _additions(folder, names) as additions:
            done = api.create_commit(
                wish.repo,
                [*additions, *map(CommitOperationDelete, outdated)],
                commit_message=wishes.message or f"Made with smidgen {__version__}",
                revision=wish.revision,
                create_pr=wishes.pull_request,
                parent_commit=None if there is None else there.sha,
            )
    return Sent(printable(done.pr_url or address_of(wish.repo)), done.oid)


def _repository(api: HfApi, wish: HubModel, wishes: Wishes) -> ModelInfo | None:
    """What the repository has at this branch; None where it was made just now."""
    try:
        there = api.model_info(wish.repo, revision=wish.revision or DEFAULT_REVISION)
    except RepositoryNotFoundError:
        if wish.revision not in (None, DEFAULT_REVISION):
            raise SmidgenError(
                f"there is no {wish.repo}, and a new one has no branch {wish.revision}; push to {wish.repo} first."
            ) from None
        api.create_repo(wish.repo, private=wishes.private or None)
        return None
    if wishes.private and not there.private:
        raise SmidgenError(
            f"{wish.repo} is there and public, so --private would hide nothing. Make it private in its settings "
            f"({address_of(wish.repo)}/settings), or choose another name."
        )
    return there


def _refuse_to_replace(wish: HubModel, names: Sequence[str], present: Sequence[str], wishes: Wishes) -> None:
    replaced = [name for name in names if name in present]
    if replaced and MANIFEST not in present and not (wishes.replace or wishes.pull_request):
        raise SmidgenError(
            f"{wish.repo} has a {replaced[0]} that smidgen did not send, and it would be replaced. Choose another "
            "name, or give --replace, or --pr to propose it as a pull request."
        )


@contextmanager
def _additions(folder: Path, names: Sequence[str]) -> Iterator[list[CommitOperationAdd]]:
    """The files for the library; the bar moves while it reads the large ones to send them."""
    large = [name for name in names if name.endswith(_LARGE)]
    total = sum((folder / name).stat().st_size for name in large)
    with ExitStack() as stack:
        task = stack.enter_context(track("Sending", total, in_bytes=True))
        files = {name: stack.enter_context(_Watched(folder / name, task)) for name in large}
        yield [CommitOperationAdd(name, files.get(name, folder / name)) for name in names]


class _Watched(io.BufferedReader):
    """A file whose reading moves a bar. It is read once to be hashed, then sent, and sent again after a break."""

    def __init__(self, path: Path, task: Task) -> None:
        super().__init__(io.FileIO(path))
        self._size, self._task = path.stat().st_size, task
        self._hashed, self._sent = False, 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        place = self.tell()
        if self._hashed and place > self._sent:
            self._task.advance(place - self._sent)
            self._sent = place
        self._hashed = self._hashed or place == self._size
        return data


@contextmanager
def _library_quiet() -> Iterator[None]:
    """No reports to anybody; no bars beside ours, and no advice to programmers."""
    constants.HF_HUB_DISABLE_TELEMETRY = True  # another part of this process may have loaded the library before
    hidden, by_lfs, level = are_progress_bars_disabled(), constants.HF_HUB_DISABLE_XET, logging.get_verbosity()
    constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = by_lfs
        logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()


@contextmanager
def _explained(wish: HubModel) -> Iterator[None]:
    """Turns what goes wrong into one line that says what to do. Uploads are done in threads, which wrap errors."""
    try:
        yield
    except SmidgenError:
        raise
    except Exception as error:
        said = printable(" ".join(str(error).split()), 200)
        if isinstance(error, HFValidationError):
            raise SmidgenError(f"{wish.repo} is not a name that the hub allows ({said}).") from error
        if isinstance(error, JSONDecodeError | KeyError | TypeError):
            raise SmidgenError(f"{endpoint()} does not answer like a hub; check HF_ENDPOINT and the proxy.") from error
        if isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError):
            raise SmidgenError(f"{endpoint()} does not take it ({said}).") from error
        for cause in _causes(error):
            if isinstance(cause, HfHubHTTPError):
                raise SmidgenError(_answer(wish, cause)) from error
            if isinstance(cause, NO_NETWORK):
                met = printable(cause, 80) or type(cause).__name__
                raise SmidgenError(f"the connection to {endpoint()} broke ({met}). {_AGAIN}") from error
        if isinstance(error, RuntimeError | OSError):
            raise SmidgenError(f"sending to {endpoint()} failed ({said}). {_AGAIN}") from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _answer(wish: HubModel, error: HfHubHTTPError) -> str:
    """What an answer of the hub means for a person."""
    status, owner = error.response.status_code, wish.repo.partition("/")[0]
    if isinstance(error, RevisionNotFoundError):
        return f"{wish.repo} has no branch {wish.revision}; make it on {address_of(wish.repo)}, or push to {wish.repo}."
    if status == 401:
        return f"{endpoint()} does not accept the token (401); set HF_TOKEN, or run `hf auth login`, with a valid one."
    if status == 403:
        return (
            f"the token may not write to {wish.repo} (403); take one that may, of an account that may write to "
            f"{owner} ({endpoint()}/settings/tokens)."
        )
    if status == 404:
        return f"{endpoint()} has no {wish.repo} that it would show this token (404); check the name."
    if status in (409, 412):
        return f"{wish.repo} was changed by somebody else just now ({status}). {_AGAIN}"
    said = printable(" ".join((error.server_message or "").split()), 120)
    what = f"{endpoint()} answered {status} for {wish.repo}{f' ({said})' if said else ''}"
    return f"{what}. {_AGAIN}" if status >= 500 or status == 429 else f"{what}."
