"""The results as text: one table of 80 columns per study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.workloads.digits import TEST_SAMPLES
from benchmarks.workloads.summary import Interval, Row, Summary, accuracy_interval

HEADER = f"{'variant':<26}{'acc. %':>7}{'J/sample':>10}{'±%':>5}{'ratio':>8}{'95 % interval':>16}{'CPU':>8}"
TYPICAL_ACCURACY = 0.97
LIVES = (1_000, 100_000, 10_000_000)


def report(summaries: Sequence[Summary], facts: Sequence[str], left_out: Sequence[str]) -> str:
    """Return a Markdown page.

    Args:
        summaries: of all studies that were done.
        facts: lines about machine, versions and source of the energies.
        left_out: a line about each study that was not done.
    """
    interval = accuracy_interval(TYPICAL_ACCURACY, TEST_SAMPLES)
    low, high = (f"{100 * end:.1f}" for end in (interval.low, interval.high))
    lines = [
        "# What saves energy: the studies",
        "",
        *(f"* {fact}" for fact in facts),
        *(f"* Left out: {line}" for line in left_out),
        "* J/sample: joules per sample seen; ±: 95 % interval of its mean, by the scatter of rounds only.",
        "* Ratio: joules per unit against the first variant, paired round by round; CPU: that of CPU time.",
        f"* Accuracy: of {TEST_SAMPLES} digits; {TYPICAL_ACCURACY:.0%} is {low} to {high} % (95 % interval).",
    ]
    for one in summaries:
        lines += ["", f"## {one.key}", "", "```text", *table(one), *_more(one), "```"]
    return "\n".join(lines) + "\n"


def table(summary: Summary) -> list[str]:
    """Return the lines of one study's table, none longer than 80 characters."""
    repeats = f"rounds: {summary.rounds}; to see {summary.effect:.0%} it takes {summary.needed}"
    if summary.rounds < summary.needed:
        repeats += ", NOT reached"
    if summary.left_out:
        repeats += f"; {summary.left_out} left out"
    whose = " of the whole machine" if summary.joules == "machine_joules" else ""
    compared = f"ratio: joules{whose} per {summary.unit}"
    lines = [summary.title, compared, repeats, "", HEADER, "-" * len(HEADER)]
    return [*lines, *(_row(row) for row in summary.rows)]


def _row(row: Row) -> str:
    accuracy = "" if row.accuracy is None else f"{100 * row.accuracy:.1f}"
    joules = row.joules_per_sample
    line = f"{row.variant:<26}{accuracy:>7}{joules.value:>10.2e}{joules.half_percent:>5.0f}"
    if row.ratio is None or row.cpu_ratio is None:
        return f"{line}{'1':>8}"
    return f"{line}{digits3(row.ratio.value):>8}{span(row.ratio):>16}{digits3(row.cpu_ratio.value):>8}"


def digits3(value: float) -> str:
    """Return a number with three digits that count, none dropped before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def span(interval: Interval) -> str:
    """Return both ends."""
    return f"{digits3(interval.low)}-{digits3(interval.high)}"


def _more(summary: Summary) -> list[str]:
    extra = EXTRAS.get(summary.key)
    return [] if extra is None else ["", *extra(summary)]


def _life(summary: Summary) -> list[str]:
    """Return which share training has after so many predictions."""
    count = summary.rows[1].ratio
    assert count is not None
    lines = [
        f"as much as the training: {count.value:,.0f} predictions, {count.low:,.0f} to {count.high:,.0f}"
    ]
    for predictions in LIVES:
        shares = (100 * one / (one + predictions) for one in (count.value, count.low, count.high))
        value, low, high = map(digits3, shares)
        lines.append(f"{predictions:>12,} predictions: training {value} % of all ({low} to {high})")
    return lines


def _own_part(summary: Summary) -> list[str]:
    """Return the ratios of this process' part, which leaves out what the machine takes to idle."""
    rows = [(row.variant, row.own_ratio) for row in summary.rows if row.own_ratio is not None]
    return [
        "this process and its children, without the machine's idling:",
        *(f"{name:<26}{digits3(found.value):>30}{span(found):>16}" for name, found in rows),
    ]


EXTRAS: dict[str, Callable[[Summary], list[str]]] = {
    "life-128": _life,
    "life-1": _life,
    "processes": _own_part,
}
