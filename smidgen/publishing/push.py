"""The verb `push`: a folder that smidgen wrote becomes a repository of the Hugging Face hub, with its model card.

What is in the parcel is decided here, without asking anybody: files on the folder's list (`owned`), and licence files.
Whatever else lies there stays there, and is named. What is sent is seen by everybody, so before that the card must
state a licence, and no file may name a folder of this machine. `upload` sends it. Torch-free.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hub.hub import HubModel
from smidgen.formats.hub.notices import README, is_agreement, is_notice, licence_in_card, notices_in, terms_of
from smidgen.formats.hub.origin import MODEL_FILE, is_hub_id
from smidgen.owned import MANIFEST, listed
from smidgen.progress import say
from smidgen.publishing.companions import WRITTEN
from smidgen.publishing.modelfile import MODELFILE
from smidgen.shell import path_of
from smidgen.sizes import format_size

_MODELS = (MODEL_FILE, "adapter_model.safetensors", "adapter.gguf")
_PEOPLE_CHANGE = {README, MODELFILE}  # and licence files; what else there is tells of the very bytes of the model
_TEXT_BYTES = 2**26
_MOST_NAMED = 6


@dataclass(frozen=True)
class Parcel:
    """What a folder has to send.

    files: name → bytes.  left_out: names of what stays.  notes: what a person should know, in sentences.
    """

    folder: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.files.values())


@dataclass(frozen=True)
class PushResult:
    """What was sent, and where it is.

    repository: "org/name".  revision: the branch, None for the main one.  address: of the repository, or of the pull
    request.  commit: None where nothing was sent, since it was a dry run.
    """

    repository: str
    revision: str | None
    address: str
    commit: str | None
    parcel: Parcel

    def to_json(self) -> str:
        """Everything as one JSON object."""
        parcel = self.parcel
        files = [{"name": name, "bytes": size} for name, size in parcel.files.items()]
        return json.dumps(
            {
                "repository": self.repository, "revision": self.revision, "address": self.address,
                "commit": self.commit, "bytes": parcel.size, "files": files, "left_out": list(parcel.left_out),
                "notes": list(parcel.notes),
            }
        )  # fmt: skip

    def describe(self) -> str:
        """The files, what else there is to know, and the address."""
        parcel = self.parcel
        lines = [f"{format_size(size):>10}  {name}" for name, size in parcel.files.items()]
        lines += [f"{format_size(parcel.size):>10}  in {len(parcel.files)} files", *parcel.notes]
        if parcel.left_out:
            named = ", ".join(map(printable, parcel.left_out[:_MOST_NAMED]))
            more = f", and {len(parcel.left_out) - _MOST_NAMED} more" if len(parcel.left_out) > _MOST_NAMED else ""
            lines.append(f"Not sent, since smidgen did not write it: {named}{more}.")
        lines.append(f"Nothing was sent to {self.address} (--dry-run)." if self.commit is None else self.address)
        return "\n".join(lines)


def push(
    folder: str | os.PathLike[str], repository: str, *, private: bool = False, pull_request: bool = False,
    replace: bool = False, message: str | None = None, dry_run: bool = False,
) -> PushResult:  # fmt: skip
    """Send what smidgen wrote into `folder` to a repository of the hub, as one commit; it is made if it is not there.

    repository: "org/name", or "org/name@branch".  private: make it a private one.  pull_request: open a pull request
    instead of changing the branch.  replace: also files there that smidgen did not send.  message: of the commit.
    dry_run: check everything that can be checked here, and ask nobody.
    Raises SmidgenError where the folder is not fit to be published, without the right to write there, and where the
    connection breaks: then nothing has changed there, and another try goes on.
    """
    wish = _repository(repository)
    parcel = pack(path_of(folder))
    from smidgen.publishing import upload

    if dry_run:
        return PushResult(wish.repo, wish.revision, upload.address_of(wish.repo), None, parcel)
    for note in parcel.notes:
        say(note)
    say(f"Sending {len(parcel.files)} files ({format_size(parcel.size)}) to {wish}.")
    sent = upload.upload(
        parcel.folder, list(parcel.files), wish, upload.Wishes(private, pull_request, replace, message)
    )
    return PushResult(wish.repo, wish.revision, sent.address, sent.commit, parcel)


def _repository(text: str) -> HubModel:
    wish = HubModel.parse(text)
    if wish is None or wish.file is not None or not is_hub_id(wish.repo):
        raise SmidgenError(
            f"{printable(text)} cannot be a repository of the hub; say OWNER/NAME, where OWNER is your name there or "
            "that of your organization."
        )
    return wish


def pack(folder: Path) -> Parcel:
    """What there is to send. Raises SmidgenError, in one line, for a folder that is not fit to be published."""
    ours = _ours(folder)
    changed = sorted(name for name, unchanged in ours.items() if not unchanged and not _may_change(name))
    if changed:
        raise SmidgenError(
            f"{printable(folder / changed[0])} is not as smidgen wrote it, or was not finished; what the report card "
            "says would not be about it. Make the model again, or finish it with --resume."
        )
    licences = [path.name for path in notices_in(folder) if path.name not in ours]
    names = sorted([*ours, *licences], key=lambda name: (name != README, name))
    links = [name for name in names if (folder / name).is_symlink()]
    if links:
        raise SmidgenError(f"{printable(folder / links[0])} is a link; put the file itself into the folder.")
    _refuse_without_licence(folder)
    _refuse_paths(folder, names)
    files = {name: (folder / name).stat().st_size for name in [*names, MANIFEST]}
    others = (path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name not in files)
    return Parcel(folder, files, tuple(sorted(others)), tuple(_notes(folder, ours, licences)))


def _ours(folder: Path) -> dict[str, bool]:
    """The files to send that are on the folder's list, each with whether it is as smidgen wrote it.

    Only names that a verb writes count: the list may come from a stranger, with the folder.
    """
    shown = printable(folder)
    if not folder.is_dir():
        raise SmidgenError(f"{shown} is no folder; give one that `smidgen cut`, `tune` or `distill` wrote.")
    known = {name: same for name, same in listed(folder).items() if name in WRITTEN or is_notice(name)}
    there = {name: same for name, same in known.items() if "/" not in name and (folder / name).is_file()}
    if not set(there) & set(_MODELS):
        raise SmidgenError(
            f"{shown} has no model that smidgen wrote there; give the folder of `smidgen cut`, `tune` or `distill`."
        )
    if README not in there:
        raise SmidgenError(f"{shown} has no {README} of smidgen's; without a card nobody knows what the model is.")
    return there


def _may_change(name: str) -> bool:
    return name in _PEOPLE_CHANGE or is_notice(name)


def _refuse_without_licence(folder: Path) -> None:
    if licence_in_card(folder).identifier in (None, "unknown"):
        raise SmidgenError(
            f"{printable(folder / README)} states no licence, because the original's is not known. Look it up at its "
            "source, write it into the first lines (license: apache-2.0, for example), and push again."
        )


def _refuse_paths(folder: Path, names: Iterable[str]) -> None:
    """Raises SmidgenError where a file names a folder of this machine. Licences are other people's words."""
    private = _folders_of_this_machine(folder)
    for name in names:
        path = folder / name
        if name.endswith(".gguf"):
            with GGUFFile.open(path) as file:
                texts = [str(value) for value in file.metadata.values() if isinstance(value, str)]
        elif name.endswith(".safetensors") or is_notice(name):
            continue
        elif path.stat().st_size > _TEXT_BYTES:
            raise BadFile(f"{printable(path)} has {path.stat().st_size} bytes, too many for what it is.")
        else:
            texts = [path.read_text(encoding="utf-8", errors="replace")]
        for place in private:
            if any(place in text for text in texts):
                raise SmidgenError(
                    f"{printable(path)} names a folder of this machine ({printable(place)}), and everybody would read "
                    "it. Take it out of there, and push again."
                )


def _folders_of_this_machine(folder: Path) -> list[str]:
    """What only this machine has: the home folder, the folder itself, and the one that the command runs in."""
    places = [Path.home(), folder.resolve(), Path.cwd()]
    return [f"{place}{os.sep}" for place in dict.fromkeys(places) if place != Path(place.anchor)]


def _notes(folder: Path, ours: Mapping[str, bool], licences: list[str]) -> list[str]:
    notes = [f"{name} was changed since smidgen wrote it, and goes along as it is." for name in ours if not ours[name]]
    notes += [f"{printable(name)} goes along as a licence, though smidgen did not write it." for name in licences]
    terms = terms_of("", licence_in_card(folder))
    if terms is not None and not any(is_agreement(name) for name in [*ours, *licences]):
        notes.append(f"The {terms.agreement} must go along, and is not there. Get it from {terms.text}.")
    return notes
