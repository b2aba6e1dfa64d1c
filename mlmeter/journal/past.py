"""What a journal holds of the past of a long session: its sums, and where reading the rest begins.

Readings and windows of the past stay in the file, too, but to show the session nobody needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlmeter.journal.file import Boundary, Entry, Json, json_text
from mlmeter.sampling.sources import ROWS_BEFORE

if TYPE_CHECKING:
    from mlmeter.energy.chapter import Chapter

CHAPTER, RESTART = "chapter", "restart"


@dataclass(frozen=True, slots=True)
class Past:
    """Sums of the past, as they were when some of it was forgotten.

    Attributes:
        chapter: the sums.
        held_ns: since when readings count.
        oldest_ns: time of the oldest that is needed beside these.
        spared: windows that ended in the past, but in which later ones were opened, as rows of the
            columns of `WindowRecords`.
        json: the chapter as it is written; None before `in_json`.
    """

    chapter: Chapter
    held_ns: int
    oldest_ns: int
    spared: Sequence[Sequence[int]]
    json: Json | None = None

    def in_json(self) -> Past:
        """Return it ready to be written."""
        return replace(self, json=json_text(self.chapter.to_json()))

    def entries(self, boundary: Boundary) -> list[Entry]:
        """Return what is written.

        Args:
            boundary: where everything that is still in memory comes after.
        """
        restart = {
            "batch": boundary.number,
            "ends": {str(stream): ends for stream, ends in boundary.ends.items()},
            "held_ns": self.held_ns,
            "spared": [list(window) for window in self.spared],
        }
        return [(CHAPTER, 0, self.json or json_text(self.chapter.to_json())), (RESTART, 0, restart)]


@dataclass(frozen=True, slots=True)
class Restart:
    """Where reading begins, as read from a journal.

    Attributes:
        batch: number of the last batch that is not read.
        ends: of the streams after it.
        held_ns: since when readings count.
        past_ns: end of the past, whose windows are in its sums; None without one.
        spared: as in `Past`.
    """

    batch: int = 0
    ends: Mapping[int, Sequence[int]] | None = None
    held_ns: int = 0
    past_ns: int | None = None
    spared: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, entries: Mapping[str, Mapping[int, Any]]) -> Restart:
        """Return what the entries of a journal say; the beginning of the file if they say nothing.

        Raises:
            KeyError, TypeError, ValueError: the entries are something else.
        """
        entry = entries.get(RESTART, {}).get(0)
        if entry is None:
            return cls()
        return cls(
            int(entry["batch"]),
            {int(stream): [int(end) for end in ends] for stream, ends in entry["ends"].items()},
            int(entry["held_ns"]),
            int(entries[CHAPTER][0]["end_ns"]),
            [[int(value) for value in window] for window in entry["spared"]],
        )

    def first_row(self, times_ns: Any, rows_before: int = ROWS_BEFORE) -> int:
        """Return the position of the first of ascending times that counts, shape (rows,)."""
        import numpy as np

        if self.past_ns is None:
            return 0
        return max(0, int(np.searchsorted(times_ns, self.held_ns, side="right")) - rows_before)
