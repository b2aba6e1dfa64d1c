"""What would give more, as commands to type: from the surroundings and from what backends say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlmeter.doctor.surroundings import GROUP, RULE_FILE, UNKNOWN, Surroundings
from mlmeter.measurement import Unavailable

# Also in docs/how-to/read-rapl-without-root.md, with the reasons.
RULE = """\
# Energy counters of the CPU: readable by the group rapl.
ACTION!="remove", SUBSYSTEM=="powercap", KERNEL=="intel-rapl*", \\
  TEST=="energy_uj", RUN+="/bin/chgrp rapl /sys%p/energy_uj", \\
  RUN+="/bin/chmod g+r /sys%p/energy_uj"
"""
PIP_INSTALL = re.compile(r"pip install (\"[^\"]+\"|'[^']+'|[A-Za-z0-9._\[\]=<>~!-]+)")

# Under sudo the path of a virtual environment is not searched.
APPLY = 'sudo "$(command -v mlmeter)" doctor --apply'
HERE, HOST = "on this machine", "on the host"
GET_COUNTERS = "how-to/get-real-counters"
QEMU = "qemu-system-x86_64 ... \\\n  -accel kvm,rapl=on,rapl-helper-socket=/run/qemu-vmsr-helper.sock"
GPU_RUN = "docker run --gpus all \\\n  --env NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE python train.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing that would give more.

    Attributes:
        name: stable name for programs.
        gives: what it would give, in words.
        kinds: kinds of energy that would then be measured.
        why: what is in the way.
        where: `HERE` or `HOST`.
        commands: exact lines to type, in order; none where only a choice of machine helps.
        applies: whether ``--apply`` can do it.
        page: of the documentation.
    """

    name: str
    gives: str
    kinds: tuple[str, ...]
    why: str
    where: str = HERE
    commands: tuple[str, ...] = ()
    applies: bool = False
    page: str = GET_COUNTERS


def advice_for(
    around: Surroundings, unavailable: Sequence[Unavailable], *, measured: Iterable[str], names: Sequence[str]
) -> list[Advice]:
    """Return what would give more, most useful first; what is measured needs no advice.

    Args:
        around: the machine.
        unavailable: what backends say.
        measured: kinds of energy that are measured.
        names: of all backends.
    """
    kinds = set(measured)
    found = []
    if around.system != "linux":
        found += _other_system(around)
    elif "cpu" not in kinds or around.closed:
        found += _counters_of_the_cpu(around, names)
    if around.system == "linux" and "gpu" not in kinds:
        found += _gpus(around)
    found += _packages(unavailable)
    return found


def _counters_of_the_cpu(around: Surroundings, names: Sequence[str]) -> list[Advice]:
    if around.hidden:
        return [_container(around)]
    if around.closed:
        advice = [_group(around)]
        if around.container is not None:
            advice.append(_container(around))
        if "perf_rapl" in names and around.power_events and (around.paranoid or 0) > 0:
            advice.append(_perf_events())
        return advice
    if around.zones:
        return [_virtual_machine(around)] if around.hypervisor else []
    if around.container is not None and around.hypervisor is None:
        return [_container(around)]
    if around.hypervisor is not None:
        return [_virtual_machine(around)]
    return [_driver(around)]


def _group(around: Surroundings) -> Advice:
    root_reads = all(zone.state != "closed" for zone in around.zones)
    return Advice(
        name="rapl-group",
        gives="measured CPU and memory energy" + (" for others than root" if root_reads else ""),
        kinds=() if root_reads else ("cpu", "dram"),
        why="only root may read the counters; the rule below survives reboots and reloads of the driver",
        where=HERE if around.container is None else HOST,
        commands=tuple(group_commands(around.user)),
        applies=around.container is None,
    )


def group_commands(user: str) -> list[str]:
    """Return what gives a group access to the counters, as a shell reads it."""
    # "$USER" stands for whoever types it.
    name = '"$USER"' if user == "$USER" else shlex.quote(user)
    return [
        f"sudo groupadd --force --system {GROUP}",
        f"sudo usermod --append --groups {GROUP} {name}",
        f"sudo tee /{RULE_FILE} <<'EOF'\n{RULE}EOF",
        "sudo udevadm control --reload",
        "sudo udevadm trigger --subsystem-match=powercap",
        "sudo udevadm settle",
        f"newgrp {GROUP}   # or log out and in",
    ]


def _container(around: Surroundings) -> Advice:
    runtime = around.container or "The container's runtime"
    why = f"{runtime} hides the counters of the host"
    if around.container == "Kubernetes":
        why += "; in a pod use two hostPath volumes, the variable and supplementalGroups (see the page)"
    command = (
        "docker run \\\n"
        "  -v /sys/class/powercap:/host/sys/class/powercap:ro \\\n"
        "  -v /sys/devices/virtual/powercap:/host/sys/devices/virtual/powercap:ro \\\n"
        "  --env MLMETER_POWERCAP_ROOT=/host/sys/class/powercap \\\n"
        f'  --group-add "$(getent group {GROUP} | cut -d: -f3)" \\\n'
        "  IMAGE python train.py"
    )
    return Advice(
        name="container-mounts",
        gives="measured CPU and memory energy of the whole host",
        kinds=("cpu", "dram"),
        why=f"{why}; first let the group {GROUP} read them there (mlmeter doctor on the host)",
        where=HOST,
        commands=(command,),
    )


def _virtual_machine(around: Surroundings) -> Advice:
    if around.wsl:
        return Advice(
            name="wsl",
            gives="measured CPU energy",
            kinds=("cpu",),
            why="Windows gives Linux (WSL) no CPU counters, and nothing inside WSL changes that: run on "
            "Linux itself. GPUs are measured through the Windows driver",
            where=HOST,
        )
    name = "" if around.hypervisor == UNKNOWN else f" ({around.hypervisor})"
    why = f"this is a virtual machine{name}, and only its host can open the counters"
    commands: tuple[str, ...] = ()
    if around.vendor == "GenuineIntel":
        why += ": QEMU 9.1 or later can, with the helper qemu-vmsr-helper; in a cloud take bare metal"
        commands = (QEMU,)
    else:
        why += ". QEMU passes on those of Intel's processors only: measure on real hardware or bare metal"
    return Advice(
        name="virtual-machine",
        gives="measured CPU energy",
        kinds=("cpu",),
        why=why,
        where=HOST,
        commands=commands,
    )


def _driver(around: Surroundings) -> Advice:
    module = "intel_rapl_msr"
    if around.vendor not in ("GenuineIntel", "AuthenticAMD", "HygonGenuine"):
        # Others, such as Arm's, have no vendor_id at all.
        why = f"the kernel has no RAPL counters for this processor ({around.vendor or 'not Intel or AMD'})"
        return Advice(name="no-counters", gives="measured CPU energy", kinds=("cpu",), why=why, where=HOST)
    return Advice(
        name="rapl-driver",
        gives="measured CPU energy",
        kinds=("cpu", "dram"),
        why="the kernel shows no counters: its driver is not loaded (AMD needs Linux 5.11)",
        commands=(
            f"sudo modprobe {module}",
            f"echo {module} | sudo tee /etc/modules-load.d/rapl.conf   # at each start",
            "mlmeter doctor",
        ),
    )


def _perf_events() -> Advice:
    return Advice(
        name="perf-events",
        gives="measured CPU energy without the group",
        kinds=("cpu",),
        why="the kernel offers the same counters as perf events, which users may not open; this setting "
        "opens more than energy to all users, so the group above is the better way",
        commands=(
            "sudo sysctl kernel.perf_event_paranoid=0",
            "echo kernel.perf_event_paranoid=0 | sudo tee /etc/sysctl.d/70-rapl.conf",
        ),
    )


def _gpus(around: Surroundings) -> list[Advice]:
    if "NVIDIA" not in around.gpus:
        return []
    if around.container is not None:
        return [
            Advice(
                name="gpu-container",
                gives="measured GPU energy",
                kinds=("gpu",),
                why="there is an NVIDIA GPU, but this container was not given it",
                where=HOST,
                commands=(GPU_RUN,),
            )
        ]
    return [
        Advice(
            name="gpu-driver",
            gives="measured GPU energy",
            kinds=("gpu",),
            why="there is an NVIDIA GPU, but its driver does not answer: install or load it",
            commands=("sudo modprobe nvidia", "nvidia-smi"),
        )
    ]


def _packages(unavailable: Sequence[Unavailable]) -> list[Advice]:
    """Turn remedies of backends that name a package into commands."""
    found: dict[str, Advice] = {}
    for item in unavailable:
        for match in PIP_INSTALL.finditer(item.remedy):
            command = f"python -m pip install {match[1].rstrip('.')}"
            found.setdefault(
                command,
                Advice(
                    name=f"package-{item.source}",
                    gives=f"{'/'.join(item.kinds) or 'more'} energy from {item.source}, if it is there",
                    kinds=item.kinds,
                    why=item.reason,
                    commands=(command,),
                    page="reference/backends",
                ),
            )
    return list(found.values())


def _other_system(around: Surroundings) -> list[Advice]:
    name = {"darwin": "macOS", "win32": "Windows"}.get(around.system, around.system)
    return [
        Advice(
            name="other-system",
            gives="measured CPU energy",
            kinds=("cpu",),
            why=f"this is {name}: the CPU's counters (RAPL) are read through Linux only. NVIDIA GPUs are "
            "measured on Windows, too",
            where=HOST,
        )
    ]
