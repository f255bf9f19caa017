"""llama.cpp is loaded without the wait policy that torch wants, and torch has it again afterwards."""

import os

import pytest

from smidgen.openmp import wait_asleep, waiting_awake

POLICY, LOOKS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def test_ours_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    monkeypatch.delenv(LOOKS, raising=False)
    wait_asleep()
    with waiting_awake():
        assert POLICY not in os.environ and 100 < int(os.environ[LOOKS]) < 10_000
    assert os.environ[POLICY] == "PASSIVE" and LOOKS not in os.environ


@pytest.mark.parametrize(("name", "value"), [(POLICY, "ACTIVE"), (LOOKS, "5")])
def test_what_a_person_set_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    monkeypatch.delenv(LOOKS, raising=False)
    monkeypatch.setenv(name, value)
    wait_asleep()
    before = dict(os.environ)
    with waiting_awake():
        assert os.environ[name] == value and dict(os.environ) == before
    assert dict(os.environ) == before
