"""Batches of numbers: what is written is read, whatever the numbers; nonsense is told."""

from __future__ import annotations

import zlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.journal.encoding import MOST_NUMBERS, Decoder, Ends, Part, merged, packed, plain

CODES = {0: "qbq", 1: "wd", 2: "q"}
LONGS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**6)
FLOATS = st.floats(allow_nan=False, min_value=0)


@st.composite
def parts(draw: st.DrawFn) -> list[list[Part]]:
    """Batches whose parts take back no more rows than there are."""
    rows = dict.fromkeys(CODES, 0)
    batches = []
    for _ in range(draw(st.integers(1, 6))):
        batch = []
        for stream in draw(st.lists(st.sampled_from(list(CODES)), unique=True, max_size=3)):
            size = draw(st.integers(0, 5))
            back = draw(st.integers(0, rows[stream]))
            rows[stream] += size - back
            columns = [
                array(
                    "d" if code == "d" else "q", [draw(FLOATS if code == "d" else LONGS) for _ in range(size)]
                )
                for code in CODES[stream]
            ]
            batch.append(Part(stream, CODES[stream], back, columns))
        batches.append(batch)
    return batches


def expected(batches: list[list[Part]]) -> dict[int, list[list[float]]]:
    found: dict[int, list[list[float]]] = {stream: [[] for _ in codes] for stream, codes in CODES.items()}
    for part in (part for batch in batches for part in batch):
        for column, new in zip(found[part.stream], part.columns, strict=True):
            del column[len(column) - part.back :]
            column.extend(new)
    return found


def decoded(blobs: list[bytes]) -> dict[int, list[list[float]]]:
    decoder = Decoder(CODES)
    for blob in blobs:
        decoder.take(blob)
    return {stream: [column.tolist() for column in decoder.columns(stream)] for stream in CODES}


@settings(deadline=None)
@given(parts())
def test_what_is_written_is_read(batches: list[list[Part]]) -> None:
    """Row for row, with what was taken back gone."""
    ends: Ends = {}
    blobs = []
    for batch in batches:
        blob, after = packed(batch, ends)
        ends |= after
        blobs.append(blob)
    assert decoded(blobs) == expected(batches)


@settings(deadline=None)
@given(parts(), st.integers(0, 5))
def test_packing_batches_changes_nothing(batches: list[list[Part]], first: int) -> None:
    """Some that have been packed together, and then plain ones, are read as if all had stayed."""
    blob, _ = packed(merged(batches[:first]), {})
    blobs = [blob, *map(plain, batches[first:])]
    assert decoded(blobs) == expected(batches)


@settings(deadline=None)
@given(parts(), st.integers(0, 5))
def test_reading_can_begin_between_batches(batches: list[list[Part]], first: int) -> None:
    """With the last numbers of the streams there, as long as nothing of before is taken back."""
    kept = [[part._replace(back=0) for part in batch] for batch in batches]
    ends: Ends = {}
    for batch in kept[:first]:
        ends |= packed(batch, ends)[1]
    blobs = []
    at: Ends = dict(ends)
    for batch in kept[first:]:
        blob, after = packed(batch, at)
        at |= after
        blobs.append(blob)
    decoder = Decoder(CODES, ends)
    for blob in blobs:
        decoder.take(blob)
    found = {stream: [column.tolist() for column in decoder.columns(stream)] for stream in CODES}
    assert found == expected(kept[first:])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_batch_are_told(blob: bytes) -> None:
    """By ValueError, compressed or not."""
    for item in (blob, zlib.compress(blob)):
        try:
            decoded([item])
        except ValueError:
            continue
        assert len(blob) % 8 == 0


def test_blob_that_unpacks_without_end_is_refused() -> None:
    """A few kilobytes must not fill the memory."""
    with pytest.raises(ValueError, match="longer"):
        decoded([zlib.compress(bytes(8 * MOST_NUMBERS + 8))])


def test_steady_readings_take_few_bytes() -> None:
    """A minute of twenty counters at 10 Hz takes less than 7 bytes a row."""
    import random

    rng = random.Random(3)
    batch = []
    for stream in range(20):
        before, total, columns = 10**15, 10**12, [array("q") for _ in "qwq"]
        for _ in range(600):
            before += 100_000_000 + rng.randrange(200_000)
            total += 61 * rng.randrange(160_000, 170_000)
            for column, value in zip(
                columns, (before, before - 1_201_000 - rng.randrange(500), total), strict=True
            ):
                column.append(value)
        batch.append(Part(stream, "qbq", 0, columns))
    blob, _ = packed(batch, {})
    assert len(blob) < 7 * 20 * 600
