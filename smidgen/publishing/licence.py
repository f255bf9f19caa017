"""What is known of an original's licence: the files that go along for it, and what a README.md says of it. Torch-free.

The notes on responsible use are short, in our own words, and lead to the list of the licence's owner, which counts.
What smidgen does not know of a licence it does not say.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from smidgen.atomic import write_whole
from smidgen.formats.hub.notices import Licence, Terms, is_agreement, notice_name, notice_text, terms_of
from smidgen.formats.hub.origin import MODEL_FILE, Origin
from smidgen.publishing.wording import in_markdown, licence_in_front, licence_in_words

if TYPE_CHECKING:
    from smidgen.formats.checkpoint import Checkpoint

_GEMMA_USES = (
    "In short: nothing unlawful or that violates the rights of others, nothing dangerous or malicious, no abuse of "
    "children, no harassment or hate, no sexual content made for its own sake, no deceiving of people, no practice of "
    "a profession without its licence, and no automatic decisions about people's rights or well-being."
)
_LLAMA_USES = (
    "In short: nothing unlawful or that violates the rights of others, no violence, abuse, harassment or "
    "discrimination, nothing that risks death or injury (weapons, drugs, critical infrastructure and the like), and no "
    "deceiving of people. It also asks you to tell those who use your product of known dangers of the model."
)
_PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0"}
_NOT_COMMERCIAL = "cc-by-nc"
_OPENRAIL = "openrail"


@dataclass(frozen=True)
class Licensed:
    """What is known of an original's licence, and the names of the files that were written beside the model for it."""

    stated: Licence
    terms: Terms | None
    notices: Sequence[str]

    @classmethod
    def beside(cls, output: Path, checkpoint: "Checkpoint", made: str = MODEL_FILE) -> Self:
        """Writes these files into `output`, for the model file `made`."""
        stated = checkpoint.origin.stated_licence(checkpoint.file.metadata)
        terms = terms_of(checkpoint.config.family, stated)
        return cls(stated, terms, write_notices(output, checkpoint.origin, terms, made))

    def in_words(self) -> str:
        """What the model card says of the licence: no more than is known."""
        terms, notices = self.terms, self.notices
        named = terms.agreement if terms else licence_in_words(self.stated)
        known = f"The licence of the original applies: {named}." if named else "The original states no licence."
        if notices:
            known += f" These files go with it: {', '.join(map(in_markdown, notices))}."
        if terms is None:
            unknown = "No licence file came with it: look at the original's source before you pass this on."
            return known if notices else f"{known} {unknown}"
        if not any(map(is_agreement, notices)):
            known += f" The text of the {terms.agreement} did not come with it. Get it from {terms.text} and add it to"
            known += " this folder before you pass the model on."
        known += f" Uses that it forbids: {terms.policy}."
        return f"{terms.label}. {known}" if terms.label else known

    def in_front(self) -> dict[str, str]:
        """What the front matter says of it."""
        if self.terms is None:
            return licence_in_front(self.stated, self.notices)
        named = {"license_name": self.terms.agreement, "license_link": self.terms.text}
        return {"license": self.terms.identifier, **named}

    def on_use(self) -> str:
        """What the licence says about uses, in a few sentences."""
        if self.terms is not None:
            uses = _GEMMA_USES if self.terms.identifier == "gemma" else _LLAMA_USES
            return (
                f"Under the {self.terms.agreement}, some uses are forbidden to everybody who uses this model, and to "
                f"everybody it is passed on to. This list of its owner counts: <{self.terms.policy}>. {uses}"
            )
        known = (self.stated.identifier or self.stated.name or "").lower()
        if known in _PERMISSIVE:
            return (
                f"The licence ({in_markdown(known)}) forbids no particular uses, and gives no warranty. The law where "
                "you are does apply, and what you do with the model is yours to answer for."
            )
        if known.startswith(_NOT_COMMERCIAL):
            return f"The licence ({in_markdown(known)}) does not allow commercial use."
        if _OPENRAIL in known:
            return (
                f"The licence ({in_markdown(known)}) lists uses that it forbids, and binds everybody the model is "
                "passed on to. Read that list in the licence's own text."
            )
        return "Which uses the licence allows is not known to smidgen: read it before you use or pass on the model."


def write_notices(output: Path, origin: Origin, terms: Terms | None, made: str = MODEL_FILE) -> list[str]:
    """Copy the original's licence and notice files into `output`, and add the notice that its terms ask for about the
    file `made`; their names."""
    originals = origin.notices
    for original in originals:
        if original.parent.resolve() != output.resolve():
            shutil.copyfile(original, output / original.name)  # what a link of the hub's cache leads to
    names = [original.name for original in originals]
    if terms is None:
        return names
    ours = notice_name(originals)
    write_whole(output / ours, notice_text(terms, made))
    return sorted({*names, ours})
