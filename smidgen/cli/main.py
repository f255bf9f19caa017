"""The command line: which commands exist, and what errors look like to a person.

A command lives in its own module as a function `command`; only the module of the command that was asked for is
imported, so `smidgen --help` is quick. The docstring of `command` is its help; a line of `\\b` keeps the layout of the
paragraph below it.

Exit codes: 0 done; 2 something the person can act on (one line on stderr); 1 a fault of ours; 130 interrupted;
143 ended by SIGTERM.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from smidgen.cli import options
from smidgen.errors import SmidgenError, harmless, printable
from smidgen.shell import command_of
from smidgen.stopping import Stopped

# name → (module with a function `command`, summary in `smidgen --help`), in the order of a newcomer's day
COMMANDS: dict[str, tuple[str, str]] = {
    "models": ("smidgen.cli.models", "The models that are known by name, with sizes and licences."),
    "inspect": ("smidgen.cli.inspect", "What is in a model file: parts, types, tokenizer, licence."),
    "cut": ("smidgen.cli.cut", "Make a model fit a size, with a measured report of the cost."),
    "data": ("smidgen.cli.data", "Text for training: filtered, deduplicated, tokenized once."),
    "distill": ("smidgen.cli.distill", "Train a student to predict what its teacher predicts."),
    "tune": ("smidgen.cli.tune", "Teach a model from examples of your own."),
    "measure": ("smidgen.cli.measure", "Report card: what a cut model lost against its original."),
    "arena": ("smidgen.cli.arena", "Rank models by votes of people or of a judge model."),
    "run": ("smidgen.cli.run", "Answer a prompt, or continue a text."),
    "chat": ("smidgen.cli.chat", "Talk with a model on the terminal."),
    "serve": ("smidgen.cli.serve", "OpenAI-compatible server on this machine."),
    "ui": ("smidgen.cli.ui", "A page: chat, compare two models blind, cut a model."),
    "export": ("smidgen.cli.export", "The same model in another format: Hugging Face layout or GGUF."),
    "push": ("smidgen.cli.push", "A model with its card on the Hugging Face hub."),
    "bench": ("smidgen.cli.bench", "Speed, memory and share of the memory bandwidth limit."),
}

_EXAMPLES = """Make an open-weight language model fit your device, with a measured proof of what that cost.

\b
Examples:
  smidgen models
  smidgen cut gemma-3-270m --fit 165MB -o gemma-small
  smidgen run gemma-small "The capital of France is"
  smidgen measure gemma-3-270m gemma-small
"""


def application(invoked: str | None = None) -> typer.Typer:
    """The typer application, with the real `invoked` command and names and summaries only for the others."""
    app = typer.Typer(name="smidgen", help=_EXAMPLES, rich_markup_mode=None, add_completion=False)
    app.callback(invoke_without_command=True)(_root)
    for name, (module, summary) in COMMANDS.items():
        function = import_module(module).command if name == invoked else _placeholder(summary)
        app.command(name, short_help=summary)(function)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Always leaves through SystemExit."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no such letter shows a question mark
    words = list(sys.argv[1:] if arguments is None else arguments)
    invoked = next((word for word in words if not word.startswith("-")), None)
    try:
        code = _run(invoked, words)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _leave_closed_pipe()
    except Exception as error:
        if options.debug_wanted() or "--debug" in words:
            raise
        code = _explain(error, invoked)
    except Stopped as stop:
        code = _tell_how_to_go_on(stop, words)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _run(invoked: str | None, words: list[str]) -> int:
    """Parse and carry out; usage errors are printed here, all other errors pass through."""
    command = typer.main.get_command(application(invoked))
    try:
        # Not its `main`, which makes exit code 1 of a closed pipe.
        with command.make_context("smidgen", words) as context:
            result = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    return result if isinstance(result, int) else 0


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from smidgen.version import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _placeholder(summary: str) -> Callable[[], Any]:
    def placeholder() -> None: ...

    placeholder.__doc__ = summary
    return placeholder


def _explain(error: Exception, invoked: str | None) -> int:
    """One line on stderr; returns the exit code. invoked: the command that was asked for, if there is one."""
    if isinstance(error, SmidgenError):
        message, code = str(error), 2
    elif _is_usage_error(error):
        message, code = _usage_message(error, invoked), 2
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        message, code = f"the disk is full{_file_of(error)}; free some space and try again.", 2
    elif isinstance(error, OSError) and error.strerror:
        message, code = f"{error.strerror}{_file_of(error)}", 2
    elif isinstance(error, MemoryError):
        message, code = "not enough memory; close other programs or choose a smaller model.", 2
    else:
        message, code = f"unexpected {type(error).__name__}: {error}; run again with --debug to see where.", 1
    print(f"smidgen: error: {harmless(' '.join(message.split()))}", file=sys.stderr)
    return code


def _tell_how_to_go_on(stop: Stopped, words: Sequence[str]) -> int:
    """Where it was, and the command line to paste, if anything is kept; returns the exit code."""
    if stop.kept:
        print(f"smidgen: {harmless(stop.said)}", file=sys.stderr)
        again = [*words] if "--resume" in words else [*words, "--resume"]
        print(f"Go on with: {harmless(command_of(['smidgen', *again]))}", file=sys.stderr)
    return stop.exit_code


def _is_usage_error(error: Exception) -> bool:
    """typer's usage errors: their class has moved between typer's versions, the exit code and the method have not."""
    return getattr(error, "exit_code", None) == 2 and hasattr(error, "format_message")


def _usage_message(error: Any, invoked: str | None) -> str:
    """What is wrong, and where to look. An option without its value comes without a context (typer's parser)."""
    context, said = getattr(error, "ctx", None), error.format_message().rstrip(".")
    command = f"smidgen {invoked}" if invoked in COMMANDS else "smidgen"
    if said.startswith("Got unexpected extra argument"):
        said += ". A prompt or a path with blanks needs quotes"
    return f"{said}. See `{command if context is None else context.command_path} --help`."


def _file_of(error: OSError) -> str:
    return f": {printable(error.filename)}" if error.filename else ""


def _leave_closed_pipe() -> int:
    """The reader of our output went away (`| head`): say nothing, not even when Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
