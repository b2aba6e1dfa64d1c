"""Frozen files of a machine, as /proc and /sys show them."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_machine(
    root: Path,
    *,
    name: str | None = "AMD EPYC 7763 64-Core Processor",
    vendor: str = "AuthenticAMD",
    family: int = 25,
    model: int = 1,
    stepping: int = 1,
    arm_part: int | None = None,
    sockets: int = 1,
    cores: int = 2,
    threads_per_core: int = 2,
    virtual: bool = False,
    memory_kib: int | None = 16_777_216,
    bios_date: str | None = None,
    system_vendor: str | None = None,
    product: str | None = None,
    topology: bool = True,
) -> None:
    """Write a machine whose threads are numbered as Linux does: first threads of all cores first."""
    threads = cores * threads_per_core
    entries = []
    for thread in range(threads):
        lines = [f"processor\t: {thread}"]
        if arm_part is not None:
            lines += ["CPU implementer\t: 0x41", "CPU architecture: 8", f"CPU part\t: {arm_part:#x}"]
        else:
            lines += [f"vendor_id\t: {vendor}", f"cpu family\t: {family}", f"model\t\t: {model}"]
            lines += [f"model name\t: {name}"] if name is not None else []
            lines += [f"stepping\t: {stepping}", f"flags\t\t: fpu{' hypervisor' if virtual else ''}"]
        entries.append("\n".join(lines))
    write(root / "proc/cpuinfo", "\n\n".join(entries) + "\n")
    if memory_kib is not None:
        write(root / "proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:  1 kB\n")
    for thread in range(threads if topology else 0):
        core = thread % cores
        siblings = ",".join(str(core + cores * position) for position in range(threads_per_core))
        folder = root / f"sys/devices/system/cpu/cpu{thread}/topology"
        write(folder / "thread_siblings_list", siblings + "\n")
        write(folder / "physical_package_id", f"{core * sockets // cores}\n")
    for file, text in (("bios_date", bios_date), ("sys_vendor", system_vendor), ("product_name", product)):
        if text is not None:
            write(root / "sys/class/dmi/id" / file, text + "\n")
    write_times(root, [0] * threads)


def write_times(root: Path, user_ticks: list[int], *, column: int = 0) -> None:
    """Write /proc/stat with these ticks in one column of each thread, 0 everywhere else."""
    lines = ["cpu  1 2 3 4 5 6 7 8 9 10"]
    for thread, ticks in enumerate(user_ticks):
        fields = [0] * 10
        fields[column] = ticks
        lines.append(f"cpu{thread} {' '.join(map(str, fields))}")
    write(root / "proc/stat", "\n".join([*lines, "intr 1 2 3", "ctxt 5"]) + "\n")
