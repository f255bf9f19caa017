"""What a model is and where it is from: found once, when it is located, and handed on from there. Torch-free.

Whoever writes about a model (its README, its report card, the recipe, a server) asks its `Origin`, and so says the same
thing, with a name and never a path. The sha256 is the checkpoint's, which reads every byte once and remembers.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from smidgen.errors import printable
from smidgen.formats.hub.notices import README, Licence, card_of, notices_in, stated_licence
from smidgen.owned import is_ours

MODEL_FILE = "model.gguf"  # what the verbs call the model inside the folder that they write
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST_ID = 192
_FILE_OR_NOT = re.compile(
    r".*\.(gguf|ggml|safetensors|bin|pt|pth|ckpt|onnx|h5|npz|msgpack|json|jsonl|jinja|py|txt|md|html|toml|yaml|zip|gz|tar)",
    re.IGNORECASE,
)
_ON_THE_HUB = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)/?", re.IGNORECASE)


def is_hub_id(text: str) -> bool:
    """Whether this can be a repository's name, `owner/name`: not one that ends like a file's."""
    return (
        bool(_HUB_ID.fullmatch(text))
        and len(text) <= _LONGEST_ID
        and not any(odd in text for odd in ("--", ".."))
        and not text.endswith((".", ".git"))
        and not looks_like_a_file(text)
    )


def looks_like_a_file(text: str) -> bool:
    """Whether a name ends like that of a file, which no repository's does."""
    return bool(_FILE_OR_NOT.fullmatch(text))


@dataclass(frozen=True)
class Origin:
    """Where a model is from. It may stand wherever the name of a model may.

    path: its .gguf file, or its folder in Hugging Face layout.
    given: what names it again from any folder of this machine: a catalogue name, a repository, an absolute path.
    name: for people: a catalogue name, a repository, or a file's or folder's own name; never a path.
    file: the same for a recipe, where a local file keeps its ending.
    repository, revision: on the Hugging Face hub, as far as known: "org/name", and a commit.
    folder: where the files that came with it are; None where there is no such place.
    licence, base, carried: what the catalogue knows: the licence, the repository that the file was made from, and the
    files of the licence. None for other models.
    """

    path: Path
    given: str
    name: str
    file: str
    repository: str | None = None
    revision: str | None = None
    folder: Path | None = None
    licence: str | None = None
    base: str | None = None
    carried: tuple[Path, ...] | None = None

    @classmethod
    def of_path(cls, path: Path) -> Self:
        """Of a file or a folder, by its place alone."""
        whole = Path(os.path.abspath(path))  # as it was named, also where that is a link
        repository, revision, folder = _place_in_a_hub_cache(path)
        own = whole.parent.name if whole.name == MODEL_FILE else whole.name
        name = own if whole.is_dir() else re.sub(r"\.gguf$", "", own, flags=re.IGNORECASE)
        return cls(
            path=path,
            given=str(path.absolute()),
            name=repository or _shown(name),
            file=repository or _shown(whole.name),
            repository=repository,
            revision=revision,
            folder=folder or (path if path.is_dir() else path.parent),
        )

    def title(self, metadata: Mapping[str, Any]) -> str:
        """What the model calls itself in its header, else its name: for people, on one line, never a path.

        What holds line breaks or other control characters is no name. The catalogue knows its models better.
        """
        if self.base is not None:
            return self.base.rpartition("/")[2]
        said = metadata.get("general.name")
        if not isinstance(said, str) or not said.strip() or not said.isprintable():
            return self.name
        if re.match(r"[/~\\.]|[A-Za-z]:[/\\]", said) or said.count("/") > 1 or "\\" in said:
            said = re.split(r"[/\\]", said.rstrip("/\\"))[-1]
        return printable(said.strip(), 96) or self.name

    @cached_property
    def notices(self) -> list[Path]:
        """The licence and notice files that must travel with it. Raises BadFile as `notices.notices_in`."""
        if self.carried is not None:
            return list(self.carried)
        return notices_in(self.folder) if self.folder is not None else []

    def stated_licence(self, metadata: Mapping[str, Any]) -> Licence:
        """What the model says in its header or its README.md; what the catalogue knows where it says nothing."""
        stated = stated_licence(metadata, self.folder)
        return Licence(name=self.licence) if self.licence is not None and not str(stated) else stated

    def base_model(self, metadata: Mapping[str, Any]) -> str | None:
        """The repository to name as `base_model` of what is made from it; None where none is known for certain.

        Its own; else the one that its header says it was converted from; else the one in a README.md that smidgen
        wrote, which is about a model made from that. (In another README.md it is the base of the base.)
        """
        if self.repository is not None or self.base is not None:
            return self.repository or self.base
        url = metadata.get("general.base_model.0.repo_url")
        found = _ON_THE_HUB.fullmatch(url) if isinstance(url, str) and len(url) <= 2 * _LONGEST_ID else None
        if found and is_hub_id(found[1]):
            return found[1]
        if self.folder is not None and is_ours(self.folder, README):
            written = card_of(self.folder).get("base_model", "")
            return written if is_hub_id(written) else None
        return None

    def __fspath__(self) -> str:
        """What names it again."""
        return self.given


def _shown(name: str) -> str:
    """The name of a file or folder, without what no terminal shows and no text holds."""
    return "".join(letter if letter.isprintable() else "_" for letter in name) or "model"


def _place_in_a_hub_cache(path: Path) -> tuple[str | None, str | None, Path | None]:
    """Repository, commit and main folder of a path in the hub's cache; None thrice for a path elsewhere."""
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        repo = folder.parent.parent.name
        if folder.parent.name == "snapshots" and repo.startswith("models--"):
            name = repo.removeprefix("models--").replace("--", "/")
            return (name if is_hub_id(name) else None), folder.name, folder
    return None, None, None
