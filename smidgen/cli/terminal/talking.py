"""The loop of `smidgen chat`: ask, carry out or answer, and so on until somebody leaves."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from smidgen import progress
from smidgen.cli.terminal.commands import Command, command_in, help_text, nearly_command
from smidgen.cli.terminal.showing import PlainText, Shown, answer_stdout
from smidgen.errors import EngineEnded, SmidgenError, harmless
from smidgen.running.saved import load_conversation, save_conversation
from smidgen.shell import path_of

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.reply import Reply
    from smidgen.running.conversation import Conversation


class Asking(Protocol):
    """Where messages come from."""

    def ask(self) -> str:
        """The next one. Raises EOFError where there is none, KeyboardInterrupt for Ctrl-C on an empty line."""
        ...


class Talk:
    """One session.

    model: its name, for saved conversations.  interactive: at a terminal, where a mistake costs a line and no more.
    plain: answers as they are written, also on a terminal.
    """

    def __init__(
        self, conversation: "Conversation", asking: Asking, model: str, interactive: bool, plain: bool = False
    ) -> None:
        self._conversation, self._asking, self._model = conversation, asking, model
        self._interactive, self._plain = interactive, plain
        self._last: Reply | None = None

    def run(self) -> None:
        """Until /bye, Ctrl-D, Ctrl-C twice on an empty line, or the end of a pipe."""
        while (message := self._message()) is not None:
            try:
                given = command_in(message)
                if given is not None and given.name == "/bye":
                    return
                if given is not None:
                    self._carry_out(given)
                elif message.strip():
                    _say_what_may_be_meant(message)
                    self._answer(lambda text=message: self._conversation.ask(text))
            except KeyboardInterrupt:  # just before an answer began, or just after it
                if not self._interactive:
                    raise
            except SmidgenError as error:
                if not self._interactive:
                    raise
                progress.say(f"smidgen: {error}")

    def _message(self) -> str | None:
        """The next one, or None for leaving."""
        try:
            return self._asking.ask()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        try:
            progress.say("Ctrl-C once more leaves; so does Ctrl-D.")
            return self._asking.ask()
        except (EOFError, KeyboardInterrupt):
            return None

    def _answer(self, begin: "Callable[[], Reply]") -> None:
        """Show a reply as it comes, up to Ctrl-C. A message that does not fit is taken back."""
        try:
            reply = begin()
        except SmidgenError as error:
            raise SmidgenError(f"{error} Or /clear the conversation.") from error
        self._last = reply
        pieces: list[str] = []
        shown = _shown(self._plain)
        try:
            for piece in reply:
                pieces.append(piece)
                shown.piece(piece)
        except KeyboardInterrupt:
            reply.close()
            if not self._interactive:
                raise
        except EngineEnded as error:
            raise EngineEnded(f"{error} Your message is not part of the conversation; send it again.") from error
        finally:
            shown.end()
        self._conversation.answered("".join(pieces))
        self._say_how_it_ended(reply, bool(pieces))

    def _say_how_it_ended(self, reply: "Reply", wrote: bool) -> None:
        if reply.stop == "context":
            progress.say(
                f"The answer ends here: the context of {self._conversation.context} tokens is full "
                f"({reply.prompt_tokens} before it, {reply.generated_tokens} of it). /clear starts over; "
                "--ctx-size N makes it larger, where the model allows that."
            )
        elif not wrote:
            ended = "was stopped before its first word" if reply.stop == "closed" else "is empty"
            progress.say(f"The answer {ended}; your message is not part of the conversation.")

    def _carry_out(self, given: Command) -> None:
        """A command other than /bye. Raises SmidgenError where it cannot be done."""
        match given.name:
            case "/help":
                _tell(help_text())
            case "/clear":
                self._conversation.clear()
                progress.say("The conversation starts over.")
            case "/system":
                self._set_system(given.argument)
            case "/regen":
                self._answer(self._conversation.ask_again)
            case "/stats":
                _tell(self._stats())
            case "/save":
                path = path_of(_file_name(given))
                save_conversation(path, self._model, self._conversation.messages)
                progress.say(f"The conversation is in {path}.")
            case "/load":
                self._conversation.replace_messages(load_conversation(path_of(_file_name(given))))
                progress.say(f"The conversation has {len(self._conversation.messages)} messages now.")
            case _:
                raise AssertionError(given.name)

    def _set_system(self, text: str) -> None:
        if not text:
            _tell(self._conversation.system or "There is no system message.")
            return
        self._conversation.system = "" if text == '""' else text
        if not self._conversation.system:
            progress.say("There is no system message any more.")
        elif self._conversation.has_system_role:
            progress.say("The system message is set; the next answer heeds it.")
        else:
            progress.say(NO_SYSTEM_ROLE)

    def _stats(self) -> str:
        used, context = self._conversation.used(), self._conversation.context
        lines = [f"Context: {used} of {context} tokens used ({100 * used / context:.0f}%)."]
        if self._last is not None:
            rate = self._last.tokens_per_s
            speed = "too short to tell its speed" if rate is None else f"{rate:.1f} tokens/s"
            lines.insert(0, f"Last answer: {self._last.generated_tokens} tokens, {speed}.")
        return "\n".join(lines)


NO_SYSTEM_ROLE = "This model has no system role: the system message goes in front of the first message."


def _shown(plain: bool) -> Shown:
    """Rendered on a terminal that can move its cursor; elsewhere as it is."""
    stdout = answer_stdout()
    if plain or not stdout.isatty():
        return PlainText(stdout)
    from smidgen.cli.terminal.markdown import RenderedMarkdown, can_render

    return RenderedMarkdown(stdout) if can_render(stdout) else PlainText(stdout)


def _say_what_may_be_meant(message: str) -> None:
    """Where a message looks like a command that was mistyped. It is a message all the same."""
    meant = nearly_command(message)
    if meant is not None:
        word = message.split(maxsplit=1)[0]
        progress.say(f"{word} is not a command, so this is sent as a message. Did you mean {meant}?")


def _file_name(given: Command) -> str:
    if not given.argument:
        raise SmidgenError(f"{given.name} needs the name of a file, as in {given.name} talk.json.")
    return given.argument


def _tell(text: str) -> None:
    """What was asked for, beside the answers of the model, also with --quiet."""
    print(harmless(text), file=sys.stderr)
