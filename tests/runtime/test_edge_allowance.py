"""Which edges are read: of many that take long only a few, of few or fast ones all."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mlmeter.sampling.edge_allowance import (
    EDGES_PER_LATE,
    LATE_NS,
    MOST_LATE,
    MOST_SPENT_NS,
    SAVED_NS,
    TIMES_PER_EDGE,
    EdgeAllowance,
)

SECOND_NS = 1_000_000_000


def read(gap_ns: int, spent_ns: int, seconds: float) -> list[bool]:
    """Return, of each edge of a program that has one every `gap_ns`, whether it is read."""
    allowance, next_ns, edges = EdgeAllowance(random.Random(1)), 0, []
    for now_ns in range(0, round(seconds * SECOND_NS), gap_ns):
        edges.append(now_ns >= next_ns)
        if edges[-1]:
            next_ns = now_ns + allowance.rest_ns(now_ns, now_ns + spent_ns)
    return edges


@pytest.mark.parametrize("gap_ns", [1_000_000, 1_500_000, 4_900_000])
@pytest.mark.parametrize("spent_ns", [LATE_NS + 1, 2 * MOST_SPENT_NS, SECOND_NS // 20])
def test_of_many_edges_one_in_two_hundred_is_late(gap_ns: int, spent_ns: int) -> None:
    """However long reads take; the rests are as long as that asks for in the mean only."""
    edges = read(gap_ns, spent_ns, 600)
    assert 0.8 < sum(edges) / len(edges) * EDGES_PER_LATE < 1.1


def test_late_edges_are_read_in_rows() -> None:
    """The edges of four windows one after the other tell what eight single ones do not."""
    edges = read(1_500_000, LATE_NS + 1, 600)
    begins = sum(not before and now for before, now in pairwise(edges))
    assert sum(edges) / (begins + 1) == MOST_LATE


@pytest.mark.parametrize("spent_ns", [1_000, LATE_NS, 2 * MOST_SPENT_NS])
def test_fifty_edges_a_second_are_read(spent_ns: int) -> None:
    assert all(read(SECOND_NS // 50, spent_ns, 600))


@pytest.mark.parametrize("spent_ns", [4_000, LATE_NS])
def test_fast_edges_are_limited_by_their_share_of_the_time(spent_ns: int) -> None:
    gap_ns = 1_000_000
    edges = read(gap_ns, spent_ns, 600)
    most = (600 * SECOND_NS + SAVED_NS) / TIMES_PER_EDGE / spent_ns + 1
    assert 0.7 * most < sum(edges) <= most


def test_two_hundred_fast_edges_pay_for_a_late_one() -> None:
    """What is late now and then, for want of a processor, does not end a row."""
    allowance, now_ns, rests = EdgeAllowance(random.Random(1)), 0, []
    for number in range(20 * EDGES_PER_LATE):
        now_ns += 1_500_000
        spent_ns = LATE_NS + 1 if number % EDGES_PER_LATE == EDGES_PER_LATE - 1 else 1_000
        rests.append(allowance.rest_ns(now_ns, now_ns + spent_ns))
    assert not any(rests)
