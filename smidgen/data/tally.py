"""What became of the lines of a file with examples, to be said aloud."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class Case(Enum):
    """What can happen to a line that a person should know."""

    SHORTENED = "longer than the context of {context} tokens: their prompts lost their beginning"
    CUT = "longer than the context of {context} tokens and cut between turns, an example for each stretch that fits"
    DROPPED = "left out, their answers do not fit a context of {context} tokens (--context)"
    PIECES = "longer than {context} tokens and cut into pieces"
    GIVEN = "with reasoning that the chat template leaves out of its answers: learned as given"
    CHANGED = "with answers that the chat template writes otherwise than given, or in part: learned as it writes them"
    NO_CALLS = "with calls of tools that the chat template does not write: the calls are not learned"
    NO_TOOLS = "with a list of tools that the chat template does not show: the model will not see it"
    BEGUN = (
        "with answers that do not begin as the chat template begins each answer (with <think>, say): learned without "
        "those words; put reasoning into the answers, or take the words out of the template"
    )
    NOTHING = "left out, nothing in them is to be learned (weight 0, train false, or calls that are not written)"
    RENDERED = "with a prompt that is a chat rendered already: its control tokens are read as such"
    RENDERED_TEXT = (
        "with a text that is a chat rendered already: its control tokens are read as such, and all of it is learned "
        "(as messages, the answers alone would be)"
    )
    SPELLED = "with control tokens spelled out in plain text: read as letters"


@dataclass
class Tally:
    """lines: that say something.  bad: skipped.  size: bytes that were read.  cases: in how many lines each was."""

    lines: int = 0
    examples: int = 0
    bad: int = 0
    size: int = 0
    cases: Counter[Case] = field(default_factory=Counter)
    _in_this_line: set[Case] = field(default_factory=set)

    def happened(self, case: Case) -> None:
        """In the line that is being read; counted once a line."""
        self._in_this_line.add(case)

    def line_done(self, examples: int) -> None:
        """The line is read, and gave so many examples."""
        self.lines += 1
        self.examples += examples
        self.cases.update(self._in_this_line)
        self._in_this_line.clear()

    def line_skipped(self) -> None:
        """It was malformed."""
        self.lines += 1
        self.bad += 1
        self._in_this_line.clear()

    def notes(self, context: int) -> list[str]:
        """What a person should know, a line each."""
        counts = {"malformed and skipped": self.bad}
        counts |= {case.value.format(context=context): self.cases[case] for case in Case}
        return [f"{count} of {self.lines} lines {what}." for what, count in counts.items() if count]
