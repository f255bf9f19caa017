"""Text and its tokens go out together."""

from smidgen.serving.answers.stopping import Passing


def test_tokens_wait_with_their_text() -> None:
    passing = Passing[str](["stop"])
    assert passing.pass_on("see ", ["a"]) == ("see ", ["a"])
    assert passing.pass_on("st", ["b"]) == ("", [])
    assert passing.pass_on("ar", ["c"]) == ("star", ["b", "c"])


def test_tokens_of_the_stop_text_stay_but_for_one_that_begins_before_it() -> None:
    passing = Passing[str](["stop"])
    assert passing.pass_on("a st", ["a"]) == ("a ", [])
    assert passing.pass_on("op", ["b"]) == ("", ["a"])
    assert passing.found


def test_the_rest_comes_with_its_tokens() -> None:
    passing = Passing[str](["stop"])
    passing.pass_on("sto", ["a"])
    assert passing.rest() == ("sto", ["a"])
    assert passing.rest() == ("", [])


def test_tokens_without_text_go_with_what_is_before_them() -> None:
    passing = Passing[str](["stop"])
    assert passing.pass_on("", ["a"]) == ("", ["a"])
    assert passing.pass_on("st", ["b"]) == ("", [])
    assert passing.pass_on("", ["c"]) == ("", [])
    assert passing.pass_on("ay", ["d"]) == ("stay", ["b", "c", "d"])
