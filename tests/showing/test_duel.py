"""A blind comparison: the order is drawn, the vote holds all that it takes to repeat it, and there is one."""

import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from smidgen.errors import SmidgenError
from smidgen.measuring.arena.reading import read_votes
from smidgen.showing.ballots import BallotBox
from smidgen.showing.duel import Duel
from smidgen.showing.settings import Settings
from smidgen.votes import WINNERS, Winner
from tests.showing.pretended import pretended

SETTINGS = Settings(0.5, 0.9, 32, None, "Be brief.")


@pytest.fixture
def box(tmp_path: Path) -> BallotBox:
    return BallotBox(tmp_path / "votes.sqlite")


def fought(settings: Settings = SETTINGS) -> Duel:
    duel = Duel.draw("Why?", settings, [pretended("one"), pretended("two")])
    for _ in range(2):
        writing = duel.begin_next()
        end = time.monotonic() + 30
        while not writing.ended:
            assert time.monotonic() < end
            time.sleep(0.005)
    return duel


def test_each_order_comes_and_each_draw_has_its_seed() -> None:
    models = [pretended("one"), pretended("two")]
    drawn = [Duel.draw("Why?", SETTINGS, models) for _ in range(64)]
    assert {duel.models[0].name for duel in drawn} == {"one", "two"}
    assert len({duel.settings.seed for duel in drawn}) > 32
    assert Duel.draw("Why?", Settings(0, 1, None, 7, ""), models).settings.seed == 7


def test_a_vote_holds_what_was_asked_and_answered(box: BallotBox) -> None:
    duel = fought()
    assert duel.complete and duel.vote("model_b", box) == 1
    with closing(sqlite3.connect(box.path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM votes").fetchone())
    a, b = duel.models
    expected = {
        "model_a": a.name, "model_b": b.name, "winner": "model_b", "judge": "person", "prompt": "Why?",
        "system": "Be brief.", "answer_a": f"{a.name} says: Why?", "answer_b": f"{b.name} says: Why?",
        "sha256_a": a.sha256, "sha256_b": b.sha256, "temperature": 0.5, "top_k": 40, "top_p": 0.9, "max_tokens": 32,
        "seed": duel.settings.seed, "context_a": 64, "tokens_a": 3, "stop_b": "end", "chat_a": 1, "threads": None,
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert row["smidgen"] and "llama.cpp" in row["engine"]


def test_there_is_one_vote_on_two_answers(box: BallotBox) -> None:
    duel = fought()
    duel.vote("tie", box)
    with pytest.raises(SmidgenError, match="voted on these"):
        duel.vote("model_a", box)


def test_clicks_at_the_same_moment_are_one_vote(box: BallotBox) -> None:
    duel, start, kept = fought(), threading.Barrier(4), list[int]()

    def vote(winner: Winner) -> None:
        start.wait()
        with suppress(SmidgenError):
            kept.append(duel.vote(winner, box))

    clicks = [threading.Thread(target=vote, args=(winner,)) for winner in WINNERS]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert kept == [1] and read_votes([box.path]).total == 1


def test_the_file_itself_refuses_a_second_vote_on_a_pair(box: BallotBox) -> None:
    duel = fought()
    duel.vote("tie", box)
    duel.ballot = None
    with pytest.raises(SmidgenError, match="a vote on these answers already"):
        duel.vote("model_a", box)
    a, b = duel.models
    assert read_votes([box.path]).counts[a.name, b.name, "tie"] == 1 == read_votes([box.path]).total


def test_no_vote_on_half_a_comparison(box: BallotBox) -> None:
    duel = Duel.draw("Why?", SETTINGS, [pretended("one"), pretended("two")])
    with pytest.raises(SmidgenError, match="two whole answers"):
        duel.vote("model_a", box)
    stopped = fought()
    stopped.stop()
    with pytest.raises(SmidgenError, match="two whole answers"):
        stopped.vote("model_a", box)


def test_a_vote_that_was_not_kept_may_be_cast_again(box: BallotBox, monkeypatch: pytest.MonkeyPatch) -> None:
    duel = fought()
    with monkeypatch.context() as broken:
        broken.setattr(BallotBox, "add", lambda *_: (_ for _ in ()).throw(SmidgenError("the disk is full")))
        with pytest.raises(SmidgenError, match="full"):
            duel.vote("model_a", box)
    assert duel.vote("model_a", box) == 1
