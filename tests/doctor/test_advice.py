"""Which machine gets which advice, from frozen files."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from mlmeter.doctor.advice import HERE, HOST, Advice, advice_for
from mlmeter.doctor.surroundings import Surroundings, surroundings_of
from mlmeter.measurement import Unavailable
from tests.backends.powercap_tree import CLIENT, MMIO_DUPLICATE, UNREADABLE
from tests.doctor.machines import AMD, GUEST, INTEL, with_zones, write

NAMES = ("rapl", "nvml", "cpu_estimate")
DOCKER = {".dockerenv": ""}


def around(root: Path, *, is_root: bool = False, **environment: str) -> Surroundings:
    return surroundings_of(root, environment={"USER": "ada", **environment}, system="linux", is_root=is_root)


def advice(machine: Surroundings, *unavailable: Unavailable, measured: tuple[str, ...] = ()) -> list[Advice]:
    return advice_for(machine, unavailable, measured=measured, names=NAMES)


def test_closed_counters_get_the_group_and_the_rule(tmp_path: Path) -> None:
    """The one advice that can be applied: group, user, rule, reload, trigger."""
    with_zones(tmp_path, UNREADABLE)
    (found,) = advice(around(tmp_path))
    assert (found.name, found.where, found.applies) == ("rapl-group", HERE, True)
    assert "sudo usermod --append --groups rapl ada" in found.commands
    text = "\n".join(found.commands)
    for part in ("groupadd --force --system rapl", "70-rapl.rules", "udevadm control --reload", "trigger"):
        assert part in text


def test_root_sees_what_others_do_not(tmp_path: Path) -> None:
    """Root reads the counters already; the rule is for the others and promises no new kind."""
    with_zones(tmp_path, UNREADABLE)
    machine = around(tmp_path, is_root=True, SUDO_USER="ada")
    (found,) = advice(machine, measured=("cpu", "dram"))
    assert found.kinds == ()
    assert "for others than root" in found.gives


def test_readable_counters_need_no_advice(tmp_path: Path) -> None:
    """Nothing is closed: nothing to do for the CPU."""
    with_zones(tmp_path, CLIENT)
    assert advice(around(tmp_path), measured=("cpu", "dram")) == []


def test_masked_counters_of_a_container(tmp_path: Path) -> None:
    """Links that lead nowhere: mounts, variable and group, on the host."""
    tree = with_zones(tmp_path, CLIENT, DOCKER)
    tree.mask()
    machine = around(tmp_path)
    assert machine.container == "Docker"
    assert machine.hidden
    (found,) = advice(machine)
    assert (found.name, found.where, found.applies) == ("container-mounts", HOST, False)
    words = shlex.split(found.commands[0])
    assert words[:2] == ["docker", "run"]
    assert "MLMETER_POWERCAP_ROOT=/host/sys/class/powercap" in words


def test_closed_counters_in_a_container_are_opened_on_the_host(tmp_path: Path) -> None:
    """The rule is the host's; --apply stays away."""
    with_zones(tmp_path, UNREADABLE, DOCKER)
    group, mounts = advice(around(tmp_path))
    assert (group.where, group.applies, mounts.name) == (HOST, False, "container-mounts")


@pytest.mark.parametrize(("cpu", "commands"), [(INTEL, 1), (AMD, 0)])
def test_a_virtual_machine_is_told_what_its_host_must_do(tmp_path: Path, cpu: str, commands: int) -> None:
    """QEMU passes Intel's counters on; for the others there is nothing to type."""
    files = {"proc/cpuinfo": cpu + GUEST, "sys/class/dmi/id/sys_vendor": "QEMU\n"}
    machine = around(write(tmp_path, files))
    assert machine.hypervisor == "QEMU"
    (found,) = advice(machine)
    assert (found.name, found.where, len(found.commands)) == ("virtual-machine", HOST, commands)


def test_a_machine_without_driver(tmp_path: Path) -> None:
    """Real hardware, no folder: load the module, now and at every start."""
    (found,) = advice(around(write(tmp_path, {"proc/cpuinfo": INTEL})))
    assert found.name == "rapl-driver"
    assert "sudo modprobe intel_rapl_msr" in found.commands


def test_linux_inside_windows(tmp_path: Path) -> None:
    """Nothing inside WSL helps, and no command pretends to."""
    files = {"proc/cpuinfo": INTEL + GUEST, "proc/version": "Linux version 5.15.90.1-microsoft-standard-WSL2"}
    (found,) = advice(around(write(tmp_path, files)))
    assert (found.name, found.commands) == ("wsl", ())


@pytest.mark.parametrize(("system", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_other_systems_are_told_so(tmp_path: Path, system: str, name: str) -> None:
    """RAPL is read through Linux; no udev rule is offered."""
    machine = surroundings_of(tmp_path, environment={}, system=system, is_root=False)
    (found,) = advice(machine)
    assert name in found.why
    assert found.commands == ()


@pytest.mark.parametrize("cpu", ["vendor_id : CentaurHauls\n", "CPU implementer : 0x41\n"])
def test_processors_without_counters(tmp_path: Path, cpu: str) -> None:
    """No module is offered where the kernel has none, as on Arm."""
    (found,) = advice(around(write(tmp_path, {"proc/cpuinfo": cpu})))
    assert (found.name, found.commands) == ("no-counters", ())


@pytest.mark.parametrize(("files", "name"), [({}, "gpu-driver"), (DOCKER, "gpu-container")])
def test_a_gpu_on_the_bus_without_driver(tmp_path: Path, files: dict[str, str], name: str) -> None:
    """An NVIDIA card that no source reads: its driver, or the container's flags."""
    device = "sys/bus/pci/devices/0000:01:00.0"
    write(tmp_path, {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030200\n", **files})
    assert [item.name for item in advice(around(tmp_path), measured=("cpu",))] == [name]
    assert advice(around(tmp_path), measured=("cpu", "gpu")) == []


def test_packages_come_from_the_remedies_of_backends(tmp_path: Path) -> None:
    """A remedy that says pip install becomes a command, once, whoever says it."""
    remedy = 'Install it: pip install "mlmeter[amd]".'
    missing = [Unavailable(source=name, kinds=("gpu",), reason="no amdsmi", remedy=remedy) for name in "ab"]
    (found,) = advice(around(tmp_path), *missing, measured=("cpu",))
    assert found.commands == ('python -m pip install "mlmeter[amd]"',)


def test_perf_events_are_offered_only_where_they_can_be_read(tmp_path: Path) -> None:
    """A kernel with the events, a backend for them, and a setting that forbids them."""
    with_zones(tmp_path, UNREADABLE)
    events = "sys/bus/event_source/devices/power/events/energy-pkg"
    write(tmp_path, {events: "event=0x02\n", "proc/sys/kernel/perf_event_paranoid": "2\n"})
    machine = around(tmp_path)
    assert machine.paranoid == 2
    found = advice_for(machine, [], measured=(), names=(*NAMES, "perf_rapl"))
    assert [item.name for item in found] == ["rapl-group", "perf-events"]
    assert len(advice(machine)) == 1
    assert len(advice_for(replace(machine, paranoid=0), [], measured=(), names=("perf_rapl",))) == 1


@pytest.mark.parametrize("user", ["", "a; rm -rf /", "--root", "$(id)"])
def test_what_is_no_user_name_is_in_no_command(tmp_path: Path, user: str) -> None:
    """The environment cannot put words into a root's shell."""
    with_zones(tmp_path, UNREADABLE)
    machine = around(tmp_path, USER=user)
    assert machine.user == "$USER"
    assert 'rapl "$USER"' in "\n".join(advice(machine)[0].commands)


def test_a_host_of_containers_is_no_container(tmp_path: Path) -> None:
    """Mounts of its containers do not make the host one; its own root folder would."""
    line = "30 1 0:26 / {place} rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l"
    write(tmp_path, {"proc/self/mountinfo": line.format(place="/var/lib/docker/x")})
    assert around(tmp_path).container is None
    write(tmp_path, {"proc/self/mountinfo": line.format(place="/")})
    assert around(tmp_path).container == "Docker"


def test_zones_of_a_tree(tmp_path: Path) -> None:
    """Each zone once, with its name; the driver's own folder is none."""
    with_zones(tmp_path, MMIO_DUPLICATE)
    zones = around(tmp_path).zones
    assert len(zones) == len(MMIO_DUPLICATE)
    assert {zone.state for zone in zones} == {"readable"}
