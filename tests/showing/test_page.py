"""`smidgen ui` as a person meets it: the real page with real models, in a browser."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import smidgen
from smidgen.measuring.arena.reading import read_votes
from tests.browser import Browser, browser_or_skip, is_not_blank
from tests.tiny_models import write_llama

pytest.importorskip("gradio", minversion="6")

MESSAGE, SAID = "#chat-message textarea", "document.querySelector('#chat-status').innerText"
COMPARED, CUT = (f"document.querySelector('#{name}-status').innerText" for name in ("compare", "cut"))
COLUMN = "document.querySelector('.tabs').getBoundingClientRect().width"
PANE = "document.querySelector('#chat').innerText"
#: A remark of Chromium's where a message is edited.
FOCUS = "Autofocus processing was blocked because a document already has a focused element."
#: Notes each address that Python connects to, in every process that is started with it.
WATCH = """
import os, sys
def watch(event, args):
    if event == "socket.connect":
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(repr(args[1]) + "\\n")
sys.addaudithook(watch)
"""


class Page:
    """A running `smidgen ui`. folder: where it was started, with log, connections and votes.sqlite."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.votes = folder, folder / "votes.sqlite"
        (folder / "watch").mkdir(exist_ok=True)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        paths = [str(folder / "watch"), str(Path(smidgen.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CONNECTIONS": str(folder / "connections"),
            "SMIDGEN_HOME": str(folder / "home"),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smidgen", "ui", *words, "--port", "0", "--threads", "1"],
            stdout=subprocess.PIPE, stderr=(folder / "log").open("w"), text=True, cwd=folder,
            env=os.environ | environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1] + "/"

    def engines(self) -> list[int]:
        """The processes of its engines."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [int(child) for file in children for child in file.read_text().split()]
        return [one for one in found if b"llama_cpp.child" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    write_llama(folder / "tiny.gguf")
    page = Page(folder, "smollm2-135m-instruct", "tiny.gguf", "--ctx-size", "512", "--votes", "votes.sqlite")
    yield page
    page.process.kill()
    page.process.communicate()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser(browser_or_skip()) as one:
        yield one


@pytest.fixture
def browser(chromium: Browser, page: Page) -> Iterator[Browser]:
    """The page, opened anew. Afterwards nothing was complained of, and nothing asked for elsewhere."""
    opened(chromium, page)
    yield chromium
    assert [said for said in chromium.console if said != FOCUS] == []
    assert [one for one in chromium.requested if not one.startswith((page.address, "data:"))] == []


def opened(browser: Browser, page: Page, width: int = 1200, dark: bool = False) -> None:
    browser.show("about:blank")  # what a page complains of when it is left is not this one's
    browser.show(page.address, width, dark)
    browser.wait_for(f"!!document.querySelector('{MESSAGE}')")


def tab(browser: Browser, name: str) -> None:
    browser.ask(f"[...document.querySelectorAll('button[role=tab]')].find(one => one.innerText == '{name}').click()")


def choose(browser: Browser, list_of: str, name: str) -> None:
    """One of a list that opens."""
    option = f"document.querySelector('{list_of} [role=option][aria-label={name}]')"
    browser.wait_for(f"document.querySelector('{list_of} input').focus(), !!{option}")
    browser.ask(f"{option}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")


def unfold(browser: Browser, pane: str) -> None:
    """Its settings. A click is lost where the page is not yet ready for it, so one without effect is made again."""
    shown = f"document.querySelector('#{pane}-max-tokens input')?.getClientRects().length > 0"
    button = f"document.querySelector('#{pane}-settings button')"
    browser.wait_for(f"!!{button}")
    clicked = f"window.clicked = Date.now(), {button}.click()"
    browser.wait_for(f"{shown} || (Date.now() - (window.clicked ?? 0) > 3000 && ({clicked}), false)")


def send(browser: Browser, text: str) -> None:
    browser.type(MESSAGE, text, enter=True)


def test_an_answer_is_streamed_and_its_speed_is_said(browser: Browser) -> None:
    send(browser, "Write one sentence about a whale.")
    browser.wait_for(f"{SAID}.includes('Writing')")
    early = browser.ask(PANE)
    said = browser.wait_for(f"{SAID}.includes('Context:') && {SAID}")
    assert "tokens/s" in said and "of 512 tokens" in said
    assert len(browser.ask(PANE)) > len(early)
    assert browser.ask(f"document.querySelector('{MESSAGE}').value") == ""


def test_stop_stops_retry_and_edit_go_on(browser: Browser) -> None:
    send(browser, "Tell me a very long story about a whale and a ship.")
    browser.wait_for(f"{SAID}.includes('Writing')")
    browser.click("#chat-message .stop-button")
    browser.wait_for(f"{SAID}.includes('Stopped.')")
    stopped = browser.ask(PANE)
    time.sleep(0.5)
    assert browser.ask(PANE) == stopped
    browser.click("#chat button[aria-label=Retry]")
    browser.wait_for(f"{SAID}.includes('Writing')")
    browser.click("#chat-message .stop-button")
    browser.wait_for(f"{SAID}.includes('Stopped.')")
    browser.click("#chat button[aria-label=Edit]")
    browser.type("#chat textarea", "What is the capital of France?")
    browser.click("#chat button[aria-label=Submit]")
    browser.wait_for(f"{PANE}.includes('France') && !{PANE}.includes('whale') && {SAID}.includes('Context:')")


def test_a_prompt_over_the_context_names_both_numbers_and_comes_back(browser: Browser) -> None:
    send(browser, "whale " * 800)
    said = browser.wait_for(f"{SAID}.includes('no room') && {SAID}")
    assert "512" in said and "back in its field" in said
    assert browser.ask(f"document.querySelector('{MESSAGE}').value.length") == len("whale " * 800)


def test_an_engine_that_is_killed_is_a_line_and_the_next_message_works(browser: Browser, page: Page) -> None:
    send(browser, "Tell me a very long story about a whale and a ship.")
    browser.wait_for(f"{SAID}.includes('Writing')")
    for engine in page.engines():
        os.kill(engine, signal.SIGKILL)
    browser.wait_for(f"{SAID}.includes('llama.cpp ended')")
    send(browser, "Say hello.")
    browser.wait_for(f"{SAID}.includes('Context:')")


def test_two_windows_do_not_mix(browser: Browser, page: Page) -> None:
    with Browser(browser_or_skip()) as other:
        opened(other, page)
        for window, name in ((browser, "Walrus"), (other, "Penguin")):
            send(window, f"My name is {name}. What is my name?")
        for window in (browser, other):
            window.wait_for(f"{SAID}.includes('Context:')")
        assert "Walrus" in browser.ask(PANE) and "Penguin" not in browser.ask(PANE)
        assert "Penguin" in other.ask(PANE) and "Walrus" not in other.ask(PANE)


@pytest.mark.parametrize("width", [1000, 1200, 1920])
def test_on_a_desktop_each_tab_has_the_width_of_the_window_up_to_a_comfortable_one(
    width: int, browser: Browser, page: Page
) -> None:
    opened(browser, page, width)
    expected = min(width, 1088)
    for name in ("Compare", "Card", "Cut", "Chat"):
        tab(browser, name)
        browser.wait_for(f"document.querySelector('button[role=tab][aria-selected=true]').innerText == '{name}'")
        assert browser.ask(COLUMN) == pytest.approx(expected - 64, abs=2), name


def test_the_column_stands_still_while_an_answer_is_written(browser: Browser) -> None:
    before = browser.ask(COLUMN)
    send(browser, "Write one sentence about a whale.")
    browser.wait_for(f"{SAID}.includes('Writing')")
    assert browser.ask(COLUMN) == before
    browser.wait_for(f"{SAID}.includes('Context:')")
    assert browser.ask(COLUMN) == before


def test_a_base_model_continues_and_the_page_says_so(browser: Browser) -> None:
    choose(browser, "#chat-model", "tiny")
    browser.wait_for("document.body.innerText.includes('tiny is a base model without a chat template')")
    unfold(browser, "chat")
    browser.wait_for("document.querySelector('#chat-max-tokens input').value == '256'")
    browser.type("#chat-max-tokens input", "9")
    browser.type("#chat-temperature input", "0")
    send(browser, "There was")  # which goes on for longer than that
    browser.wait_for(f"{SAID}.includes('9 tokens') && {SAID}.includes('the longest answer of 9 tokens')")


def test_a_blind_vote_lands_in_sqlite(browser: Browser, page: Page) -> None:
    tab(browser, "Compare")
    unfold(browser, "compare")
    browser.type("#compare-max-tokens input", "16")
    browser.type("#compare-prompt textarea", "Say hello.", enter=True)
    browser.wait_for(f"{COMPARED}.includes('Which answer is better?')")
    answers = [browser.ask(f"document.querySelector('#compare-{letter} .bot .message').innerText") for letter in "ab"]
    before = browser.ask("document.querySelector('#compare-a').innerText + " + COMPARED)
    assert "smollm2" not in before and "tiny" not in before
    browser.click("#vote-both_bad")
    said = browser.wait_for(f"{COMPARED}.includes('number 1') && {COMPARED}")
    with closing(sqlite3.connect(page.votes)) as connection:
        connection.row_factory = sqlite3.Row
        [row] = connection.execute("SELECT * FROM votes").fetchall()
    assert f"A was {row['model_a']}, B was {row['model_b']}" in said
    assert {row["model_a"], row["model_b"]} == {"smollm2-135m-instruct", "tiny"}
    assert (row["winner"], row["prompt"]) == ("both_bad", "Say hello.")
    assert all("".join(shown.split())[:20] in "".join(row[f"answer_{letter}"].split())
               for shown, letter in zip(answers, "ab", strict=True) if shown.isascii())  # fmt: skip
    assert browser.ask("document.querySelector('#vote-tie').disabled")
    assert read_votes([page.votes]).models == ["smollm2-135m-instruct", "tiny"]


def test_a_cut_is_made_shown_and_talked_with(browser: Browser, page: Page) -> None:
    tab(browser, "Cut")
    size = "document.querySelector('#cut-size :is(input, textarea)').value"
    proposed = browser.wait_for(size)
    choose(browser, "#cut-model", "tiny")
    browser.wait_for(f"{size} && {size} != '{proposed}'")  # what is typed before that, the proposal would replace
    browser.type("#cut-size :is(input, textarea)", "1KB")
    browser.click("#cut-plan")
    said = browser.wait_for(f"{CUT}.includes('failed') && {CUT}")
    assert "Choose a size of at least" in said and "--fit" not in said
    browser.type("#cut-size :is(input, textarea)", "300KB")
    browser.click("#cut-more button")
    browser.type("#cut-text textarea", "The whale swam beside the ship until the evening. " * 60)
    browser.type("#cut-tokens :is(input, textarea)", "512")
    browser.click("#cut-card input")
    browser.click("#cut-begin")
    browser.wait_for(f"{CUT}.includes('The cut')")
    opened(browser, page)  # a cut goes on when its window is closed, and who opens the page sees it
    tab(browser, "Cut")
    browser.wait_for(f"{CUT}.includes('The cut is ready')", 180)
    assert (page.folder / "smaller" / "model.gguf").stat().st_size <= 300_000
    assert not list((page.folder / "home" / "ui").rglob("*.txt"))
    browser.click("#cut-chat")
    browser.wait_for("document.querySelector('#chat-model input').value == 'smaller'")
    unfold(browser, "chat")
    browser.type("#chat-max-tokens input", "9")
    send(browser, "Once")
    browser.wait_for(f"{SAID}.includes('Context:')")


def test_a_card_is_shown_in_a_frame_that_may_do_nothing(browser: Browser, page: Page) -> None:
    hostile = "<h1>A card</h1><script>top.document.title = 'taken'</script><img src='https://example.org/x.png'>"
    (page.folder / "card.html").write_text(hostile)
    title = browser.ask("document.title")
    browser.show("about:blank")
    browser.show(f"{page.address}card/1")
    assert browser.ask("document.body.innerText").strip() == "A card"
    assert [said.partition(" ")[0] for said in browser.console] == ["Blocked", "Loading"]  # … has been blocked
    opened(browser, page)
    tab(browser, "Card")
    choose(browser, "#card-model", "tiny")
    browser.wait_for("!!document.querySelector('iframe.card')")
    assert browser.ask("document.querySelector('iframe.card').getAttribute('sandbox')") == ""
    assert browser.ask("document.title") == title
    frame = browser.ask("document.querySelector('iframe.card').getBoundingClientRect().toJSON()")
    assert frame["width"] == browser.ask(COLUMN) and frame["height"] >= 500


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_a_phone(dark: bool, browser: Browser, page: Page) -> None:
    opened(browser, page, 390, dark)
    for name in ("Chat", "Compare", "Card", "Cut"):
        tab(browser, name)
        browser.wait_for(f"document.querySelector('button[role=tab][aria-selected=true]').innerText == '{name}'")
        assert browser.ask("document.documentElement.scrollWidth") <= 390
        assert is_not_blank(browser.picture())
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) == dark


def test_nothing_of_a_person_is_in_the_log_and_nobody_was_called(page: Page) -> None:
    assert "whale" not in (page.folder / "log").read_text()
    called = (page.folder / "connections").read_text().splitlines()
    assert called and all(one.startswith("('127.0.0.1', ") for one in called), set(called)
    kept = [one for one in (page.folder / "home").rglob("*") if one.is_file()]
    assert [one for one in kept if b"whale" in one.read_bytes()] == []


def test_it_ends_when_it_is_told_to_though_windows_are_open(chromium: Browser, page: Page) -> None:
    opened(chromium, page)
    engines = page.engines()
    page.process.terminate()
    assert page.process.wait(60) == 0
    assert engines and not [one for one in engines if Path(f"/proc/{one}").exists()]
