"""Which GPUs a CUDA program may use: CUDA_VISIBLE_DEVICES, read as CUDA reads it.

NVML lists every GPU of the machine whatever that variable says, so the meter has to apply
it. Sources: the CUDA Programming Guide, "CUDA Environment Variables", and the rules that
PyTorch found by trial with driver 525.60.13 (pytorch/pytorch pull request 92315):

* not set: all GPUs; set to an empty string: none;
* the first entry decides what the list is made of (indices, ``GPU-`` or ``MIG-`` ids), and
  an entry of another form is invalid;
* the first invalid entry (``-1``, an index or id that does not exist, an abbreviated id that
  fits several GPUs) ends the list: what precedes it is visible, what follows is not looked at;
* an entry that repeats an earlier one, also in another spelling, hides every GPU;
* an index is read as C reads a number: white space before it and letters after it do not
  matter (``" 1gpu"`` is 1). Ids are taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlmeter.backends.framework_devices import UsedDevice

_INDEX = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
# No machine has a GPU of ten digits, and Python refuses to convert very long ones.
_LONGEST_INDEX = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One physical GPU as NVML lists it.

    Attributes:
        index: NVML's index, which names the GPU in the session (``gpu-0``).
        uuid: ``GPU-...``; empty if the board could not be asked.
        model_name: product name, or None.
        pci_address: domain, bus and device; None if the board did not tell.
        in_mig_mode: the board is divided into slices (Multi-Instance GPU).
        slices: for each slice the ids that mean it: ``MIG-<uuid>`` and the older
            ``MIG-GPU-<uuid>/<GPU instance>/<compute instance>``.
    """

    index: int
    uuid: str
    model_name: str | None = None
    pci_address: tuple[int, int, int] | None = None
    in_mig_mode: bool = False
    slices: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """The boards that the program may use, and what had to be assumed.

    Attributes:
        boards: each board once, in the order in which the boards were given.
        notes: sentences for people: entries that were ignored, an order not known.
    """

    boards: tuple[Board, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one entry of the variable means: a board, and which slice of it if it is divided."""

    board: Board
    slice_number: int | None = None


def visible_boards(
    boards: Sequence[Board], *, visible_devices: str | None, device_order: str | None = None
) -> Visible:
    """Return the boards that CUDA shows to this process.

    CUDA numbers GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID, and NVML cannot tell that
    order. Indices are therefore trusted only with that setting or if all boards are one
    model; otherwise a list of indices that leaves boards out gives all boards and a note.

    Args:
        boards: every board of the machine, in the order of their PCI addresses.
        visible_devices: value of CUDA_VISIBLE_DEVICES, None if it is not set.
        device_order: value of CUDA_DEVICE_ORDER, None if it is not set.
    """
    if visible_devices is None:
        return Visible(boards=tuple(boards))
    entries, notes = _entries(visible_devices, boards)
    chosen = tuple(board for board in boards if any(entry.board is board for entry in entries))
    by_index = _form(visible_devices) == "index"
    if by_index and chosen and not _order_is_known(boards, chosen, device_order):
        notes.append(
            f"CUDA_VISIBLE_DEVICES={visible_devices!r} counts GPUs in CUDA's order (fastest first), which "
            "NVML does not tell, and the GPUs differ: all of them are metered. Use UUIDs or set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
        chosen = tuple(boards)
    return Visible(boards=chosen, notes=tuple(notes))


def boards_in_use(boards: Sequence[Board], devices: Sequence[UsedDevice]) -> Visible | None:
    """Return the boards that a framework says it uses; None if it does not say, or names one not here.

    Args:
        boards: every board of the machine.
        devices: what the framework tells of each of its devices.
    """
    found = [_entry_of(device, boards) for device in devices]
    if not found or None in found:
        return None
    entries = [entry for entry in found if entry is not None]
    notes = [
        f"{entry.board.slices[entry.slice_number][0]} is a slice of gpu-{entry.board.index}"
        for entry in entries
        if entry.slice_number is not None
    ]
    chosen = tuple(board for board in boards if any(entry.board is board for entry in entries))
    return Visible(boards=chosen, notes=tuple(notes))


def _entry_of(device: UsedDevice, boards: Sequence[Board]) -> _Entry | None:
    """Return the board or slice of a framework's device: by UUID, else by PCI address."""
    for board in boards if device.uuid is not None else ():
        if board.uuid.lower() == f"gpu-{device.uuid}":
            return _Entry(board)
        for number, ids in enumerate(board.slices):
            if f"mig-{device.uuid}" in [known.lower() for known in ids]:
                return _Entry(board, number)
    for board in boards if device.pci_address is not None else ():
        if board.pci_address == device.pci_address:
            return _Entry(board)
    return None


def _entries(visible_devices: str, boards: Sequence[Board]) -> tuple[list[_Entry], list[str]]:
    """Return what the valid entries mean, and notes about the others."""
    variable = f"CUDA_VISIBLE_DEVICES={visible_devices!r}"
    entries: list[_Entry] = []
    notes: list[str] = []
    for text in visible_devices.split(","):
        entry = _meaning(text, boards) if _form(text) == _form(visible_devices) else None
        if entry is None:
            if not _ends_list_on_purpose(text):
                notes.append(f"{variable}: {text!r} means no GPU here; CUDA ignores it and all after it")
            break
        if entry in entries:
            return [], [f"{variable}: {text!r} repeats a GPU, and then CUDA hides all"]
        entries.append(entry)
        if entry.slice_number is not None:
            notes.append(f"{text} is a slice of gpu-{entry.board.index}")
    return entries, notes


def _form(text: str) -> str:
    """Return the kind of an entry, or of the list it begins: ``"GPU-"``, ``"MIG-"`` or ``"index"``."""
    return next((prefix for prefix in ("GPU-", "MIG-") if text.startswith(prefix)), "index")


def _meaning(text: str, boards: Sequence[Board]) -> _Entry | None:
    """Return what one entry means, or None if it is invalid."""
    if _form(text) == "GPU-":
        return _named(text, [((board.uuid,), _Entry(board)) for board in boards])
    if _form(text) == "MIG-":
        parts = [(board, number, ids) for board in boards for number, ids in enumerate(board.slices)]
        return _named(text, [(ids, _Entry(board, number)) for board, number, ids in parts])
    number = _number(text)
    return _Entry(boards[number]) if number is not None and 0 <= number < len(boards) else None


def _named(text: str, candidates: Sequence[tuple[tuple[str, ...], _Entry]]) -> _Entry | None:
    """Return the candidate with this id, or else the only one whose id begins so."""
    exact = [entry for ids, entry in candidates if text in ids]
    if exact:
        return exact[0]
    begun = [entry for ids, entry in candidates if any(known.startswith(text) for known in ids)]
    return begun[0] if len(begun) == 1 else None


def _number(text: str) -> int | None:
    """Return the number at the start of an entry, or None if there is none of sensible length."""
    match = _INDEX.match(text)
    if match is None or len(match[1]) > _LONGEST_INDEX:
        return None
    return int(match[1])


def _ends_list_on_purpose(text: str) -> bool:
    """Whether an entry that means no GPU is the usual way to say so: nothing, or a negative index."""
    number = _number(text)
    return not text.strip() or (number is not None and number < 0)


def _order_is_known(boards: Sequence[Board], chosen: Sequence[Board], device_order: str | None) -> bool:
    """Whether CUDA's indices mean the boards they were taken for."""
    same_model = boards[0].model_name is not None and len({board.model_name for board in boards}) == 1
    return same_model or device_order == "PCI_BUS_ID" or len(chosen) == len(boards)
