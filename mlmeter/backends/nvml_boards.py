"""Who the GPUs are: what NVML tells of each, and which of them the program uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmeter.backends.framework_devices import devices_in_use
from mlmeter.backends.nvml_errors import LOOK_REMEDY, NO_PERMISSION, PERMISSION_REMEDY, code_of, words_of
from mlmeter.backends.visible_devices import Board, Visible, boards_in_use, visible_boards
from mlmeter.measurement import Unavailable

# NVML_GPU_VIRTUALIZATION_MODE_VGPU: a part of a board that a hypervisor gives to this machine.
_VIRTUAL = 2
# Words in the names of GPUs that share a chip with the CPU: NVML starts there and knows nothing.
_JETSON_WORDS = ("tegra", "xavier", "orin", "thor", "nvgpu")


@dataclass(slots=True, eq=False)
class Gpu:
    """A GPU that NVML lists; `handle` is None if it did not answer.

    Attributes:
        board: who it is.
        handle: NVML's.
        virtual: it is a vGPU.
        errors: what was met when it was asked for its energy and power.
    """

    board: Board
    handle: Any
    virtual: bool = False
    errors: list[Exception] = field(default_factory=list)

    def __str__(self) -> str:
        model = f"{self.board.model_name}, " if self.board.model_name else ""
        return f"gpu-{self.board.index} ({model}{self.board.uuid or 'no UUID'})"


def listed_gpus(nvml: Any) -> list[Gpu]:
    """Return all GPUs of the machine, by PCI address if all tell it: NVML promises no order."""
    gpus = [_look_at(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    if all(gpu.board.pci_address is not None for gpu in gpus):
        gpus.sort(key=lambda gpu: gpu.board.pci_address or (0, 0, 0))
    return gpus


def _look_at(nvml: Any, index: int) -> Gpu:
    """Ask a GPU who it is; one that does not answer is kept, with its problem."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
    except Exception as error:
        return Gpu(Board(index=index, uuid=""), None, errors=[error])
    in_mig_mode = answer(lambda: nvml.nvmlDeviceGetMigMode(handle)[0]) == 1
    pci = answer(lambda: nvml.nvmlDeviceGetPciInfo(handle))
    board = Board(
        index=index,
        uuid=uuid,
        model_name=answer(lambda: str(nvml.nvmlDeviceGetName(handle))),
        pci_address=None if pci is None else (int(pci.domain), int(pci.bus), int(pci.device)),
        in_mig_mode=in_mig_mode,
        slices=_slices(nvml, handle, uuid) if in_mig_mode else (),
    )
    virtual = answer(lambda: int(nvml.nvmlDeviceGetVirtualizationMode(handle))) == _VIRTUAL
    return Gpu(board, handle, virtual)


def _slices(nvml: Any, handle: Any, uuid: str) -> tuple[tuple[str, ...], ...]:
    """Return the ids of a board's MIG slices, in both spellings."""
    found: list[tuple[str, ...]] = []
    for number in range(answer(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0):
        # Places without a slice answer "Not Found".
        with contextlib.suppress(Exception):
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            ids = [str(nvml.nvmlDeviceGetUUID(part))]
            with contextlib.suppress(Exception):
                instances = nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part)
                ids.append(f"MIG-{uuid}/{instances[0]}/{instances[1]}")
            found.append(tuple(ids))
    return tuple(found)


def visible_gpus(boards: Sequence[Board], visible_devices: str | None) -> tuple[Visible, str | None]:
    """Return the boards that the program uses, and the value of CUDA_VISIBLE_DEVICES that was applied.

    What a framework that is at work says is trusted most; it tells UUIDs, which need no order.

    Args:
        boards: every board of the machine, in the order of their PCI addresses.
        visible_devices: used in place of all that the program and its environment say; None for those.
    """
    if visible_devices is None:
        asked = boards_in_use(boards, devices_in_use())
        if asked is not None:
            return asked, None
        visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    device_order = os.environ.get("CUDA_DEVICE_ORDER")
    found = visible_boards(boards, visible_devices=visible_devices, device_order=device_order)
    return found, visible_devices


def unreadable_gpu(gpu: Gpu, source: str) -> Unavailable:
    """Say why a GPU is not metered."""
    reasons = ", ".join(dict.fromkeys(words_of(error) for error in gpu.errors))
    name = (gpu.board.model_name or "").lower()
    remedy, what = f"{LOOK_REMEDY}: nvidia-smi -q -d POWER shows what the GPU reports", ""
    if any(code_of(error) == NO_PERMISSION for error in gpu.errors):
        remedy = PERMISSION_REMEDY
    elif gpu.virtual:
        what = "; it is a virtual GPU (vGPU)"
        remedy = "Meter on the host of this virtual machine: only there the board can be read"
    elif any(word in name for word in _JETSON_WORDS):
        what = "; a Jetson has no power sensor that NVML could read"
        remedy = "A Jetson has sensors of its own (INA3221 below /sys/class/hwmon): meter those"
    reason = f"{gpu} gives neither energy nor power ({reasons}){what}"
    return Unavailable(source=source, kinds=("gpu",), reason=reason, remedy=remedy)


def answer(question: Callable[[], Any]) -> Any:
    """Return what an optional NVML call gives; None if driver, GPU or bindings do not know it."""
    try:
        return question()
    # Old bindings lack functions (AttributeError), old drivers too; garbled names do not decode.
    except Exception:
        return None
