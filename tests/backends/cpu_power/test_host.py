"""What a machine's files tell, and what is assumed where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.backends.cpu_power.facts import Facts, cpu_list, read_facts
from mlmeter.backends.cpu_power.host import Host, describe
from mlmeter.backends.cpu_power.machine_model import machine_curve
from mlmeter.backends.cpu_power.spreads import NONE
from mlmeter.backends.cpu_power.tables import coefficients
from tests.backends.cpu_power.machine_tree import write, write_machine

MILAN = Facts(
    model_name="AMD EPYC 7763 64-Core Processor",
    vendor="AuthenticAMD",
    family=25,
    model=1,
    stepping=1,
    sockets=2,
    cores=128,
    threads=256,
    memory_gigabytes=512.0,
)


def guest(threads: int, **changes: object) -> Facts:
    """Return what a guest with so many threads sees."""
    fields: dict[str, object] = {
        "model_name": "AMD EPYC",
        "vendor": "AuthenticAMD",
        "family": 25,
        "model": 1,
        "stepping": 1,
        "sockets": 1,
        "cores": threads,
        "threads": threads,
        "memory_gigabytes": 8.0,
        "virtual": True,
    }
    return Facts(**{**fields, **changes})  # type: ignore[arg-type]


def words(host: Host) -> str:
    return " | ".join((*host.found, *host.assumed))


def test_facts_of_a_server(tmp_path: Path) -> None:
    """Names, numbers, topology, memory and the firmware's year are read from the tree."""
    write_machine(tmp_path, sockets=2, cores=4, bios_date="03/14/2023", system_vendor="Dell Inc.")
    assert read_facts(tmp_path) == Facts(
        model_name="AMD EPYC 7763 64-Core Processor",
        vendor="AuthenticAMD",
        family=25,
        model=1,
        stepping=1,
        sockets=2,
        cores=4,
        threads=8,
        memory_gigabytes=pytest.approx(17.18, abs=0.01),
        base_ghz=None,
        firmware_year=2023,
        virtual=False,
        system_vendor="Dell Inc.",
    )


def test_facts_of_an_arm_machine(tmp_path: Path) -> None:
    """ARM kernels show numbers instead of a name."""
    write_machine(
        tmp_path, arm_part=0xD40, threads_per_core=1, system_vendor="Amazon EC2", product="c7g.large"
    )
    facts = read_facts(tmp_path)
    assert (facts.vendor, facts.family, facts.model) == ("ARM", 8, 0xD40)
    assert facts.model_name is None
    assert facts.virtual
    write(tmp_path / "sys/class/dmi/id/product_name", "c7g.metal")
    assert not read_facts(tmp_path).virtual


def test_facts_of_an_empty_tree(tmp_path: Path) -> None:
    """Missing files are unknown facts."""
    assert read_facts(tmp_path / "nothing") == Facts()


@pytest.mark.parametrize(
    "content", ["", "\x00\x01", "processor", ": : :", "processor : 0\nmodel : x\n", "é" * 9]
)
def test_facts_of_nonsense(tmp_path: Path, content: str) -> None:
    """Files of nonsense are unknown facts, not errors."""
    write_machine(tmp_path)
    for file in (
        "proc/cpuinfo",
        "proc/meminfo",
        "sys/class/dmi/id/bios_date",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
        "sys/devices/system/cpu/cpu0/cpufreq/base_frequency",
    ):
        write(tmp_path / file, content)
    host = describe(read_facts(tmp_path))
    assert machine_curve(host.inputs, coefficients()).watts_at[0] > 0


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", (0,)), ("0-2,8", (0, 1, 2, 8)), ("", ()), ("a", ()), ("3-1", ())]
)
def test_cpu_lists(text: str, numbers: tuple[int, ...]) -> None:
    """The kernel's lists of threads."""
    assert numbers == cpu_list(text)


def test_a_known_name() -> None:
    """A server whose name is in the table: nothing is assumed."""
    host = describe(MILAN)
    assert host.inputs.tdp_watts == 280
    assert host.inputs.year == 2021
    assert (host.inputs.sockets, host.inputs.cores, host.inputs.threads) == (2, 128, 256)
    assert host.inputs.memory_gigabytes == 512.0
    assert not host.inputs.intel
    assert host.share == 1.0
    assert host.assumed == ()
    assert host.spread == NONE
    assert "TDP 280 W" in words(host)


def test_a_name_that_follows_a_scheme_only() -> None:
    """An unlisted number still tells the year; the TDP is not that of a neighbour."""
    host = describe(Facts(model_name="Intel(R) Xeon(R) Gold 6599Z", sockets=2, cores=64, threads=128))
    assert host.inputs.tdp_watts is None
    assert host.inputs.year == 2023
    assert "not in the table" in words(host)
    assert "TDP unknown" in words(host)


def test_sockets_from_the_number_of_threads() -> None:
    """Where the topology is hidden, 256 threads are two processors of 128."""
    host = describe(Facts(model_name="AMD EPYC 7763", threads=256))
    assert (host.inputs.sockets, host.inputs.cores, host.inputs.threads) == (2, 128, 256)


def test_an_unknown_name_on_a_real_machine() -> None:
    """The firmware's year stands in for the processor's."""
    host = describe(Facts(model_name="Acme 9000", sockets=1, cores=8, threads=8, firmware_year=2015))
    assert host.inputs.year == 2015
    assert "firmware's year 2015" in words(host)


def test_nothing_known() -> None:
    """A machine that tells nothing still gets an estimate, which says so."""
    host = describe(Facts())
    assert host.inputs.sockets == host.inputs.cores == 1
    assert "not known" in words(host)


def test_the_user_tells_the_tdp() -> None:
    """The user's figure stands before the table's."""
    host = describe(MILAN, tdp_watts=225)
    assert host.inputs.tdp_watts == 225
    assert "TDP 225 W as given" in words(host)


@pytest.mark.parametrize(
    ("changes", "year", "host_threads", "tdp_watts"),
    [
        ({}, 2021, 256, 280),
        ({"family": 26, "model": 2}, 2024, 512, 400),
        (
            {
                "model_name": "Intel Xeon Processor (Skylake, IBRS)",
                "vendor": "GenuineIntel",
                "family": 6,
                "model": 85,
                "stepping": 4,
            },
            2017,
            96,
            205,
        ),
        (
            {
                "model_name": "Intel(R) Xeon(R) CPU @ 2.20GHz",
                "vendor": "GenuineIntel",
                "family": 6,
                "model": 79,
                "stepping": 0,
            },
            2016,
            72,
            145,
        ),
        ({"model_name": None, "vendor": "ARM", "family": 8, "model": 0xD0C}, 2020, 64, 150),
    ],
)
def test_hidden_names(changes: dict[str, object], year: int, host_threads: int, tdp_watts: float) -> None:
    """A guest without a name is placed by its CPUID numbers on a typical host of that family."""
    host = describe(guest(2, **changes))
    assert (host.inputs.year, host.inputs.threads, host.inputs.tdp_watts) == (year, host_threads, tdp_watts)
    assert host.share == pytest.approx(2 / host_threads)
    assert "no model number" in words(host) or "is not" in words(host)
    assert "share of the host" in words(host)
    assert "typical" in words(host)


@pytest.mark.parametrize(
    ("part", "threads", "tdp_watts"), [(0xD0C, 64, 150), (0xD40, 64, 220), (0xD4F, 192, 300)]
)
def test_graviton(part: int, threads: int, tdp_watts: float) -> None:
    """At Amazon the part number of an ARM core names the processor exactly."""
    facts = guest(2, model_name=None, vendor="ARM", family=8, model=part, system_vendor="Amazon EC2")
    host = describe(facts)
    assert host.inputs.tdp_watts == tdp_watts
    assert "in the table" in words(host)
    assert host.inputs.threads >= min(threads, 64)


def test_grace_has_its_memory_inside() -> None:
    """The power of a Grace superchip includes its memory."""
    facts = Facts(model_name="NVIDIA Grace CPU Superchip", vendor="ARM", sockets=1, cores=144, threads=144)
    host = describe(facts)
    assert host.memory_in_package
    assert host.inputs.tdp_watts == 500
    assert not describe(MILAN).memory_in_package


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 64), min_size=1, max_size=20))
def test_shares_of_guests_sum_to_the_host(sizes: list[int]) -> None:
    """Guests that fill a host exactly draw what the host draws."""
    filled = [*sizes, 256 - sum(sizes)] if sum(sizes) < 256 else [256]
    hosts = [describe(guest(size)) for size in filled]
    assert sum(host.share for host in hosts) == pytest.approx(1.0)
    assert len({host.inputs for host in hosts}) == 1


def test_a_named_guest_is_a_part_of_a_host_of_two() -> None:
    """The sockets that a guest sees are not the host's."""
    host = describe(guest(8, model_name="AMD EPYC 7763 64-Core Processor", sockets=8))
    assert (host.inputs.sockets, host.inputs.threads) == (2, 256)
    assert host.share == 8 / 256


def test_a_guest_larger_than_the_typical_host() -> None:
    """A guest with more threads than the host would have makes the host larger, not the share."""
    host = describe(guest(300))
    assert host.inputs.sockets == 3
    assert host.share <= 1.0


def test_the_user_tells_the_share() -> None:
    """With the share as given its doubt is gone."""
    host = describe(guest(2), share=0.25)
    assert host.share == 0.25
    assert host.spread.high_95 < describe(guest(2)).spread.high_95


def test_a_guest_is_known_to_a_factor_of_two_at_best() -> None:
    """Neighbours and oversubscription are not seen."""
    spread = describe(guest(8, model_name="AMD EPYC 7763")).spread
    assert spread.low_95 <= 0.5
    assert spread.high_95 >= 2.0


def test_an_unknown_guest() -> None:
    """A guest of which nothing is known gets 2017+ watts per thread and the widest interval."""
    host = describe(guest(4, vendor="Acme", model_name="QEMU Virtual CPU version 2.5+"))
    watts = [host.share * watt for watt in machine_curve(host.inputs, coefficients()).watts_at]
    assert 4 * 0.37 < watts[0] < 4 * 1.06
    assert 4 * 1.8 < watts[-1] < 4 * 4.5
    assert host.spread.high_95 > 2.5


def test_desktops_are_not_checked() -> None:
    """A desktop's processor doubles the interval and says why."""
    host = describe(
        Facts(model_name="Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", sockets=1, cores=6, threads=12)
    )
    assert host.spread.high_95 >= 2.0
    assert "not checked" in words(host)
