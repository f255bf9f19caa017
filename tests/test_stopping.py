"""Ctrl-C and SIGTERM: a wish between two steps, an end at the second, and a word on how to go on."""

import os
import pickle
import signal
import threading

import pytest

from smidgen.stopping import Stopped, as_interrupts, between_steps, resumable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_wish_the_second_ends(number: int, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, between_steps() as wish:
        os.kill(os.getpid(), number)
        assert wish.number == number
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number and signal.getsignal(number) is before
    assert "Stopping after this step" in capsys.readouterr().err


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with between_steps() as wish, as_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            assert wish.number is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_changed() -> None:
    found = []

    def look() -> None:
        with between_steps():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("kept", [True, False])
def test_who_is_interrupted_learns_whether_the_work_is_kept(kept: bool) -> None:
    with pytest.raises(Stopped) as stopped, resumable(lambda: kept):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130 and ("--resume" in str(stopped.value)) is kept
    with pytest.raises(Stopped) as ended, resumable(lambda: kept):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.exit_code == 143 and ended.value.kept is kept


def test_it_goes_from_process_to_process() -> None:
    there = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "Stopped after step 3 of 9, which is saved.", True)))
    assert (there.number, there.kept) == (signal.SIGTERM, True) and "step 3 of 9" in str(there)
