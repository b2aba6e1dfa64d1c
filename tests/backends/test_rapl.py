"""The RAPL backend on copies of real powercap trees, and on trees that are damaged in every way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from mlmeter.backends.base import Backend
from mlmeter.backends.rapl import RaplBackend
from mlmeter.measurement import Domain, Provenance
from tests.backends import powercap_tree as trees
from tests.backends.powercap_tree import Zone, build_tree
from tests.backends.rapl_on_a_tree import ONE_PACKAGE, OpenBackend, deny, names_of, refusal_of, values_of

LAYOUTS = ("class_root", "device_root", "control_root")


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
    assert names_of(domains) == list(expected)
    assert values_of(backend, domains) == {name: joules * 1_000_000 for name, joules in expected.items()}
    assert backend.unreadable == ()
    assert backend.notes == ()


def test_more_than_ten_packages_stand_in_the_order_of_their_numbers(
    tmp_path: Path, open_backend: OpenBackend
) -> None:
    """Package 10 comes after package 9, not after package 1."""
    backend, domains = open_backend(build_tree(tmp_path, trees.TEN_SOCKETS))
    assert names_of(domains) == [f"package-{number}" for number in range(11)]
    assert list(values_of(backend, domains).values()) == [91_000_000 + number for number in range(11)]


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
    assert names_of(domains) == ["package-0", "core-0", "uncore-0", "dram-0", "psys"]
    assert values_of(backend, domains)["package-0"] == 11_000_000


def test_mmio_zones_without_a_twin_are_read(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Where only the mmio interface exists, it is the source."""
    backend, domains = open_backend(build_tree(tmp_path, trees.MMIO_ALONE))
    assert values_of(backend, domains) == {"package-0": 41_000_000, "dram-0": 42_000_000}


def test_a_readable_twin_replaces_an_unreadable_zone(
    tmp_path: Path, open_backend: OpenBackend, mocker: MockerFixture
) -> None:
    """A package that can be read one way is metered and not listed as unreadable."""
    tree = build_tree(tmp_path, [*ONE_PACKAGE, Zone("intel-rapl-mmio:0", "package-0", 5_000_100)])
    deny(mocker, tree, "intel-rapl:0")
    backend, domains = open_backend(tree)
    assert values_of(backend, domains) == {"package-0": 5_000_100}
    assert backend.unreadable == ()


def test_mirrored_dies_of_amd_are_read_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Two AMD dies with one counter are one domain: energy is not doubled, and this is said."""
    tree = build_tree(tmp_path, trees.MULTI_DIE_MIRRORED, cpuinfo=trees.AMD_CPUINFO)
    backend, domains = open_backend(tree)
    assert names_of(domains) == ["package-0-die-0", "core-0-die-0"]
    (note,) = backend.notes
    assert "package-0-die-1 shows the counter of package-0-die-0" in note


def test_four_mirrored_dies_are_read_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Dies are compared with the one that is kept, however many there are."""
    zones = [Zone(f"intel-rapl:{die}", f"package-0-die-{die}", 7_000_000 + die) for die in range(4)]
    _, domains = open_backend(build_tree(tmp_path, zones, cpuinfo=trees.AMD_CPUINFO))
    assert names_of(domains) == ["package-0-die-0"]


def test_dies_with_counters_of_their_own_are_kept(tmp_path: Path, open_backend: OpenBackend) -> None:
    """AMD dies whose counters differ are different dies."""
    _, domains = open_backend(build_tree(tmp_path, trees.MULTI_DIE_REAL, cpuinfo=trees.AMD_CPUINFO))
    assert "package-0-die-1" in names_of(domains)


def test_dies_of_intel_are_kept_even_if_their_counters_are_equal(
    tmp_path: Path, open_backend: OpenBackend
) -> None:
    """Intel's dies have true counters (Cascade Lake-AP), so equality is chance."""
    _, domains = open_backend(build_tree(tmp_path, trees.MULTI_DIE_MIRRORED, cpuinfo=trees.INTEL_CPUINFO))
    assert names_of(domains)[::2] == ["package-0-die-0", "package-0-die-1"]


def test_sockets_with_equal_counters_are_no_mirrors(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Only dies of one package can mirror each other."""
    zones = [replace(zone, energy_uj=7_000_000) for zone in trees.AMD_TWO_SOCKETS]
    _, domains = open_backend(build_tree(tmp_path, zones, cpuinfo=trees.AMD_CPUINFO))
    assert names_of(domains) == ["package-0", "core-0", "package-1", "core-1"]


def test_counters_at_zero_are_opened(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A count of 0 is a count; whether a counter moves is judged by the look, which is left out here."""
    backend, domains = open_backend(build_tree(tmp_path, trees.ALL_ZERO))
    assert set(values_of(backend, domains).values()) == {0}
    assert len(domains) == 4


def test_repeated_names_are_told_apart(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Names and ids differ even on a tree with two zones of one name."""
    zones = [Zone(f"intel-rapl:{index}", "psys", 1_000_000 + index) for index in range(3)]
    backend, domains = open_backend(build_tree(tmp_path, zones))
    assert values_of(backend, domains) == {"psys": 1_000_000, "psys-2": 1_000_001, "psys-3": 1_000_002}
    assert len({domain.id for domain in domains}) == 3


def test_a_core_of_an_unknown_package_is_never_counted(tmp_path: Path, open_backend: OpenBackend) -> None:
    """Core energy is part of some package's even if the tree does not say whose."""
    _, (domain,) = open_backend(build_tree(tmp_path, [Zone("intel-rapl:0", "core")]))
    assert not domain.counted


def test_zones_with_unknown_names_are_left_out_and_named(tmp_path: Path, open_backend: OpenBackend) -> None:
    """What a zone of an unknown name counts is not known, so it is not metered."""
    zones = [*ONE_PACKAGE, Zone("intel-rapl:1", "accelerator"), Zone("intel-rapl:2", "package-0-die")]
    backend, domains = open_backend(build_tree(tmp_path, zones))
    assert names_of(domains) == ["package-0"]
    assert ["'accelerator'" in backend.notes[0], "'package-0-die'" in backend.notes[1]] == [True, True]


# --- where the tree is -------------------------------------------------------------------------


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container MLMETER_POWERCAP_ROOT says where the host's folder is mounted."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    monkeypatch.setenv("MLMETER_POWERCAP_ROOT", str(tree.class_root))
    backend = RaplBackend(cpuinfo=tree.cpuinfo)
    assert names_of(backend.open()) == ["package-0"]
    backend.close()


def test_an_argument_precedes_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder given in code is the one that is read."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    monkeypatch.setenv("MLMETER_POWERCAP_ROOT", str(tmp_path / "elsewhere"))
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
    assert names_of(backend.open()) == ["package-0"]
    backend.close()


def test_links_that_lead_in_circles_are_followed_once(tmp_path: Path, open_backend: OpenBackend) -> None:
    """A tree with a loop is read like one without."""
    tree = build_tree(tmp_path, ONE_PACKAGE)
    (tree.folder("intel-rapl:0") / "intel-rapl-loop").symlink_to(tree.class_root)
    _, domains = open_backend(tree)
    assert names_of(domains) == ["package-0"]


# --- nothing to read ---------------------------------------------------------------------------


def test_no_powercap_folder(tmp_path: Path) -> None:
    """Without the folder the error says so and what can be done."""
    error = refusal_of(RaplBackend(tmp_path / "powercap"))
    assert "there is no folder" in error.reason
    assert "virtual machine" in error.reason
    assert "modprobe intel_rapl_msr" in error.remedy


def test_not_linux(tmp_path: Path, mocker: MockerFixture) -> None:
    """On another system the error names the system, and no Linux command."""
    mocker.patch("mlmeter.backends.rapl.sys.platform", "darwin")
    error = refusal_of(RaplBackend(tmp_path / "powercap"))
    assert "darwin" in error.reason
    assert "modprobe" not in error.remedy


def test_a_folder_without_zones(tmp_path: Path) -> None:
    """An empty folder is another case than a missing one."""
    error = refusal_of(RaplBackend(tmp_path))
    assert "lists no RAPL zone" in error.reason


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    """A wrong root is reported as what it is."""
    file = tmp_path / "file"
    file.write_text("")
    assert "Not a directory" in refusal_of(RaplBackend(file)).reason


@pytest.mark.parametrize("root", ["", "\0", "a\0b"])
def test_a_root_that_is_no_path(root: str) -> None:
    """A root that no file system accepts is unavailable, not a crash."""
    refusal_of(RaplBackend(root))


def test_masked_links(tmp_path: Path) -> None:
    """In a container whose runtime hides the devices the error says so, not "no RAPL"."""
    tree = build_tree(tmp_path, trees.CLIENT)
    tree.mask()
    error = refusal_of(RaplBackend(tree.class_root))
    assert "hidden" in error.reason
    assert "MLMETER_POWERCAP_ROOT" in error.remedy


def test_zones_without_counters(tmp_path: Path) -> None:
    """Zones of which only `energy_uj` is hidden are a masked tree, too."""
    tree = build_tree(tmp_path, [replace(zone, energy_uj=None) for zone in trees.CLIENT])
    assert "hidden" in refusal_of(RaplBackend(tree.class_root)).reason


def test_only_unknown_names(tmp_path: Path) -> None:
    """Zones of which none is known give an error about names."""
    tree = build_tree(tmp_path, [Zone("intel-rapl:0", "accelerator")])
    assert "is called" in refusal_of(RaplBackend(tree.class_root)).reason


def test_garbage_in_every_counter(tmp_path: Path) -> None:
    """Counters without a number are unreadable, and the error shows what they hold."""
    tree = build_tree(tmp_path, [replace(ONE_PACKAGE[0], energy_uj="soon")])
    assert "soon" in refusal_of(RaplBackend(tree.class_root)).reason


def test_permission_denied(tmp_path: Path, mocker: MockerFixture) -> None:
    """Where only root may read, the error names the rule, the page and the estimate."""
    tree = build_tree(tmp_path, trees.UNREADABLE)
    deny(mocker, tree, *(zone.label for zone in trees.UNREADABLE))
    error = refusal_of(RaplBackend(tree.class_root))
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
    deny(mocker, tree, "intel-rapl:0", "intel-rapl:1")
    backend, domains = open_backend(tree)
    assert values_of(backend, domains) == {"dram-0": 22_000_000, "dram-1": 24_000_000}
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
