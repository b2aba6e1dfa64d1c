"""The RAPL backend on copies of real powercap trees, and on trees that are damaged in every way."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from mlmeter.backends.base import Backend
from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from tests.backends import powercap_tree as trees
from tests.backends.powercap_tree import PowercapTree, Zone, build_tree

ONE_PACKAGE = (Zone("intel-rapl:0", "package-0", 5_000_000),)
LAYOUTS = ("class_root", "device_root", "control_root")

OpenBackend = Callable[..., tuple[RaplBackend, list[Domain]]]


@pytest.fixture
def open_backend(tmp_path: Path) -> Iterator[OpenBackend]:
    """Open a backend on a tree and close it after the test."""
    opened: list[RaplBackend] = []

    def open_tree(tree: PowercapTree, layout: str = "class_root") -> tuple[RaplBackend, list[Domain]]:
        backend = RaplBackend(getattr(tree, layout), cpuinfo=tree.cpuinfo)
        opened.append(backend)
        return backend, list(backend.open())

    yield open_tree
    for backend in opened:
        backend.close()


def _names(domains: Sequence[Domain]) -> list[str]:
    return [domain.name for domain in domains]


def _values(backend: RaplBackend, domains: Sequence[Domain]) -> dict[str, int]:
    items = backend.read()
    assert all(isinstance(item, Reading) for item in items)
    return {domains[item.position].name: item.value for item in items if isinstance(item, Reading)}


def _refusal(backend: RaplBackend) -> BackendUnavailableError:
    with pytest.raises(BackendUnavailableError) as caught:
        backend.open()
    assert caught.value.backend == "rapl"
    assert caught.value.reason
    assert caught.value.remedy
    return caught.value


def _only(backend: RaplBackend) -> Reading | Failure:
    (item,) = backend.read()
    return item


def _deny(mocker: MockerFixture, tree: PowercapTree, *labels: str) -> None:
    """Refuse to open the counters of these zones, as the kernel does for users (root ignores modes)."""
    real_open = os.open
    denied = {os.path.realpath(tree.energy_file(label)) for label in labels}

    def guarded(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if os.path.realpath(path) in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real_open(path, flags, mode, **options)

    mocker.patch("mlmeter.backends.rapl.os.open", side_effect=guarded)


# --- layouts ----------------------------------------------------------------------------------


def test_it_is_a_backend(tmp_path: Path) -> None:
    """The class satisfies the protocol that the registry checks."""
    assert isinstance(RaplBackend(tmp_path), Backend)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        (
            trees.CLIENT,
            {"package-0": 11, "core-0": 12, "uncore-0": 13, "dram-0": 14, "psys": 15},
        ),
        (
            trees.SERVER_TWO_SOCKETS,
            {"package-0": 21, "dram-0": 22, "package-1": 23, "dram-1": 24},
        ),
        (
            trees.AMD_TWO_SOCKETS,
            {"package-0": 31, "core-0": 32, "package-1": 33, "core-1": 34},
        ),
        (
            trees.MULTI_DIE_REAL,
            {
                "package-0-die-0": 61,
                "dram-0-die-0": 62,
                "package-0-die-1": 9_063,
                "dram-0-die-1": 64,
            },
        ),
        (trees.REVERSED_ORDER, {"package-0": 73, "dram-0": 74, "package-1": 71, "dram-1": 72}),
        (trees.SPARSE_PACKAGES, {"package-0": 81, "package-3": 82}),
        (
            trees.PSYS_IN_THE_MIDDLE,
            {"package-0": 101, "dram-0": 102, "package-1": 104, "dram-1": 105, "psys": 103},
        ),
    ],
    ids=["client", "server", "amd", "dies", "reversed", "sparse", "psys"],
)
def test_each_zone_is_one_domain_with_its_own_counter(
    tmp_path: Path,
    open_backend: OpenBackend,
    layout: str,
    zones: Sequence[Zone],
    expected: dict[str, int],
) -> None:
    """Whatever the index and the layout, a domain is named by its package and reads its zone, once."""
    backend, domains = open_backend(build_tree(tmp_path, zones), layout)
    assert _names(domains) == list(expected)
    assert _values(backend, domains) == {name: joules * 1_000_000 for name, joules in expected.items()}
    assert backend.unreadable == ()
    assert backend.notes == ()


def test_more_than_ten_packages_stand_in_the_order_of_their_numbers(
    tmp_path: Path, open_backend: OpenBackend
) -> None:
    """Package 10 comes after package 9, not after package 1."""
    backend, domains = open_backend(build_tree(tmp_path, trees.TEN_SOCKETS))
    assert _names(domains) == [f"package-{number}" for number in range(11)]
    assert list(_values(backend, domains).values()) == [91_000_000 + number for number in range(11)]


def test_kinds_and_what_is_counted(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Package and DRAM are counted; core and uncore are inside the package, psys contains it."""
    _, domains = open_backend(build_tree(tmp_path, trees.CLIENT))
    assert {domain.name: (domain.kind, domain.parent, domain.counted) for domain in domains} == {
        "package-0": ("cpu", None, True),
        "core-0": ("cpu", "package-0", False),
        "uncore-0": ("cpu", "package-0", False),
        "dram-0": ("dram", None, True),
        "psys": ("psys", None, False),
    }


def test_properties_of_a_package(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A package is a measured microjoule counter of 1 ms, with wrap, limit and model as the files say."""
    _, domains = open_backend(build_tree(tmp_path, trees.CLIENT))
    assert domains[0] == Domain(
        name="package-0",
        id="rapl:package-0",
        kind="cpu",
        source="rapl",
        provenance=Provenance.MEASURED,
        update_period_seconds=0.001,
        joules_per_count=1e-6,
        modulus=262143328911,
        cheap_read=True,
        model_name="Intel(R) Core(TM) i7-8550U CPU",
        max_power_watts=30.0,
    )


@pytest.mark.parametrize(
    ("range_uj", "expected"),
    [
        (262143328850, 262143328911),
        (65532610987, 65532611002),
        (65712999613, 65712999628),
        (4294967295000000, 4294967296000000),
        (60_000_000, 60_000_000),
    ],
)
def test_the_modulus_is_one_unit_more_than_the_range(
    tmp_path: Path, open_backend: OpenBackend, range_uj: int, expected: int
) -> None:
    """The file holds 2**32 - 1 units, the counter has 2**32 values."""
    _, (domain,) = open_backend(build_tree(tmp_path, [replace(ONE_PACKAGE[0], range_uj=range_uj)]))
    assert domain.modulus == expected


@pytest.mark.parametrize("range_uj", [None, "", "many", "0", "-5", "12", "9" * 40])
def test_without_a_usable_range_a_fall_is_a_reset_and_this_is_said(
    tmp_path: Path, open_backend: OpenBackend, range_uj: str | None
) -> None:
    """A missing or senseless range gives no modulus, and a note."""
    backend, (domain,) = open_backend(build_tree(tmp_path, [replace(ONE_PACKAGE[0], range_uj=range_uj)]))
    assert domain.modulus is None
    (note,) = backend.notes
    assert "package-0" in note
    assert "wrap" in note


@pytest.mark.parametrize("limit_uw", [None, "", "0", "-1", "none"])
def test_without_a_power_limit_the_highest_power_is_unknown(
    tmp_path: Path, open_backend: OpenBackend, limit_uw: str | None
) -> None:
    """No limit, a limit of 0 (DRAM) and garbage all mean unknown, never 0 W."""
    _, (domain,) = open_backend(build_tree(tmp_path, [replace(ONE_PACKAGE[0], limit_uw=limit_uw)]))
    assert domain.max_power_watts is None


def test_without_cpuinfo_the_model_is_unknown(tmp_path: Path, open_backend: OpenBackend) -> None:
    """The model name is a detail: its absence stops nothing."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    tree.cpuinfo.unlink()
    _, (domain,) = open_backend(tree)
    assert domain.model_name is None


# --- zones that show the same counter ---------------------------------------------------------


@pytest.mark.parametrize("layout", ["class_root", "device_root"])
def test_the_mmio_twin_of_a_zone_is_dropped(tmp_path: Path, open_backend: OpenBackend, layout: str) -> None:
    """Of two zones with one name that of the MSR interface is read, whatever their indices."""
    backend, domains = open_backend(build_tree(tmp_path, trees.MMIO_DUPLICATE), layout)
    assert _names(domains) == ["package-0", "core-0", "uncore-0", "dram-0", "psys"]
    assert _values(backend, domains)["package-0"] == 11_000_000


def test_mmio_zones_without_a_twin_are_read(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Where only the mmio interface exists, it is the source."""
    backend, domains = open_backend(build_tree(tmp_path, trees.MMIO_ALONE))
    assert _values(backend, domains) == {"package-0": 41_000_000, "dram-0": 42_000_000}


def test_a_readable_twin_replaces_an_unreadable_zone(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """A package that can be read one way is metered and not listed as unreadable."""
    tree = build_tree(tmp_path, [*ONE_PACKAGE, Zone("intel-rapl-mmio:0", "package-0", 5_000_100)])
    _deny(mocker, tree, "intel-rapl:0")
    backend, domains = open_backend(tree)
    assert _values(backend, domains) == {"package-0": 5_000_100}
    assert backend.unreadable == ()


def test_mirrored_dies_of_amd_are_read_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Two AMD dies with one counter are one domain: energy is not doubled, and this is said."""
    tree = build_tree(tmp_path, trees.MULTI_DIE_MIRRORED, cpuinfo=trees.AMD_CPUINFO)
    backend, domains = open_backend(tree)
    assert _names(domains) == ["package-0-die-0", "core-0-die-0"]
    (note,) = backend.notes
    assert "package-0-die-1 shows the counter of package-0-die-0" in note


def test_four_mirrored_dies_are_read_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Dies are compared with the one that is kept, however many there are."""
    zones = [Zone(f"intel-rapl:{die}", f"package-0-die-{die}", 7_000_000 + die) for die in range(4)]
    _, domains = open_backend(build_tree(tmp_path, zones, cpuinfo=trees.AMD_CPUINFO))
    assert _names(domains) == ["package-0-die-0"]


def test_dies_with_counters_of_their_own_are_kept(tmp_path: Path, open_backend: OpenBackend) -> None:
    """AMD dies whose counters differ are different dies."""
    _, domains = open_backend(build_tree(tmp_path, trees.MULTI_DIE_REAL, cpuinfo=trees.AMD_CPUINFO))
    assert "package-0-die-1" in _names(domains)


def test_dies_of_intel_are_kept_even_if_their_counters_are_equal(
    tmp_path: Path, open_backend: OpenBackend
) -> None:
    """Intel's dies have true counters (Cascade Lake-AP), so equality is chance."""
    _, domains = open_backend(build_tree(tmp_path, trees.MULTI_DIE_MIRRORED, cpuinfo=trees.INTEL_CPUINFO))
    assert _names(domains)[::2] == ["package-0-die-0", "package-0-die-1"]


def test_sockets_with_equal_counters_are_no_mirrors(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Only dies of one package can mirror each other."""
    zones = [replace(zone, energy_uj=7_000_000) for zone in trees.AMD_TWO_SOCKETS]
    _, domains = open_backend(build_tree(tmp_path, zones, cpuinfo=trees.AMD_CPUINFO))
    assert _names(domains) == ["package-0", "core-0", "package-1", "core-1"]


def test_counters_at_zero_are_opened(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A count of 0 is a count; whether a counter moves is judged by the look, which is left out here."""
    backend, domains = open_backend(build_tree(tmp_path, trees.ALL_ZERO))
    assert set(_values(backend, domains).values()) == {0}
    assert len(domains) == 4


def test_repeated_names_are_told_apart(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Names and ids differ even on a tree with two zones of one name."""
    zones = [Zone(f"intel-rapl:{index}", "psys", 1_000_000 + index) for index in range(3)]
    backend, domains = open_backend(build_tree(tmp_path, zones))
    assert _values(backend, domains) == {"psys": 1_000_000, "psys-2": 1_000_001, "psys-3": 1_000_002}
    assert len({domain.id for domain in domains}) == 3


def test_a_core_of_an_unknown_package_is_never_counted(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Core energy is part of some package's even if the tree does not say whose."""
    _, (domain,) = open_backend(build_tree(tmp_path, [Zone("intel-rapl:0", "core")]))
    assert not domain.counted


def test_zones_with_unknown_names_are_left_out_and_named(tmp_path: Path, open_backend: OpenBackend) -> None:
    """What a zone of an unknown name counts is not known, so it is not metered."""
    zones = [*ONE_PACKAGE, Zone("intel-rapl:1", "accelerator"), Zone("intel-rapl:2", "package-0-die")]
    backend, domains = open_backend(build_tree(tmp_path, zones))
    assert _names(domains) == ["package-0"]
    assert ["'accelerator'" in backend.notes[0], "'package-0-die'" in backend.notes[1]] == [True, True]


# --- where the tree is -------------------------------------------------------------------------


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container MLMETER_POWERCAP_ROOT says where the host's folder is mounted."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    monkeypatch.setenv("MLMETER_POWERCAP_ROOT", str(tree.class_root))
    backend = RaplBackend(cpuinfo=tree.cpuinfo)
    assert _names(backend.open()) == ["package-0"]
    backend.close()


def test_an_argument_precedes_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder given in code is the one that is read."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    monkeypatch.setenv("MLMETER_POWERCAP_ROOT", str(tmp_path / "elsewhere"))
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
    assert _names(backend.open()) == ["package-0"]
    backend.close()


def test_links_that_lead_in_circles_are_followed_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A tree with a loop is read like one without."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    (tree.folder("intel-rapl:0") / "intel-rapl-loop").symlink_to(tree.class_root)
    _, domains = open_backend(tree)
    assert _names(domains) == ["package-0"]


# --- nothing to read ---------------------------------------------------------------------------


def test_no_powercap_folder(tmp_path: Path) -> None:
    """Without the folder the error says so and what can be done."""
    error = _refusal(RaplBackend(tmp_path / "powercap"))
    assert "there is no folder" in error.reason
    assert "virtual machine" in error.reason
    assert "modprobe intel_rapl_msr" in error.remedy


def test_not_linux(tmp_path: Path, mocker: MockerFixture) -> None:
    """On another system the error names the system, and no Linux command."""
    mocker.patch("mlmeter.backends.rapl.sys.platform", "darwin")
    error = _refusal(RaplBackend(tmp_path / "powercap"))
    assert "darwin" in error.reason
    assert "modprobe" not in error.remedy


def test_a_folder_without_zones(tmp_path: Path) -> None:
    """An empty folder is another case than a missing one."""
    error = _refusal(RaplBackend(tmp_path))
    assert "lists no RAPL zone" in error.reason


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    """A wrong root is reported as what it is."""
    file = tmp_path / "file"
    file.write_text("")
    assert "Not a directory" in _refusal(RaplBackend(file)).reason


@pytest.mark.parametrize("root", ["", "\0", "a\0b"])
def test_a_root_that_is_no_path(root: str) -> None:
    """A root that no file system accepts is unavailable, not a crash."""
    _refusal(RaplBackend(root))


def test_masked_links(tmp_path: Path) -> None:
    """In a container whose runtime hides the devices the error says so, not "no RAPL"."""
    tree = build_tree(tmp_path, trees.CLIENT)
    tree.mask()
    error = _refusal(RaplBackend(tree.class_root))
    assert "hidden" in error.reason
    assert "MLMETER_POWERCAP_ROOT" in error.remedy


def test_zones_without_counters(tmp_path: Path) -> None:
    """Zones of which only `energy_uj` is hidden are a masked tree, too."""
    tree = build_tree(tmp_path, [replace(zone, energy_uj=None) for zone in trees.CLIENT])
    assert "hidden" in _refusal(RaplBackend(tree.class_root)).reason


def test_only_unknown_names(tmp_path: Path) -> None:
    """Zones of which none is known give an error about names."""
    tree = build_tree(tmp_path, [Zone("intel-rapl:0", "accelerator")])
    assert "is called" in _refusal(RaplBackend(tree.class_root)).reason


def test_garbage_in_every_counter(tmp_path: Path) -> None:
    """Counters without a number are unreadable, and the error shows what they hold."""
    tree = build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj="soon")])
    assert "soon" in _refusal(RaplBackend(tree.class_root)).reason


def test_permission_denied(tmp_path: Path, mocker: MockerFixture) -> None:
    """Where only root may read, the error names the rule, the page and the estimate."""
    tree = build_tree(tmp_path, trees.UNREADABLE)
    _deny(mocker, tree, *(zone.label for zone in trees.UNREADABLE))
    error = _refusal(RaplBackend(tree.class_root))
    assert "energy_uj of intel-rapl:0 (package-0): Permission denied" in error.reason
    assert "4 zones" in error.reason
    assert "udev rule" in error.remedy
    assert "how-to/read-rapl-without-root" in error.remedy
    assert 'backends=["cpu_estimate"]' in error.remedy


def test_what_can_be_read_is_read_and_the_rest_is_listed(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """With access to DRAM only, DRAM is metered and each package is listed with a remedy."""
    tree = build_tree(tmp_path, trees.DRAM_ONLY_READABLE)
    _deny(mocker, tree, "intel-rapl:0", "intel-rapl:1")
    backend, domains = open_backend(tree)
    assert _values(backend, domains) == {"dram-0": 22_000_000, "dram-1": 24_000_000}
    assert [(entry.source, entry.kinds) for entry in backend.unreadable] == [("rapl", ("cpu",))] * 2
    assert "package-1" in backend.unreadable[1].reason
    assert "udev rule" in backend.unreadable[1].remedy


_AS_NOBODY = """
import os, sys
from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
if os.geteuid() == 0:
    os.setgroups([])
    os.setuid(65534)
backend = RaplBackend(sys.argv[1])
backend.look_seconds = 0.0
try:
    print(*(domain.name for domain in backend.open()))
    print(*(entry.reason for entry in backend.unreadable))
except BackendUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("zones", "expected"),
    [(trees.DRAM_ONLY_READABLE, "dram-0 dram-1\n"), (trees.UNREADABLE, "rapl: cannot read energy_uj of")],
    ids=["dram", "nothing"],
)
def test_modes_are_obeyed_for_an_ordinary_user(zones: Sequence[Zone], expected: str) -> None:
    """A process without root's rights, before files of mode 0400, gets exactly the readable zones."""
    # pytest's own folders are closed to others; files of root with mode 0400 are what users meet.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        tree = build_tree(Path(name), zones)
        if os.geteuid() != 0:
            # The owner may read its 0400; nobody may read 0.
            for zone in zones:
                tree.energy_file(zone.label).chmod(0 if zone.mode == 0o400 else zone.mode)
        result = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(tree.class_root)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    assert result.stdout.startswith(expected)
    assert "Permission denied" in result.stdout


# --- reading -----------------------------------------------------------------------------------


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
    assert _values(backend, domains) == {"package-0": 6_000_000}
    opener.assert_not_called()


@pytest.mark.parametrize("text", [b"0000000005000000\n", b"5000000", b" 5000000 \n", b"5000000\n"])
def test_padded_numbers_are_numbers(tmp_path: Path, open_backend: OpenBackend, text: bytes) -> None:
    """Leading zeros, blanks and a missing line end (files of Scaphandre) do not matter."""
    backend, domains = open_backend(build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj=text)]))
    assert _values(backend, domains) == {"package-0": 5_000_000}


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
    assert _values(backend, domains) == {"package-0": 5_000_000}


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
    assert _values(backend, domains) == {"package-0": 8_000_000}


def test_a_permission_that_is_taken_away_is_a_passing_failure(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """After a reload of the module the files are closed again; udev may still open them."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    backend, _ = open_backend(tree)
    tree.energy_file("intel-rapl:0").write_bytes(b"")
    backend.read()
    _deny(mocker, tree, "intel-rapl:0")
    failure = _only(backend)
    assert isinstance(failure, Failure)
    assert failure.lost is False
    assert "Permission denied" in failure.reason


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    """A tree in which a counter is a pipe is unreadable, at once."""
    tree = build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj=None)])
    os.mkfifo(tree.energy_file("intel-rapl:0"))
    assert "Illegal seek" in _refusal(RaplBackend(tree.class_root)).reason


# --- closing -----------------------------------------------------------------------------------


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
    assert _names(backend.open()) == ["package-0", "dram-0", "dram-1"]
    assert len(backend.unreadable) == 1


def test_reading_before_open_gives_nothing(tmp_path: Path) -> None:
    """There is nothing to read before `open`."""
    assert RaplBackend(tmp_path).read() == []


# --- whatever the files hold ------------------------------------------------------------------

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
