"""Models on the Hugging Face hub: from `org/name[@revision][:file.gguf or QUANT]` to files on this machine.

The list of a repo's files comes first, in one request, with the commit that it belongs to; then only what is needed is
fetched, in the order that leaves the weights for last. Which files are needed is decided here; `transfer` moves the
bytes. Addresses, tokens, the cache and offline mode are huggingface_hub's, by its environment variables: HF_ENDPOINT,
HF_TOKEN, HF_HOME, HF_HUB_OFFLINE (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).

No telemetry: the library's is switched off, and nothing but the endpoint, and where it redirects to, is asked.

Torch-free and cheap to import: huggingface_hub is loaded when a model is downloaded.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.hf.folder import (
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    INDEX_BYTES,
    SINGLE,
    TOKENIZER_FILES,
    is_template,
    read_json,
)
from smidgen.formats.hub.notices import README, is_notice
from smidgen.formats.hub.origin import looks_like_a_file
from smidgen.progress import say

if TYPE_CHECKING:
    from smidgen.formats.hub.transfer import Repo

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported

DEFAULT_REVISION = "main"
DEFAULT_QUANT = "Q4_K_M"  # as Ollama and llama.cpp's -hf choose
_PATTERN = re.compile(
    r"(?P<address>(?:https?://)?(?:huggingface\.co|hf\.co)/)?"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./+-]+))?(?::(?P<file>[\w./+ -]+))?",
    re.ASCII,
)
_PICKLE = re.compile(r"(pytorch_model.*\.bin|.*\.(pt|pth|ckpt))")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_NO_MODEL = re.compile(r"(^|[/._-])(mmproj|imatrix)", re.IGNORECASE)  # a vision projector, a table of importances


def is_address(text: str) -> bool:
    """Whether a name says itself that it is of the hub, as `hf.co/org/name` does."""
    match = _PATTERN.fullmatch(text)
    return match is not None and match["address"] is not None


@dataclass(frozen=True)
class HubModel:
    """A model on the hub as a person names it.

    repo: "org/name".  revision: branch, tag or commit; None for the main branch.
    file: a .gguf file in the repo, or the name of its quantization ("Q4_K_M"), in any case; None to leave it open.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """`org/name[@revision][:file or quantization]`, also as a web address of the repo; None for other text."""
        match = _PATTERN.fullmatch(text)
        if match is None or (looks_like_a_file(match["repo"]) and not (match["address"] or match["file"])):
            return None
        if any(part in ("", ".", "..") for part in (match["revision"] or "-").split("/")):
            return None
        return cls(match["repo"], match["revision"], match["file"])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}" + (f":{self.file}" if self.file else "")


def download(model: HubModel) -> Path:
    """Fetch what is missing of a model into the hub's cache: its folder (Hugging Face layout) or its .gguf file.

    An interrupted download goes on where it stopped. Without a network, or with HF_HUB_OFFLINE=1, what the cache has is
    used. Raises SmidgenError (with what to do), Unsupported for what smidgen does not read, BadFile for a damaged repo.
    """
    from smidgen.formats.hub import transfer as transfer

    if transfer.is_offline():
        return _from_cache(model, "HF_HUB_OFFLINE=1 allows only the cache; unset it once to download the model")
    with _explained(model):
        try:
            repo = transfer.list_repo(model.repo, model.revision or DEFAULT_REVISION)
        except transfer.NO_NETWORK as error:
            reason = f"{transfer.endpoint()} cannot be reached ({printable(error, 80) or type(error).__name__})"
            path = _from_cache(model, f"{reason}; check the network, or the address in HF_ENDPOINT")
            say(f"{reason}: using {model} from the cache.")
            return path
        return _fetch(model, repo)


def cached(model: HubModel) -> Path | None:
    """What `download` would return, if the cache has it; asks nobody."""
    from smidgen.formats.hub import transfer as transfer

    snapshot = transfer.cached_snapshot(model.repo, model.revision or DEFAULT_REVISION)
    if snapshot is None:
        return None
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    try:
        chosen = choose(model, names)
        if isinstance(chosen, str):
            return snapshot / chosen
        shards = _shards(snapshot / INDEX, names) if INDEX in chosen else []
    except SmidgenError:
        return None
    return snapshot if set(shards) <= set(names) else None


def choose(model: HubModel, names: Collection[str]) -> str | list[str]:
    """What to fetch of the files in a repo: the path of one .gguf file, or the names of a Hugging Face folder's files.

    The shards that an index names are not among the latter: the index has to be read first.
    Raises Unsupported or SmidgenError where there is nothing to choose, or too much.
    """
    plain = [name for name in names if _is_plain(name)]
    ggufs = sorted(name for name in plain if name.lower().endswith(".gguf") and not _NO_MODEL.search(name))
    weights = SINGLE if SINGLE in plain else INDEX if INDEX in plain else None
    if model.file is not None or (ggufs and weights is None):
        return _choose_gguf(model, ggufs)
    if weights is not None and CONFIG in plain:
        wanted = (CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, *filter(is_template, sorted(plain)))
        return [*(name for name in wanted if name in plain), weights]
    pickles = [name for name in plain if _PICKLE.fullmatch(name)]
    if weights is None and pickles:
        raise Unsupported(
            f"{model.repo} has its weights only as Python pickles ({pickles[0]}), which smidgen never opens, because "
            f"they can run code; look for the model in safetensors or GGUF"
        )
    if "adapter_config.json" in plain:
        raise Unsupported(f"{model.repo} is an adapter, not a whole model; merge it into its base model first")
    missing = CONFIG if weights is not None else "weights in safetensors or GGUF"
    raise Unsupported(f"{model.repo} has no {missing} in its main folder; choose the repo of a language model")


def _is_plain(path: str) -> bool:
    """Whether a path in a repo stays inside it on every system."""
    parts = path.split("/")
    return (
        all(part not in ("", ".", "..") for part in parts) and path.isprintable() and not set(path) & set('\\:*?"<>|')
    )


def _choose_gguf(model: HubModel, ggufs: list[str]) -> str:
    """By the whole name, by the name of its quantization, or the only one."""
    if not ggufs:
        raise SmidgenError(f"{model.repo} has no .gguf files; give {model.repo} without :{model.file}")
    wish = (model.file or DEFAULT_QUANT).lower()
    found = [name for name in ggufs if wish in (name.lower(), name.rpartition("/")[2].lower())]
    if not found:
        tag = re.compile(rf"(^|[/._-]){re.escape(wish.removesuffix('.gguf'))}([/.-]|$)", re.IGNORECASE)
        found = [name for name in ggufs if tag.search(name)]
    if not found and model.file is None and len(ggufs) == 1:
        found = ggufs
    whole = [name for name in found if not _SPLIT.search(name)]
    if found and not whole:
        raise Unsupported(
            f"{model.repo} has {found[0]} in {len(found)} parts, which smidgen does not download; choose another after "
            f"':', or download all parts into one folder and give one of them"
        )
    if len(whole) == 1:
        return whole[0]
    endings = [name for name in whole if name.lower().endswith((f"-{wish}.gguf", f".{wish}.gguf"))]
    if len(endings) == 1:
        return endings[0]
    listed = ", ".join(printable(name, 80) for name in (whole or ggufs)[:30])
    asked = f"no .gguf file {model.file}" if model.file and not whole else f"{len(whole or ggufs)} .gguf files"
    raise SmidgenError(f"{model.repo} has {asked}; name one as {model.repo}:FILE or :QUANT. There are: {listed}")


def _fetch(model: HubModel, repo: "Repo") -> Path:
    """Small files first, then the index, then the weights: whoever finds the weights finds the rest too."""
    from smidgen.formats.hub import transfer as transfer

    chosen = choose(model, repo.files)
    notices = [
        name for name in repo.files if "/" not in name and _is_plain(name) and (is_notice(name) or name == README)
    ]
    names = [*notices, chosen] if isinstance(chosen, str) else [*notices, *chosen]
    if INDEX in chosen:
        transfer.fetch(repo, [repo.files[INDEX]])
        names += _shards(repo.snapshot / INDEX, repo.files)
    transfer.fetch(repo, [repo.files[name] for name in names], label=f"Downloading {model.repo}")
    return repo.snapshot / chosen if isinstance(chosen, str) else repo.snapshot


def _shards(index: Path, names: Collection[str]) -> list[str]:
    """The weight files that an index names; all must be plain names of files in the repo."""
    content = read_json(index, INDEX_BYTES)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise BadFile(f"{printable(index)} has no weight_map; the repo is damaged, choose another revision")
    shards = sorted(set(listed.values()))
    for shard in shards:
        if shard not in names or not _is_plain(shard) or "/" in shard or not shard.endswith(".safetensors"):
            raise BadFile(f"{printable(index)} names {printable(shard)}, which is no weight file of the repo")
    return shards


def _from_cache(model: HubModel, why: str) -> Path:
    from smidgen.formats.hub import transfer as transfer

    path = cached(model)
    if path is None:
        raise SmidgenError(
            f"{model} is not complete in the cache ({printable(transfer.cache_folder())}), and {why}, or copy the "
            f"cache of a machine that has it"
        )
    return path


@contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Turns the hub's answers into one line that says what to do."""
    from huggingface_hub import errors

    from smidgen.formats.hub import transfer as transfer

    page = f"{transfer.endpoint()}/{model.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise SmidgenError(
            f"{model.repo} is gated: accept its licence at {page} with your account, then set HF_TOKEN to a token of "
            f"that account ({transfer.endpoint()}/settings/tokens)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SmidgenError(
            f"{model.repo} has no revision {model.revision}; see {page}/commits for those there"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SmidgenError(
            f"{transfer.endpoint()} has no model {model.repo} that it would show; check the name, and for a private "
            f"one set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise SmidgenError(f"{model.repo} is not a name that the hub allows ({printable(error)})") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise SmidgenError(f"{transfer.endpoint()} answered {status} for {model.repo}; {advice}") from error
