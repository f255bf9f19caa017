"""The pictures of docs/ui.md, made from the real page: `python docs/ui_pictures.py MODEL MODEL`.

Starts `smidgen ui` with both models, writes to it in headless Chromium as a person would, and puts what is seen into
pictures/: ui-chat.png, ui-compare.png and ui-phone.png. Answers are drawn at temperature 0, so that they come again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.browser import Browser, browser_or_skip  # noqa: E402 - from the repository's root

PICTURES = Path(__file__).parent / "pictures"
QUESTION = "What is the capital of France, and what is it known for?"
PROMPT = "Explain in two sentences why the sky is blue."


#: Takes the script's own folder out of the texts of a page.
_WITHOUT_FOLDER = """(folder => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder + "/", "")
})(%s)"""


def draw(browser: Browser, address: str, folder: str) -> None:
    """Make all three. folder: where the page keeps votes, which is nobody's business."""
    for name, width, dark in (("ui-chat.png", 1000, False), ("ui-phone.png", 390, True)):
        browser.show(address, width, dark)
        _set(browser, "chat", 120)
        browser.type("#chat-message textarea", QUESTION, enter=True)
        browser.wait_for("document.querySelector('#chat-status').innerText.includes('Context:')", 300)
        (PICTURES / name).write_bytes(browser.picture(whole=False))
    browser.show(address, 1000)
    browser.wait_for("document.querySelectorAll('button[role=tab]').length > 1")
    browser.ask("[...document.querySelectorAll('button[role=tab]')].find(one => one.innerText == 'Compare').click()")
    _set(browser, "compare", 90)
    browser.type("#compare-prompt textarea", PROMPT, enter=True)
    browser.click("#vote-model_a")
    browser.wait_for("document.querySelector('#compare-status').innerText.includes('Your vote')")
    browser.ask(_WITHOUT_FOLDER % json.dumps(folder))
    (PICTURES / "ui-compare.png").write_bytes(browser.picture(whole=False))


def _set(browser: Browser, tab: str, max_tokens: int) -> None:
    """Temperature and longest answer, with the settings folded away again."""
    browser.click(f"#{tab}-settings button")
    browser.type(f"#{tab}-temperature input", "0")
    browser.type(f"#{tab}-max-tokens input", str(max_tokens))
    browser.click(f"#{tab}-settings button")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the page, make the pictures, end it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs=2, metavar="MODEL")
    models = parser.parse_args(arguments).models
    with tempfile.TemporaryDirectory(prefix="smidgen-") as name:
        votes = str(Path(name) / "votes.sqlite")
        words = [sys.executable, "-m", "smidgen", "ui", *models, "--port", "0", "--votes", votes]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as page:
            assert page.stdout is not None
            address = page.stdout.readline().split()[-1]
            with Browser(browser_or_skip()) as browser:
                draw(browser, address + "/", name)
            page.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
