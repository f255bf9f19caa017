"""The pictures on the pages, made from what smidgen really does: `python docs/pictures.py --text FILE`.

Carries out the commands of TOUR in a folder of its own, on the packaged Gemma 3 270M. terminal.svg is what they print,
but for the lines of progress, which a terminal overwrites. card.png is the head of the report card that the cut wrote,
card-whole.png all of it, as headless Chromium shows it; where there is no Chromium, these two stay as they are and the
script says so.

Takes a few minutes with a text, half an hour without, since the model then writes one itself.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent / "pictures"
CUT = "smidgen cut gemma-3-270m --fit 165MB -o gemma-small"
TOUR = (
    "smidgen inspect gemma-3-270m",
    CUT,
    'smidgen run gemma-small "The three primary colours are" --max-tokens 8 --temperature 0',
)

_WIDTH = 104  # characters
#: Picture → how much of the card it shows, in pixels: the head for the README, and all of it.
_CARDS = {"card.png": "1160,900", "card-whole.png": "1160,6900"}
_PROGRESS = re.compile(r".*: \d+/\d+, \d+ s, \d+ s left")
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def output_of(command: str, folder: Path) -> str:
    """What a command prints in a folder, without progress. Raises CalledProcessError where it fails."""
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not _PROGRESS.fullmatch(line)]
    shown = "\n".join(lines).strip().replace(str(folder), ".").replace(sys.prefix, ".venv")
    return shown.replace(str(Path.home()), "~")


def terminal(outputs: Sequence[tuple[str, str]]) -> str:
    """Commands and what they printed as an SVG picture of a terminal, without fonts from elsewhere."""
    console = Console(record=True, width=_WIDTH, file=StringIO(), highlight=False)
    for command, output in outputs:
        console.print(Text(f"$ {command}", "bold green"))
        console.print(Text(f"{output}\n"))
    return _WEB_FONT.sub("", console.export_svg(title="smidgen", unique_id="terminal"))


def card(page: Path, picture: Path, size: str) -> bool:
    """A report card, or as much of it as fits, as a PNG picture; False where there is no Chromium to make it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return False
    with tempfile.TemporaryDirectory(prefix="smidgen-") as profile:
        made = (f"--user-data-dir={profile}", f"--window-size={size}", f"--screenshot={picture.resolve()}")
        subprocess.run([browser, *_CHROMIUM, *made, page.resolve().as_uri()], capture_output=True, check=True)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all pictures, or those of a card that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="UTF-8 text to calibrate on (default: text by the model itself)")
    parser.add_argument("--card", type=Path, help="make the pictures of the card alone, from this card.html")
    given = parser.parse_args(arguments)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smidgen-") as name:
        page = given.card
        if page is None:
            page = Path(name) / "gemma-small" / "card.html"
            (PICTURES / "terminal.svg").write_text(terminal(_tour(Path(name), given.text)), encoding="utf-8")
        if not all(card(page, PICTURES / name, size) for name, size in _CARDS.items()):
            print("There is no Chromium here, so the pictures of the card stay as they are.", file=sys.stderr)
    return 0


def _tour(folder: Path, text: Path | None) -> list[tuple[str, str]]:
    """Each command of the tour with what it printed."""
    outputs = []
    for command in TOUR:
        if command == CUT and text is not None:
            shutil.copy(text, folder / text.name)
            command = f"{command} --text {text.name}"
        outputs.append((command, output_of(command, folder)))
    return outputs


if __name__ == "__main__":
    sys.exit(main())
