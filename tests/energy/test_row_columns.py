"""Rows that are copied piece by piece: whoever copies what is new has what there is."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from mlmeter.energy.row_columns import RowColumns

ROWS = 4


@given(
    st.lists(
        st.one_of(
            st.just(("append", 0)),
            st.tuples(st.just("take back"), st.integers(0, 8)),
            st.tuples(st.just("rewrite"), st.integers(0, 8)),
            st.just(("copy", 0)),
        ),
        max_size=30,
    )
)
def test_copies_follow_every_change(steps: list[tuple[str, int]]) -> None:
    """Rows appended, taken back and rewritten in any order, and copied at any time."""
    rows, mark = RowColumns(), RowColumns().mark_at(0, 0)
    copied: list[tuple[int, int]] = []
    for number in range(ROWS):
        rows.append(10 * number, 10 * number + 5, number, None)
    for time, (step, place) in enumerate([*steps, ("copy", 0)]):
        end = rows.end
        if step == "append":
            rows.append(1_000 + time, 2_000 + time, time, None)
        elif step == "take back":
            rows.take_back(max(0, end - place))
        elif step == "rewrite" and place < end:
            rows.rewrite_after({place: -time - 1})
        elif step == "copy":
            new, back, mark = rows.news(mark)
            copied = [*copied[: len(copied) - back], *zip(new.after_ns, new.counts, strict=True)]
    assert copied == list(zip(rows.after_ns, rows.counts, strict=True))


def test_rewriting_nothing_is_no_news() -> None:
    """Nobody copies rows again that have not changed."""
    rows = RowColumns()
    rows.append(1, 2, 3, None)
    _, _, mark = rows.news(rows.mark_at(0, 0))
    rows.rewrite_after({})
    new, back, _ = rows.news(mark)
    assert (new.counts, back) == (array("q"), 0)
