"""RAPL through the sensor of pyRAPL, for those who want its figures; `rapl` reads the same by itself.

pyRAPL gives the bare counters of packages and DRAM. What it does not do is done here: wraps,
absent sockets, errors. Only its sensor is used; nothing of it is imported before `open`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlmeter.backends.powercap_zones import (
    DEFAULT_ROOT,
    PERMISSION_REMEDY,
    TWIN_PREFIX,
    Zone,
    identify,
    modulus,
    rapl_domain,
    read_number,
    wrong_dram_unit,
    zone_folders,
)
from mlmeter.backends.processor import DEFAULT_CPUINFO, vendor_and_model
from mlmeter.backends.sensor_files import words
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.units import JOULES_PER_MICROJOULE

# In the order in which the sensor gives them, socket by socket.
_WORDS = ("package", "dram")
_OWN_REMEDY = 'Use backends=["rapl"], which reads the same counters without pyRAPL'


class PyRaplBackend:
    """Reads what `pyRAPL.Sensor` reads: packages and DRAM, in microjoules.

    Domains have the names and ids of `mlmeter.backends.rapl.RaplBackend`, so that the same counter is never
    added twice. pyRAPL finds no package where the kernel counts dies, and DRAM only if every package has one.

    Args:
        root: the powercap folder, for where the counters wrap; pyRAPL itself reads
            /sys/class/powercap, whatever is said here.
        cpuinfo: where the processor's model is read.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: texts that users of the figures must know.
    """

    name = "pyrapl"

    def __init__(
        self,
        root: str | os.PathLike[str] = DEFAULT_ROOT,  # pyRAPL reads this folder and no other one
        *,
        cpuinfo: str | os.PathLike[str] = DEFAULT_CPUINFO,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._root = os.fspath(root)
        self._cpuinfo = os.fspath(cpuinfo)
        self._now_ns = now_ns
        # The sensor seeks and reads files that threads would share.
        self._lock = threading.Lock()
        self._pyrapl: Any = None
        self._sensor: Any = None
        self._indices: tuple[int, ...] = ()
        self.notes: tuple[str, ...] = ()

    def open(self) -> list[Domain]:
        """Make a sensor and list what it can read.

        Raises:
            BackendUnavailableError: pyRAPL is missing or finds nothing; reason and remedy say why.
        """
        self.close()
        try:
            with _quietly():
                import pyRAPL
        except Exception as error:  # an old package may fail in any way
            reason = f"pyRAPL cannot be imported: {error}"
            remedy = f"pip install 'mlmeter[pyrapl]'. {_OWN_REMEDY}"
            raise BackendUnavailableError(self.name, reason, remedy) from error
        self._pyrapl = pyRAPL
        try:
            # It leaves the files open from which it reads names.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                self._sensor = pyRAPL.Sensor()
            values = self._sensor.energy()
        except PermissionError as error:
            reason = f"pyRAPL cannot read the counters: {words(error)}"
            raise BackendUnavailableError(self.name, reason, PERMISSION_REMEDY) from error
        except Exception as error:  # it lets errors of all kinds through
            reason = f"pyRAPL finds no counter that it can read ({f'{type(error).__name__} {error}'.strip()})"
            raise BackendUnavailableError(self.name, reason, _OWN_REMEDY) from error
        self._indices = tuple(index for index, value in enumerate(values) if value >= 0)
        if not self._indices:
            raise BackendUnavailableError(self.name, "pyRAPL gives no value of any counter", _OWN_REMEDY)
        return self._domains()

    def read(self) -> list[Reading | Failure]:
        """Read all counters by one call of the sensor; nothing before `open` and after `close`."""
        with self._lock:
            indices = self._indices
            begin_ns = self._now_ns()
            try:
                if not indices:
                    return []
                if self._sensor is None:
                    self._sensor = self._pyrapl.Sensor()
                values = [int(value) for value in self._sensor.energy()]
                end_ns = self._now_ns()
                counts = [values[index] for index in indices]
            except Exception as error:  # it lets errors of all kinds through
                self._forget_sensor()
                reason = f"pyRAPL cannot read the counters: {type(error).__name__}: {error}"
                return [Failure(position, reason, False, self._now_ns()) for position in range(len(indices))]
        return [
            Reading(position, count, begin_ns, end_ns)
            if count >= 0
            else Failure(position, "pyRAPL gives no value", False, end_ns)
            for position, count in enumerate(counts)
        ]

    def close(self) -> None:
        """Close the sensor's files."""
        with self._lock:
            self._forget_sensor()
            self._indices = ()
            self.notes = ()

    def _forget_sensor(self) -> None:
        """Close the files of the counters, which pyRAPL leaves to the garbage collection."""
        sensor, self._sensor = self._sensor, None
        for interface in getattr(sensor, "_device_api", {}).values():
            for file in getattr(interface, "_sys_files", ()):
                file.close()

    def _domains(self) -> list[Domain]:
        zones = self._zones()
        paths = {zone.name: zone.path for zone in zones}
        _, model_name = vendor_and_model(self._cpuinfo)
        domains: list[Domain] = []
        notes = wrong_dram_unit(zones, self.name)
        for index in self._indices:
            package, device = divmod(index, len(_WORDS))
            zone = Zone("", "", _WORDS[device], package, None)
            path = paths.get(zone.name)
            wrap = None if path is None else modulus(read_number(f"{path}/max_energy_range_uj"))
            if wrap is None:
                text = f"pyrapl: {zone.name} does not say where it wraps"
                notes.append(f"{text}; energy around a wrap is lost as a reset")
            domains.append(
                rapl_domain(
                    zone,
                    zone.name,
                    self.name,
                    joules_per_count=JOULES_PER_MICROJOULE,
                    wrap=wrap,
                    model_name=model_name,
                )
            )
        self.notes = tuple(notes)
        return domains

    def _zones(self) -> list[Zone]:
        """Return the zones of the folder that pyRAPL reads."""
        try:
            zones, _ = identify(zone_folders(self._root), [])
        except (OSError, ValueError):
            return []
        return [zone for zone in zones if not zone.label.startswith(TWIN_PREFIX)]


@contextmanager
def _quietly() -> Iterator[None]:
    """Import without a trace: pyRAPL warns through the root logger, which would get a handler for ever."""
    root = logging.getLogger()
    quiet = logging.NullHandler()

    def is_not_of_pyrapl(record: logging.LogRecord) -> bool:
        return "pyRAPL" not in record.pathname

    root.addHandler(quiet)
    root.addFilter(is_not_of_pyrapl)
    try:
        with warnings.catch_warnings():
            # Its regular expressions are no raw strings, which Python warns of.
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_not_of_pyrapl)
        root.removeHandler(quiet)
