"""Counts by fixed bins: every value is in one, also those that no bin reaches."""

import itertools

import pytest
import torch

from smidgen.measuring.histogram import EDGES, histogram


def test_bins_are_four_to_each_power_of_ten() -> None:
    assert (EDGES[0], EDGES[-1], len(EDGES)) == (1e-6, 100.0, 33)
    assert all(greater / less == pytest.approx(10**0.25, rel=1e-5) for less, greater in itertools.pairwise(EDGES))


def test_every_value_is_counted_once_in_the_bin_that_it_is_in() -> None:
    values = torch.tensor([0.0, -1e-9, 1e-7, 1e-6, 0.0099, 0.0101, 5.0, 99.0, 1000.0])
    found = histogram(values)
    assert found["edges"] == list(EDGES) and sum(found["counts"]) == len(values)
    assert found["counts"][0] == 4 and found["counts"][-1] == 2
    below = EDGES.index(0.01)
    assert found["counts"][below - 1] == found["counts"][below] == 1
