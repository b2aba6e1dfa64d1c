"""The counters of a powercap tree: reading, closing, and whatever the files hold."""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from tests.backends import powercap_tree as trees
from tests.backends.powercap_tree import Zone, build_tree
from tests.backends.rapl_on_a_tree import ONE_PACKAGE, OpenBackend, deny, names_of, refusal_of, values_of


def _only(backend: RaplBackend) -> Reading | Failure:
    (item,) = backend.read()
    return item


def test_readings_carry_the_times_before_and_after(tmp_path: Path) -> None:
    """Each read call is between two time stamps, of which it shares one with the next call."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    ticks = itertools.count(1_000)
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo, now_ns=lambda: next(ticks))
    backend.open()
    start = next(ticks) + 1
    items = backend.read()
    assert items == [
        Reading(position, value, start + position, start + position + 1)
        for position, value in enumerate([21_000_000, 22_000_000, 23_000_000, 24_000_000])
    ]
    backend.close()


def test_a_changed_counter_is_seen_through_the_kept_descriptor(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """Reads open no file, and see the value of the moment."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, domains = open_backend(tree)
    opener = mocker.patch("mlmeter.backends.rapl.os.open")
    tree.energy_file("intel-rapl:0").write_bytes(b"6000000\n")
    assert values_of(backend, domains) == {"package-0": 6_000_000}
    opener.assert_not_called()


@pytest.mark.parametrize("text", [b"0000000005000000\n", b"5000000", b" 5000000 \n", b"5000000\n"])
def test_padded_numbers_are_numbers(tmp_path: Path, open_backend: OpenBackend, text: bytes) -> None:
    """Leading zeros, blanks and a missing line end (files of Scaphandre) do not matter."""
    backend, domains = open_backend(build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj=text)]))
    assert values_of(backend, domains) == {"package-0": 5_000_000}


@pytest.mark.parametrize("text", [b"", b"\n", b"soon\n", b"-5\n", b"50000", b"9" * 31 + b"\n", b"\xff\0\n"])
def test_content_that_is_no_whole_number_is_a_passing_failure(
    tmp_path: Path, open_backend: OpenBackend, text: bytes
) -> None:
    """Garbage, nothing and a number cut short (no line end any more) are failures, never values."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, _ = open_backend(tree)
    file = tree.energy_file("intel-rapl:0")
    file.write_bytes(text)
    for _ in range(3):
        failure = _only(backend)
        assert isinstance(failure, Failure)
        assert failure.lost is False
        assert str(tree.class_root) in failure.reason
    file.write_bytes(b"7000000\n")
    reading = _only(backend)
    assert isinstance(reading, Reading)
    assert reading.value == 7_000_000


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (errno.EIO, False),
        (errno.ENODATA, False),
        (errno.EAGAIN, False),
        (errno.ENODEV, True),
        (errno.ENOENT, True),
        (errno.ESTALE, True),
    ],
    ids=lambda value: errno.errorcode.get(value, str(value)),
)
def test_a_failed_read_says_whether_the_device_is_gone(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture, number: int, lost: bool
) -> None:
    """Errors of a read are passing, those that say that the device is gone are not."""
    backend, domains = open_backend(build_tree(tmp_path, ONE_PACKAGE))
    error = OSError(number, os.strerror(number))
    real_pread = os.pread
    mocker.patch("mlmeter.backends.rapl.os.pread", side_effect=error)
    failure = _only(backend)
    assert isinstance(failure, Failure)
    assert (failure.position, failure.lost) == (0, lost)
    assert os.strerror(number) in failure.reason
    mocker.patch("mlmeter.backends.rapl.os.pread", side_effect=real_pread)
    assert values_of(backend, domains) == {"package-0": 5_000_000}


def test_other_zones_are_read_when_one_fails(tmp_path: Path, open_backend: OpenBackend) -> None:
    """One counter with garbage does not keep the others from being read, in their places."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend, _ = open_backend(tree)
    tree.energy_file("intel-rapl:0:0").write_bytes(b"soon\n")
    items = backend.read()
    assert [type(item) for item in items] == [Reading, Failure, Reading, Reading]
    assert [item.position for item in items] == [0, 1, 2, 3]


def test_a_zone_that_is_removed_is_lost_until_it_comes_back(
    tmp_path: Path, open_backend: OpenBackend
) -> None:
    """After a failure the file is opened anew: gone means lost, back again means read."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, domains = open_backend(tree)
    file = tree.energy_file("intel-rapl:0")
    file.write_bytes(b"")
    first = _only(backend)
    file.unlink()
    second = _only(backend)
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert (first.lost, second.lost) == (False, True)
    file.write_bytes(b"8000000\n")
    assert values_of(backend, domains) == {"package-0": 8_000_000}


def test_a_permission_that_is_taken_away_is_a_passing_failure(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """After a reload of the module the files are closed again; udev may still open them."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, _ = open_backend(tree)
    tree.energy_file("intel-rapl:0").write_bytes(b"")
    backend.read()
    deny(mocker, tree, "intel-rapl:0")
    failure = _only(backend)
    assert isinstance(failure, Failure)
    assert failure.lost is False
    assert "Permission denied" in failure.reason


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    """A tree in which a counter is a pipe is unreadable, at once."""
    tree = build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj=None)])
    os.mkfifo(tree.energy_file("intel-rapl:0"))
    assert "Illegal seek" in refusal_of(RaplBackend(tree.class_root)).reason


def _open_descriptors(folder: Path) -> int:
    """Count what this process has open below a folder; other threads open and close files, too."""
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return sum(target.startswith(f"{folder.resolve()}/") for target in links)


def test_close_twice_leaves_nothing_open_and_nothing_to_read(tmp_path: Path) -> None:
    """Closing is idempotent, frees every descriptor, and a later read is empty."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
    backend.open()
    assert _open_descriptors(tmp_path) == 4
    backend.close()
    backend.close()
    assert backend.read() == []
    assert _open_descriptors(tmp_path) == 0


def test_failures_leak_no_descriptors(tmp_path: Path, open_backend: OpenBackend) -> None:
    """However often a counter fails and comes back, it has one descriptor at most."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, _ = open_backend(tree)
    for text in (b"", b"1\n") * 20:
        tree.energy_file("intel-rapl:0").write_bytes(text)
        backend.read()
        backend.read()
    assert _open_descriptors(tmp_path) == 1


def test_a_read_under_way_survives_close(tmp_path: Path, mocker: MockerFixture) -> None:
    """A thread that is in `read` when another one closes the backend gets its readings."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
    backend.open()
    real_pread = os.pread

    def closing_pread(descriptor: int, length: int, offset: int) -> bytes:
        backend.close()
        return real_pread(descriptor, length, offset)

    mocker.patch("mlmeter.backends.rapl.os.pread", side_effect=closing_pread)
    items = backend.read()
    assert [type(item) for item in items] == [Reading] * 4


def test_it_can_be_opened_again(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A second `open` finds what is there then."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend, _ = open_backend(tree)
    tree.energy_file("intel-rapl:1").unlink()
    assert names_of(backend.open()) == ["package-0", "dram-0", "dram-1"]
    assert len(backend.unreadable) == 1


def test_reading_before_open_gives_nothing(tmp_path: Path) -> None:
    """There is nothing to read before `open`."""
    assert RaplBackend(tmp_path).read() == []


_NAMES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"package-0\n", b"package-0-die-1\n", b"core\n", b"dram\n", b"psys\n", b"package-\n"]),
)


_NUMBERS = st.one_of(st.binary(max_size=60), st.integers().map(lambda number: b"%d\n" % number))


_FILES = st.lists(st.tuples(_NAMES, _NUMBERS, _NUMBERS, _NUMBERS), min_size=1, max_size=5)


# A die that repeats another and has itself a folder that calls itself a die.
_MIRROR_IN_A_MIRROR = [(b"package-0-die-1", b"0", b"", b"")] * 2 + [
    (b"", b"", b"", b""),
    (b"package-0", b"0", b"", b""),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(files=_MIRROR_IN_A_MIRROR, later=b"", is_amd=True)
@given(files=_FILES, later=_NUMBERS, is_amd=st.booleans())
def test_whatever_the_files_hold_nothing_but_unavailable_is_raised(
    files: list[tuple[bytes, bytes, bytes, bytes]], later: bytes, is_amd: bool
) -> None:
    """Arbitrary bytes in every file give domains with distinct names or one error; reads never raise."""
    with tempfile.TemporaryDirectory() as name:
        zones = [
            Zone(
                ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0", "intel-rapl:2")[i],
                *file,
            )
            for i, file in enumerate(files)
        ]
        tree = build_tree(Path(name), zones, cpuinfo=trees.AMD_CPUINFO if is_amd else trees.INTEL_CPUINFO)
        backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
        try:
            domains = backend.open()
        except BackendUnavailableError:
            return
        first = backend.read()
        assert all(isinstance(item, Reading) and 0 <= item.value < 2**63 for item in first)
        for zone in zones:
            tree.energy_file(zone.label).write_bytes(later)
        for items in (first, backend.read(), backend.read()):
            assert [item.position for item in items] == list(range(len(domains)))
        assert len({domain.name for domain in domains}) == len(domains)
        backend.close()
