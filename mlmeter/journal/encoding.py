"""Columns of numbers as compact blobs, and back.

A journal is a sequence of batches, each with parts of several streams. In a packed batch numbers
that grow are written as differences to the one before, and all numbers byte plane by byte plane, so that the
many bytes that hardly change are compressed away. The last batches, which will soon be
packed together, are plain: they cost next to nothing to write. Writing needs no NumPy.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

# How a column is packed: as differences to the row before, to the row's first column, as it is, or as the
# bits of floating-point numbers.
GROWING, BESIDE, PLAIN, FLOAT = "q", "b", "w", "d"
# Who packs a few bytes into a blob must not make a reader run out of memory: numbers in a batch.
MOST_NUMBERS = 4_000_000
_WIDTH = 8
_WRAP = 1 << 64
# What is left of noise hardly gets smaller with more work.
_LEVEL = 1
# The first byte of a batch that is not packed; zlib's streams begin otherwise.
_PLAIN = b"\0"


class Part(NamedTuple):
    """Rows that are added to a stream, after taking back the newest `back` ones.

    `columns` are of one length, in the order of the stream's codes.
    """

    stream: int
    codes: str
    back: int
    columns: Sequence[array[Any]]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.codes) * len(self.columns[0])


# The last number of each column, by stream: what the next differences are taken to.
Ends = dict[int, list[int]]


def plain(parts: Sequence[Part]) -> bytes:
    """Return a batch that is not packed.

    Args:
        parts: not more than one of each stream, together not more than `MOST_NUMBERS`.
    """
    numbers = chain([_heads(parts)], *(part.columns for part in parts))
    return b"".join((_PLAIN, *(numbers if sys.byteorder == "little" else map(_little, numbers))))


def packed(parts: Sequence[Part], ends: Mapping[int, Sequence[int]]) -> tuple[bytes, Ends]:
    """Return a packed batch, and the ends after it of the streams that it has parts of.

    Args:
        parts: not more than one of each stream, together not more than `MOST_NUMBERS`.
        ends: of every stream before the batch; absent for a new one.
    """
    numbers = _heads(parts)
    after: Ends = {}
    for part in parts:
        mine = list(ends.get(part.stream) or [0] * len(part.columns))
        for position, (code, column) in enumerate(zip(part.codes, part.columns, strict=True)):
            if code == GROWING and len(column):
                _extend(numbers, map(sub, column, chain((mine[position],), column)))
                mine[position] = column[-1]
            elif code == BESIDE:
                _extend(numbers, map(sub, part.columns[0], column))
            else:
                numbers.extend(_bits(column) if code == FLOAT else column)
        after[part.stream] = mine
    return zlib.compress(_planes(numbers), _LEVEL), after


def merged(batches: Iterable[Sequence[Part]]) -> list[Part]:
    """Return what the parts of several batches come to, one part of each stream."""
    found: dict[int, Part] = {}
    for part in chain.from_iterable(batches):
        before = found.get(part.stream)
        if before is None:
            found[part.stream] = part._replace(columns=[column[:] for column in part.columns])
            continue
        if part.back:
            found[part.stream] = before = _taken_back(before, part.back)
        for column, more in zip(before.columns, part.columns, strict=True):
            column.extend(more)
    return list(found.values())


def _taken_back(part: Part, back: int) -> Part:
    """Return a part without its newest rows; what is to be taken back beyond them is told in it."""
    taken = min(back, len(part.columns[0]))
    for column in part.columns:
        del column[len(column) - taken :]
    return part._replace(back=part.back + back - taken)


class Decoder:
    """Takes the batches of one journal apart, in order.

    Args:
        codes: of each stream, by its number.
        ends: of the streams before the first batch that is taken.
    """

    def __init__(self, codes: Mapping[int, str], ends: Mapping[int, Sequence[int]] | None = None) -> None:
        self._codes, self._ends = codes, ends or {}
        # By stream the rows in order of writing, and which of them were not taken back later.
        self._packed: dict[int, list[list[Numbers]]] = {s: [[] for _ in code] for s, code in codes.items()}
        self._plain: dict[int, list[list[Numbers]]] = {s: [[] for _ in code] for s, code in codes.items()}
        self._plain_began = False
        self._rows = dict.fromkeys(codes, 0)
        self._live: dict[int, list[tuple[int, int]]] = {stream: [] for stream in codes}

    def take(self, blob: bytes) -> int:
        """Take one batch and return how many numbers it has.

        Raises:
            ValueError: the blob is no batch.
        """
        is_plain = blob[:1] == _PLAIN
        if self._plain_began and not is_plain:
            raise ValueError("a packed batch after a plain one")
        self._plain_began = is_plain
        numbers = _plain_numbers(blob) if is_plain else _unpacked_numbers(blob)
        columns_of = self._plain if is_plain else self._packed
        parts = int(numbers[0])
        if not 0 <= 3 * parts < len(numbers):
            raise ValueError(f"{parts} parts in {len(numbers)} numbers")
        at = 1 + 3 * parts
        for stream, back, rows in numbers[1:at].reshape(parts, 3).tolist():
            columns = columns_of.get(stream)
            if columns is None or back < 0 or rows < 0:
                raise ValueError(f"a part of stream {stream}: {rows} rows, {back} taken back")
            if at + rows * len(columns) > len(numbers):
                raise ValueError(f"{rows} rows of stream {stream} are not there")
            self._take_back(stream, back)
            self._add(stream, rows)
            for column in columns:
                column.append(numbers[at : at + rows])
                at += rows
        if at != len(numbers):
            raise ValueError(f"{len(numbers) - at} numbers belong to nothing")
        return len(numbers)

    def columns(self, stream: int) -> list[NDArray[Any]]:
        """Return the columns of a stream, and forget them."""
        import numpy as np

        found: list[NDArray[Any]] = []
        packed_pieces, plain_pieces = self._packed.pop(stream), self._plain.pop(stream)
        for position, code in enumerate(self._codes[stream]):
            column = np.concatenate([np.zeros(0, dtype=np.int64), *packed_pieces[position]])
            packed_pieces[position] = []
            if code == GROWING:
                # Differences wrap as they did when they were written.
                np.cumsum(column, out=column)
                column += np.int64(self._ends.get(stream, [0] * (position + 1))[position])
            elif code == BESIDE:
                column = found[0][: len(column)] - column
            found.append(np.concatenate([column, *plain_pieces[position]]))
        live = self._live[stream]
        if live != [(0, len(found[0]))]:
            found = [np.concatenate([c[:0], *(c[start:end] for start, end in live)]) for c in found]
        codes = self._codes[stream]
        return [c.view(np.float64) if code == FLOAT else c for c, code in zip(found, codes, strict=True)]

    def _add(self, stream: int, rows: int) -> None:
        live, start = self._live[stream], self._rows[stream]
        self._rows[stream] = end = start + rows
        if live and live[-1][1] == start:
            live[-1] = live[-1][0], end
        else:
            live.append((start, end))

    def _take_back(self, stream: int, back: int) -> None:
        live = self._live[stream]
        # Where reading began in the middle, what is taken back may lie before that.
        while back and (live or not self._ends):
            if not live:
                raise ValueError(f"more rows of stream {stream} are taken back than there are")
            start, end = live.pop()
            if end - start > back:
                live.append((start, end - back))
            back -= min(back, end - start)


def _heads(parts: Sequence[Part]) -> array[int]:
    numbers = array("q", [len(parts)])
    for part in parts:
        numbers.extend((part.stream, part.back, len(part.columns[0])))
    return numbers


def _extend(numbers: array[int], differences: Iterable[int]) -> None:
    found = list(differences)
    try:
        numbers.fromlist(found)  # all of them or none
    except OverflowError:
        numbers.fromlist([(number + _WRAP // 2) % _WRAP - _WRAP // 2 for number in found])


def _bits(column: array[float]) -> array[int]:
    bits = array("q")
    bits.frombytes(array("d", column).tobytes())
    return bits


def _planes(numbers: array[int]) -> bytes:
    raw = bytes(_little(numbers))
    return b"".join(raw[plane::_WIDTH] for plane in range(_WIDTH))


def _little(numbers: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def _plain_numbers(blob: bytes) -> Numbers:
    import numpy as np

    if len(blob) <= 1 or (len(blob) - 1) % _WIDTH or len(blob) > MOST_NUMBERS * _WIDTH:
        raise ValueError(f"{len(blob)} bytes are no numbers")
    return np.frombuffer(blob, dtype="<i8", offset=1).astype(np.int64)


def _unpacked_numbers(blob: bytes) -> Numbers:
    import numpy as np

    inflater = zlib.decompressobj()
    try:
        planes = inflater.decompress(blob, MOST_NUMBERS * _WIDTH + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not inflater.eof or inflater.unused_data or len(planes) > MOST_NUMBERS * _WIDTH:
        raise ValueError("it is cut off, or longer than any that mlmeter writes")
    if not planes or len(planes) % _WIDTH:
        raise ValueError(f"{len(planes)} bytes are no numbers")
    shuffled = np.frombuffer(planes, dtype=np.uint8).reshape(_WIDTH, -1)
    return np.ascontiguousarray(shuffled.T).view("<i8").ravel().astype(np.int64, copy=False)
