"""When windows may read a source at their edges: the rule by itself."""

from __future__ import annotations

import pytest

from mlmeter.sampling.edge_permit import EDGE_LIMIT_NS, LONG_NS, SLOW_NS, EdgePermit


def test_proof_doubles_and_is_forgotten_after_a_good_time() -> None:
    """1, 2, 4 s and so on up to ten minutes; ten good minutes end it."""
    permit, now_ns, waits = EdgePermit(), 0, []
    permit.took_elsewhere(1_000, now_ns)
    for _ in range(13):
        assert permit.took_at_edge(30_000_000, now_ns) is not None
        closed_ns = now_ns
        while not permit.open:
            now_ns += 1_000_000_000
            permit.took_elsewhere(1_000, now_ns)
        waits.append((now_ns - closed_ns) // 1_000_000_000)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]
    now_ns += 600_000_000_000
    permit.took_at_edge(30_000_000, now_ns)
    permit.took_elsewhere(1_000, now_ns + 1_000_000_000)
    assert permit.open


@pytest.mark.parametrize(("elapsed_ns", "others"), [(900_000, 1), (LONG_NS, 20), (19_000_000, 25)])
def test_machine_that_is_busy_is_no_slow_source(elapsed_ns: int, others: int) -> None:
    """Every other read is dear for want of a processor, or one in 21 waits for the interpreter."""
    permit = EdgePermit()
    permit.took_elsewhere(1_000, 0)
    for _ in range(200):
        assert permit.took_at_edge(elapsed_ns, 0) is None
        for _ in range(others):
            permit.took_at_edge(20_000, 0)
    assert permit.open


@pytest.mark.parametrize(
    ("elapsed_ns", "others", "reads"), [(SLOW_NS, 0, 1), (EDGE_LIMIT_NS + 1, 0, 32), (LONG_NS, 10, 9)]
)
def test_source_that_is_dear_is_left_alone(elapsed_ns: int, others: int, reads: int) -> None:
    """One slow read, 32 dear ones in a row, or one long one in eleven."""
    permit = EdgePermit()
    permit.took_elsewhere(1_000, 0)
    taken = 0
    while permit.open:
        taken += 1
        permit.took_at_edge(elapsed_ns, 0)
        for _ in range(others):
            permit.took_at_edge(20_000, 0)
    assert taken == reads
