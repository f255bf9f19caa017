"""`smidgen arena` as people use it: files, a judge, and bad input in one line with exit code 2."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.measuring.arena import arena as door
from tests.measuring.arena.test_judge import Speaking, longer
from tests.tiny_models import LLAMA_CONFIG, LLAMA_KEYS, gguf_tensors, random_decoder, write_model

HEAD = "model_a,model_b,winner\n"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["arena", *map(str, arguments)])
    return int(left.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(HEAD + "A,B,a\nB,A,a\nB,C,tie\nC,B,a\n" * 5)
    Path("apart.csv").write_text(HEAD + "A,B,a\nB,A,a\nC,D,tie\n")
    Path("prompts.txt").write_text("Why is the sky blue?\n\nName a fruit.\nName a fruit.\n")
    Path("latin.txt").write_bytes(b"\xe4\n")
    Path("empty.txt").write_text("\n")
    Path("odd.jsonl").write_text('{"prompt": "one"}\n{"text": "two"}\n')
    return tmp_path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that write nonsense, and one without a chat template."""
    place, chats = tmp_path_factory.mktemp("models"), {"tokenizer.chat_template": TEMPLATE}
    return [
        write_model(
            place / f"{name}.gguf", "llama", LLAMA_KEYS, gguf_tensors(random_decoder(LLAMA_CONFIG, seed)), others=others
        )
        for seed, (name, others) in enumerate((("one", chats), ("other", chats), ("base", {})))
    ]


def test_json_is_the_ranking_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--votes", "good.csv", "--anchor", "A=1200", "--json", "-q") == 0
    said = capsys.readouterr()
    ranking = json.loads(said.out)
    assert said.err == "" and ranking["schema"] == 1 and ranking["votes"]["counted"] == 20
    assert {one["model"]: one["score"] for one in ranking["models"]}["A"] == 1200
    assert ranking == smidgen.arena(votes="good.csv", anchor=("A", 1200)).facts
    assert str(folder) not in said.out


def test_a_person_reads_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("A", "B", "--votes", "good.csv", "-o", "page.html") == 0
    assert Path("page.html").read_text().startswith("<!doctype html>")
    said = capsys.readouterr().out
    assert "95% interval" in said and "Votes on other models, left out: 10." in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There are no votes: give --votes FILE"),
        (["A", "B"], "There are no votes: give --votes FILE"),
        (["--votes", "nothing.csv"], "no such file"),
        (["--votes", "apart.csv"], "2 groups of models that were never compared"),
        (["--votes", "good.csv", "--votes", "good.csv"], "are the same votes"),
        (["A", "Q", "--votes", "good.csv"], "There are no votes on Q"),
        (["--votes", "good.csv", "--anchor", "A"], "is not NAME=SCORE"),
        (["--votes", "good.csv", "--anchor", "A=nan"], "is not NAME=SCORE"),
        (["--votes", "good.csv", "--anchor", "Q=1"], "Q is not among the ranked models"),
        (["--votes", "good.csv", "-o", "good.csv"], "must end in .html"),
        (["--votes", "good.csv", "-o", "missing/page.html"], "there is no folder"),
        (["--votes", "good.csv", "--judge", "A"], "not both"),
        (["--prompts", "empty.txt", "--judge", "A", "A", "B"], "is empty; write one prompt a line"),
        (["--prompts", "latin.txt", "--judge", "A", "A", "B"], "line 1 is not UTF-8"),
        (["--prompts", "odd.jsonl", "--judge", "A", "A", "B"], "line 2 has no text under prompt"),
        (["--prompts", "prompts.txt", "--judge", "A", "A"], "at least two models"),
        (["--prompts", "prompts.txt", "--judge", "{0}", "{0}", "{0}"], "one is given twice"),
        (["--prompts", "prompts.txt", "--judge", "{0}", "{0}", "{2}"], "base cannot take part"),
        (["--prompts", "prompts.txt", "--judge", "{0}", "{0}", "{1}", "--votes-out", "good.csv"], "is there already"),
        (["--prompts", "prompts.txt", "--judge", "{0}", "{0}", "{1}", "--anchor", "Q=1"], "Q is none of the models"),
    ],
)
def test_bad_input(
    folder: Path, models: list[Path], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert run(*(argument.format(*models) for argument in arguments)) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and said in output.err
    assert sorted(folder.iterdir()) == before


def test_a_judge_that_makes_no_sense(folder: Path, models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Real engines, from the command to the verdict; the models are random."""
    words = [*models[:2], "--prompts", "prompts.txt", "--judge", models[0], "-n", "4", "--threads", "1", "-q"]
    assert run(*words, "--limit", "1", "--votes-out", "votes.jsonl") == 2
    said = capsys.readouterr().err
    assert "one judged no pair" in said and "Choose a stronger judge" in said
    assert not Path("votes.jsonl").exists()


def test_votes_of_a_judge(
    folder: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def answering(origin: Any, threads: int | None) -> Iterator[Any]:
        yield Speaking(lambda asked: longer(asked) if "[Answer A]" in asked else origin.name)

    monkeypatch.setattr(door, "_answering", answering)
    words = [*models[:2], "--prompts", "prompts.txt", "--judge", models[1], "--votes-out", "votes.jsonl", "-q"]
    assert run(*words, "--json") == 0
    ranking = json.loads(capsys.readouterr().out)
    assert ranking["judge"]["judged"] == 2 and ranking["judge"]["position_bias"] == 0
    assert ["prefer their own answers" in note for note in ranking["judge"]["notes"]] == [True]
    assert [one["model"] for one in ranking["models"]] == ["other", "one"]  # the longer name
    assert run("--votes", "votes.jsonl", "-q") == 0
    assert "other: it never lost (2 votes)" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("votes.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["Why is the sky blue?", "Name a fruit."]
    assert all(row["judge"] == "other" and row["winner"] == "model_b" for row in rows)
