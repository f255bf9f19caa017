"""The commands of `smidgen chat`. Only these are commands: any other text that begins with a slash is a message."""

from os.path import commonprefix
from typing import NamedTuple


class Known(NamedTuple):
    """argument: what is said after it, in capitals; in brackets where nothing may be said."""

    argument: str
    does: str


COMMANDS = {
    "/system": Known("[TEXT]", 'Show or set the instruction that the model sees first; "" takes it away.'),
    "/regen": Known("", "Write the last answer anew."),
    "/stats": Known("", "Speed of the last answer, and how much of the context is used."),
    "/save": Known("FILE", "Keep the conversation as FILE.json (to go on from) or FILE.md (to read)."),
    "/load": Known("FILE", "Go on from a conversation that /save kept as .json."),
    "/clear": Known("", "Forget all messages and start over. So does /reset."),
    "/help": Known("", "This."),
    "/bye": Known("", "Leave. So do /exit, /quit, Ctrl-D, and Ctrl-C twice."),
}
_OTHER_NAMES = {"/reset": "/clear", "/exit": "/bye", "/quit": "/bye"}


class Command(NamedTuple):
    """A command that was given."""

    name: str
    argument: str


def command_in(message: str) -> Command | None:
    """The command that a message is, or None for a message to the model.

    A command that takes nothing stands alone: "/help me with this" is a message. So is what begins with a blank.
    """
    word, _, rest = message.partition(" ")
    if "\n" in word:
        word, _, rest = message.partition("\n")
    name = _OTHER_NAMES.get(word, word)
    if name not in COMMANDS or (rest.strip() and not COMMANDS[name].argument):
        return None
    return Command(name, rest.strip())


def nearly_command(message: str) -> str | None:
    """The command that a message of one line may have meant: its first word is one edit away from the command's name.

    What stands after a command that takes nothing makes it a message, whatever the first word is.
    """
    word, _, rest = message.rstrip("\n").partition(" ")
    if not word.startswith("/") or "\n" in message.rstrip("\n") or word in (*COMMANDS, *_OTHER_NAMES):
        return None
    for name in (*COMMANDS, *_OTHER_NAMES):
        takes_text = bool(COMMANDS[_OTHER_NAMES.get(name, name)].argument)
        if _one_edit_apart(word, name) and (takes_text or not rest.strip()):
            return name
    return None


def _one_edit_apart(one: str, other: str) -> bool:
    """Whether a letter more, fewer or another, or two in the wrong order, make one text the other."""
    alike = len(commonprefix([one, other]))
    one, other = one[alike:], other[alike:]
    alike = len(commonprefix([one[::-1], other[::-1]]))
    one, other = one[: len(one) - alike], other[: len(other) - alike]
    return max(len(one), len(other)) == 1 or (len(one) == 2 and one == other[::-1])


def help_text() -> str:
    """All commands, and how to type a message of several lines."""
    width = max(len(f"{name} {known.argument}") for name, known in COMMANDS.items())
    lines = [f"{f'{name} {known.argument}':{width}}  {known.does}" for name, known in COMMANDS.items()]
    lines += [
        "",
        'Several lines: paste them, end a line with \\, press Alt-Enter, or write """ before and after.',
        "Ctrl-C stops an answer. What is typed is kept in memory only, unless --history FILE is given.",
    ]
    return "\n".join(lines)
