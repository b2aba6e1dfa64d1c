"""Plain-text tables and numbers for people, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path

from mlmeter.foreign_files import visible

SIGNIFICANT_DIGITS = 4
INTERVAL_DIGITS = 3


def number(value: float | None, digits: int = SIGNIFICANT_DIGITS, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return a number with so many significant digits, a dash if it is absent."""
    if value is None or value != value:
        return "-"
    if value == 0 or abs(value) == float("inf"):
        return f"{value:.0f}"
    # Of the shortest text, so that 0.1 is not a little more than 0.1.
    exact = Decimal(repr(float(value)))
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding)
    if not 1e-4 <= abs(value) < 1e7:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(digits - 1 - rounded.adjusted(), 0)}f}"


def interval(low: float | None, high: float | None) -> str:
    """Return ``low .. high`` rounded outward, so that it holds what it held; a dash if there is none."""
    if low is None or high is None or low != low or high != high:
        return "-"
    least, most = number(low, INTERVAL_DIGITS, ROUND_FLOOR), number(high, INTERVAL_DIGITS, ROUND_CEILING)
    return f"{least} .. {most}"


def percent(ratio: float | None) -> str:
    """Return a share in percent, a dash if it is absent."""
    if ratio is None or ratio != ratio:
        return "-"
    return f"{100 * ratio:.1f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return aligned columns under a rule; the first `left` columns are flush left."""
    header, *rows = ([visible(text) for text in row] for row in (header, *rows))
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def fitting_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    width: int = 80,
    drop: Sequence[str] = (),
) -> str:
    """Return a table that is no wider than `width`, without as many of its columns as that takes.

    Args:
        header: names of the columns.
        rows: at least one.
        left: how many of the columns are flush left.
        width: most characters of a line.
        drop: columns that may go, first to last; then the texts of the first column are cut.
    """
    shown = [tuple(map(visible, row)) for row in rows]
    columns = dict(zip(header, zip(*shown, strict=True), strict=True))
    for name in drop:
        if _width(columns) > width:
            columns.pop(name, None)
    first, *_ = columns
    rest = _width({name: cells for name, cells in columns.items() if name != first}) + len("  ")
    columns[first] = tuple(shorten(text, max(width - rest, len(first))) for text in columns[first])
    kept = sum(name in columns for name in header[:left])
    return table(tuple(columns), list(zip(*columns.values(), strict=True)), left=kept)


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    widths = [max(map(len, (name, *cells))) for name, cells in columns.items()]
    return sum(widths) + len("  ") * (len(widths) - 1)


def record_lines(records: Sequence[Mapping[str, object]]) -> str:
    """Return records as blocks of ``name  value`` lines: tables of many columns fit no terminal."""
    blocks = []
    for record in records:
        shown = {visible(name): visible(str(value)) for name, value in record.items() if value is not None}
        width = max(map(len, shown), default=0)
        blocks.append("\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items()))
    return "\n\n".join(blocks)


def path_text(path: Path) -> str:
    """Return a path as seen from the current directory, if it lies below it."""
    try:
        return visible(str(path.relative_to(Path.cwd())))
    except (ValueError, OSError):
        return visible(str(path))


def shorten(text: str, width: int = 20) -> str:
    """Return `text`, cut with an ellipsis where it is longer than `width`."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
