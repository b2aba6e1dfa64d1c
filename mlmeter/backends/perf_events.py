"""The system call perf_event_open, so far as counters of a whole CPU need it."""

from __future__ import annotations

import errno
import os
import platform
import struct
from typing import Any

# Calls by processor and size of a pointer; RAPL exists on these only.
_CALL_NUMBERS = {("x86_64", 8): 298, ("x86_64", 4): 336, ("i686", 4): 336}

# struct perf_event_attr in its first version: type, size, config, sample_period, sample_type,
# read_format, flags, wakeup_events, bp_type, config1.
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")
_READ_GROUP = 1 << 3  # PERF_FORMAT_GROUP: a read gives the number of events, then their counts
_CLOSE_ON_EXEC = 1 << 3  # PERF_FLAG_FD_CLOEXEC
_ANY_PROCESS = -1
_COUNT_BYTES = 8


class PerfEvents:
    """Opens and reads counting events; tests put another object with these methods in its place."""

    def __init__(self) -> None:
        self._syscall: Any = None

    def open(self, event_type: int, config: int, cpu: int, leader: int) -> int:
        """Open one event that counts from now on, whatever runs on the CPU.

        Args:
            event_type: number of the PMU.
            config: number of the event.
            cpu: the CPU on which it is counted.
            leader: descriptor of the event with which it is read; -1 if it is read by itself.

        Returns:
            Its descriptor.

        Raises:
            OSError: the kernel refuses; EACCES and EPERM for missing rights.
        """
        import ctypes

        if self._syscall is None:
            self._syscall = ctypes.CDLL(None, use_errno=True).syscall
            self._syscall.restype = ctypes.c_long
        number = _CALL_NUMBERS.get((platform.machine(), struct.calcsize("P")))
        if number is None:
            raise OSError(errno.ENOSYS, f"perf events of {platform.machine()} processors hold no energy")
        attributes = ctypes.create_string_buffer(
            _ATTRIBUTES.pack(event_type, _ATTRIBUTES.size, config, 0, 0, _READ_GROUP, 0, 0, 0, 0),
            _ATTRIBUTES.size,
        )
        long = ctypes.c_long
        descriptor = self._syscall(
            long(number), attributes, long(_ANY_PROCESS), long(cpu), long(leader), long(_CLOSE_ON_EXEC)
        )
        if descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(descriptor)

    def read(self, leader: int, events: int) -> tuple[int, ...]:
        """Read the counts of an event and of those opened with it, in the order of their opening.

        Raises:
            OSError: the read failed.
            ValueError: it gave another number of counts.
        """
        data = os.read(leader, _COUNT_BYTES * (1 + events))
        if len(data) != _COUNT_BYTES * (1 + events):
            raise ValueError(f"{len(data)} bytes for {events} counts")
        found, *counts = struct.unpack(f"={1 + events}Q", data)
        if found != events:
            raise ValueError(f"{found} counts instead of {events}")
        return tuple(counts)

    # The default keeps os.close alive while the interpreter shuts down.
    def close(self, descriptor: int, _close: Any = os.close) -> None:
        """Close an event."""
        _close(descriptor)
