"""Which files of a model are its licence and notices, what it says of its licence itself, and what some licences ask of
files made from a model. Torch-free.

A licence is no part of the weights: it travels only if somebody carries it. Files are known by the names that model
publishers give them; the licence's name is in the metadata of a GGUF file or in the front matter of a Hugging Face
model card (https://huggingface.co/docs/hub/model-cards#model-card-metadata).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import member

README = "README.md"
README_BYTES = 2**20  # the front matter is at the start; cards with longer texts behind it exist
_NOTICE_BYTES = 2**22
_NOTICE = re.compile(
    r"(LICEN[CS]ES?|NOTICES?|COPYING|USE[_-]?POLICY|ACCEPTABLE[_-]USE[_-]POLICY|\w*[_-]TERMS|TERMS\w*)([ ._-].*)?"
    r"|.*[ ._-](LICEN[CS]E|NOTICE|USE[_-]POLICY)( AGREEMENT)?(\.\w+)?",
    re.IGNORECASE,
)
_NOT_TEXT = (".safetensors", ".gguf", ".bin", ".json", ".py", ".exe", ".sh")
_FRONT_KEY = re.compile(r"(license|license_name|license_link|base_model)\s*:\s*(.*)")


def is_notice(name: str) -> bool:
    """Whether a file of this name is a licence or a notice that must travel with a model."""
    return name.isprintable() and bool(_NOTICE.fullmatch(name)) and not name.lower().endswith(_NOT_TEXT)


def notices_in(folder: Path) -> list[Path]:
    """The licence and notice files in a folder, by name.

    They are copied into what people publish, so a stranger's folder must not name other files of this machine as its
    licence. Raises BadFile for a link out of the folder, and for a file too large to be a licence.
    """
    found = []
    for name in sorted(path.name for path in folder.iterdir() if is_notice(path.name) and not path.is_dir()):
        path = member(folder, name)
        if path is None:
            continue  # gone since the folder was listed
        if (size := path.stat().st_size) > _NOTICE_BYTES:
            raise BadFile(f"{printable(path)} has {size} bytes, too many for a licence or a notice; remove it")
        found.append(path)
    return found


@dataclass(frozen=True)
class Licence:
    """What a model card states: Hugging Face's identifier, and for "other" a name and where the text is."""

    identifier: str | None = None
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        """For people: the most telling of the three, with the link in brackets."""
        shown = self.name if self.identifier in (None, "other") and self.name else self.identifier
        if shown is None:
            return self.link or ""
        return f"{shown} ({self.link})" if self.link and "://" in self.link else shown


def stated_licence(metadata: Mapping[str, Any], folder: Path | None) -> Licence:
    """What a model says of its licence: in its GGUF metadata, else in the README.md of its folder."""
    keys = ("general.license", "general.license.name", "general.license.link")
    found = [printable(value) if isinstance(value := metadata.get(key), str) and value else None for key in keys]
    if any(found):
        return Licence(*found)
    return licence_in_card(folder) if folder is not None else Licence()


def licence_in_card(folder: Path) -> Licence:
    """The licence in the front matter of a folder's README.md; empty where there is none.

    Raises BadFile for a README.md that is a link out of the folder.
    """
    found = card_of(folder)
    return Licence(found.get("license") or None, found.get("license_name") or None, found.get("license_link") or None)


def card_of(folder: Path) -> dict[str, str]:
    """What the front matter of a folder's README.md says of the licence and of the base model; as `licence_in_card`."""
    path = None if (folder / README).is_dir() else member(folder, README)
    if path is None:
        return {}
    with path.open("rb") as file:
        return _front_matter(file.read(README_BYTES).decode(errors="replace"))


def _front_matter(text: str) -> dict[str, str]:
    """Reads four plain keys of the YAML between the first two lines of `---`, and nothing else of YAML."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    found: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        match = _FRONT_KEY.fullmatch(line)
        if match:
            key = match[1]
            found[key] = _scalar(match[2])
        elif key and not found[key] and line.lstrip().startswith("- "):
            found[key] = _scalar(line.lstrip()[2:])  # a list of one, on its own line
        elif line[:1].strip():
            key = ""
    return found


def _scalar(text: str) -> str:
    """A YAML scalar on one line, or the only element of a list on one line, without quotes and comments."""
    text = re.sub(r"\s+#.*$", "", text.strip()).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return printable(text)


@dataclass(frozen=True)
class Terms:
    """A licence that asks for a notice with everything made from the model.

    identifier: Hugging Face's.  sentence: what the notice must say, to the letter.  text, policy: where the agreement
    and the uses that it forbids are.  label: what must be shown with the model, if anything.
    """

    identifier: str
    agreement: str
    sentence: str
    text: str
    policy: str
    label: str | None = None


def _llama(identifier: str, name: str, label: str | None) -> Terms:
    place = f"https://www.llama.com/{identifier.replace('.', '_')}"
    agreement = f"{name} Community License"
    holder = "Meta Platforms, Inc. All Rights Reserved."
    sentence = (
        f"Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) {holder}"
        if identifier == "llama2"
        else f"{name} is licensed under the {agreement}, Copyright © {holder}"
    )
    return Terms(identifier, agreement, sentence, f"{place}/license/", f"{place}/use-policy/", label)


# Gemma: section 3.1 of its terms. Llama: section 1.b of its licences; Llama 3.1 and later ask for the same label.
GEMMA = Terms(
    "gemma", "Gemma Terms of Use",
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    "https://ai.google.dev/gemma/terms", "https://ai.google.dev/gemma/prohibited_use_policy",
)  # fmt: skip
LLAMAS = (
    *(_llama(f"llama3.{minor}", f"Llama 3.{minor}", "Built with Llama") for minor in (1, 2, 3)),
    _llama("llama4", "Llama 4", "Built with Llama"),
    _llama("llama3", "Meta Llama 3", "Built with Meta Llama 3"),
    _llama("llama2", "Llama 2", None),
)
GEMMA_FAMILIES = {"gemma", "gemma2", "gemma3", "gemma3n"}


def terms_of(family: str, licence: Licence) -> Terms | None:
    """The terms that a model is under, if it is one of those that ask for a notice: by its family, or as it states."""
    stated = re.sub(r"[^a-z0-9.]", "", f"{licence.identifier} {licence.name}".lower())
    if family in GEMMA_FAMILIES or licence.identifier == "gemma":
        return GEMMA
    return next((terms for terms in LLAMAS if terms.identifier in stated), None)


def notice_name(notices: Sequence[Path]) -> str:
    """What our notice is called beside these files: NOTICE, unless the original has a notice of its own there."""
    for path in notices:
        if path.name.upper() == "NOTICE" and _OURS not in path.read_text(errors="replace"):
            return "NOTICE.smidgen.txt"
    return "NOTICE"


_OURS = "It was modified by smidgen"


def notice_text(terms: Terms, model_file: str) -> str:
    """The notice that goes with a file made from a model under these terms."""
    label = f"{terms.label}\n\n" if terms.label else ""
    return f"""{label}{terms.sentence}

{model_file} in this folder is a modified file. {_OURS}: its weights were quantized and
may have been pruned or trained further; recipe.toml, where it is present, says how.

It may be used, modified and passed on only under the {terms.agreement}:
{terms.text}
with the restrictions on its use, which apply to everybody it is passed on to:
{terms.policy}

Whoever passes it on must pass on this notice and a copy of the agreement.
"""


def is_agreement(name: str) -> bool:
    """Whether a notice file is the text of a licence, not only a notice that there is one."""
    return is_notice(name) and bool(re.search(r"LICEN[CS]E|TERMS|COPYING", name, re.IGNORECASE))
