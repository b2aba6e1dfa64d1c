"""A fake of the module `amdsmi`: the functions that the backend calls, with the keys and errors of 7.0.2."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

NO_PERMISSION, NOT_SUPPORTED, NOT_FOUND = 10, 2, 31


class AmdSmiLibraryException(Exception):  # noqa: N818  the library's own name
    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = err_code
        self.err_info = f"AMDSMI_STATUS_{err_code}"


@dataclass
class FakeBoard:
    """One processor handle; a value of None is answered with NOT_SUPPORTED."""

    bdf: str = "0000:03:00.0"
    energy: int | None = 1_000_000
    resolution: float = 15.259
    energy_key: str = "energy_accumulator"
    power: dict[str, Any] | None = field(
        default_factory=lambda: {"current_socket_power": "N/A", "average_socket_power": 120}
    )
    power_cap: int = 300_000_000
    vram_type: int = 22
    name: str = "AMD Radeon RX 7900 XTX"
    error: Exception | None = None


class FakeAmdSmi(types.ModuleType):
    """Stands in `sys.modules` for the bindings."""

    def __init__(self, *boards: FakeBoard) -> None:
        super().__init__("amdsmi")
        self.boards = list(boards)
        self.init_error: Exception | None = None
        self.sessions = 0
        self.calls: list[str] = []

    def amdsmi_init(self) -> None:
        if self.init_error is not None:
            raise self.init_error
        self.sessions += 1

    def amdsmi_shut_down(self) -> None:
        self.sessions -= 1

    def amdsmi_get_processor_handles(self) -> list[FakeBoard]:
        return self.boards

    def amdsmi_get_gpu_device_bdf(self, board: FakeBoard) -> str:
        return board.bdf

    def amdsmi_get_gpu_device_uuid(self, board: FakeBoard) -> str:
        return f"uuid-of-{board.bdf}"

    def amdsmi_get_gpu_asic_info(self, board: FakeBoard) -> dict[str, Any]:
        return {"market_name": board.name}

    def amdsmi_get_gpu_vram_info(self, board: FakeBoard) -> dict[str, Any]:
        return {"vram_type": board.vram_type}

    def amdsmi_get_power_cap_info(self, board: FakeBoard) -> dict[str, Any]:
        return {"power_cap": board.power_cap}

    def amdsmi_get_energy_count(self, board: FakeBoard) -> dict[str, Any]:
        self.calls.append("energy")
        if board.error is not None:
            raise board.error
        if board.energy is None:
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        return {board.energy_key: board.energy, "counter_resolution": board.resolution, "timestamp": 1}

    def amdsmi_get_power_info(self, board: FakeBoard) -> dict[str, Any]:
        self.calls.append("power")
        if board.error is not None:
            raise board.error
        if board.power is None:
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        return board.power
