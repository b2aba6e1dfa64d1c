"""CUDA_VISIBLE_DEVICES, entry by entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmeter.backends.visible_devices import Board, Visible, visible_boards

# The UUIDs of a machine on which PyTorch compared its parser with driver 525.60.13.
UUIDS = (
    "GPU-9942190a-aa31-4ff1-4aa9-c388d80f85f1",
    "GPU-9e8d35e3-a134-0fdd-0e01-23811fdbd293",
    "GPU-e429a63e-c61c-4795-b757-5132caeb8e70",
    "GPU-eee1dfbc-0a0f-6ad8-5ff6-dc942a8b9d98",
)
BOARDS = tuple(Board(index=index, uuid=uuid, model_name="A100") for index, uuid in enumerate(UUIDS))
MIXED = tuple(
    Board(index=index, uuid=uuid, model_name=model)
    for index, (uuid, model) in enumerate(zip(UUIDS[:2], ("RTX 4090", "RTX 2060"), strict=True))
)
MIG_BOARDS = (
    Board(
        index=0,
        uuid=UUIDS[0],
        model_name="A100",
        in_mig_mode=True,
        slices=(
            ("MIG-11111111-aaaa", f"MIG-{UUIDS[0]}/1/0"),
            ("MIG-11112222-bbbb", f"MIG-{UUIDS[0]}/1/1"),
            ("MIG-33333333-cccc", f"MIG-{UUIDS[0]}/1/12"),
        ),
    ),
    Board(index=1, uuid=UUIDS[1], model_name="A100", in_mig_mode=True, slices=(("MIG-44444444-dddd",),)),
)


def seen(visible_devices: str | None, boards: tuple[Board, ...] = BOARDS) -> list[int]:
    """Return the NVML indices of the visible boards."""
    return [board.index for board in visible_boards(boards, visible_devices=visible_devices).boards]


def test_variable_not_set_shows_every_gpu() -> None:
    """Without CUDA_VISIBLE_DEVICES every GPU is visible, and nothing needs saying."""
    assert visible_boards(BOARDS, visible_devices=None) == Visible(boards=BOARDS)


@pytest.mark.parametrize("value", ["", "-1", " ", ",", "NoDevFiles", "none", "all", "GPU", "-1,0"])
def test_value_that_starts_with_nothing_valid_shows_no_gpu(value: str) -> None:
    """An empty value, -1, or words (Slurm writes NoDevFiles) hide every GPU."""
    assert seen(value) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", [0]),
        ("3", [3]),
        ("2,1", [1, 2]),
        ("0,1,2,3", [0, 1, 2, 3]),
        ("0, 1", [0, 1]),
        ("+1", [1]),
        ("002", [2]),
    ],
)
def test_indices_show_the_gpus_they_count(value: str, expected: list[int]) -> None:
    """A list of indices shows exactly those GPUs, each once, in the machine's order."""
    assert seen(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # The example of the CUDA Programming Guide.
        ("0,2,-1,1", [0, 2]),
        ("0,4,1", [0]),
        ("3,2,two,one", [2, 3]),
        ("1,,2", [1]),
        ("1,", [1]),
        ("0,99999999999999999999999,1", [0]),
        ("0," + "1" * 5_000, [0]),
    ],
)
def test_first_invalid_entry_ends_the_list(value: str, expected: list[int]) -> None:
    """What precedes the first invalid entry is visible; what follows it is not."""
    assert seen(value) == expected


def test_letters_after_an_index_do_not_matter() -> None:
    """CUDA reads indices like strtoul: "1gpu2,2ampere" is 1 and 2."""
    assert seen("1gpu2,2ampere") == [1, 2]


@pytest.mark.parametrize(
    "value", ["\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT ONE}", "\N{NO-BREAK SPACE}1"]
)
def test_digits_and_spaces_beyond_ascii_are_no_index(value: str) -> None:
    """The C function strtoul knows neither digits of other scripts nor a no-break space."""
    assert seen(value) == []


def test_full_uuid_shows_its_gpu() -> None:
    """A full UUID, as printed by `nvidia-smi -L`, shows that GPU."""
    assert seen(f"{UUIDS[3]},{UUIDS[1]}") == [1, 3]


def test_abbreviated_uuid_shows_the_only_gpu_that_begins_so() -> None:
    """The beginning of a UUID is enough if no other GPU shares it."""
    assert seen("GPU-e4,GPU-9e8d35e3") == [1, 2]


def test_ambiguous_abbreviation_ends_the_list() -> None:
    """An abbreviation that fits two GPUs is invalid, so the list ends before it."""
    assert seen("GPU-9e8d35e3,GPU-e,GPU-99") == [1]


def test_unknown_uuid_ends_the_list() -> None:
    """A UUID of no GPU here is invalid, so the list ends before it."""
    assert seen("GPU-9e8d35e3,GPU-123,GPU-99") == [1]


def test_lone_prefix_on_a_machine_with_one_gpu_is_unique() -> None:
    """`GPU-` begins every UUID, so it means the GPU of a machine that has only one."""
    assert seen("GPU-", BOARDS[:1]) == [0]


def test_board_without_uuid_is_not_found_by_one() -> None:
    """A GPU that could not be asked for its UUID is never what an abbreviation means."""
    assert seen("GPU-9", (Board(index=0, uuid=""), BOARDS[0])) == [0]


@pytest.mark.parametrize("value", ["GPU-9e8d35e3,2", "GPU-9e8d35e3,MIG-1", "GPU-9e8d35e3, GPU-99"])
def test_list_of_uuids_ends_at_an_entry_of_another_form(value: str) -> None:
    """In a list of UUIDs an index, a MIG id or a UUID after a space is invalid."""
    assert seen(value) == [1]


def test_list_of_indices_ends_at_a_uuid() -> None:
    """In a list of indices a UUID is invalid."""
    assert seen(f"0,{UUIDS[1]},2") == [0]


@pytest.mark.parametrize("value", ["0,1,0", "1,+1", "GPU-9e8d35e3,GPU-e4,GPU-9e8"])
def test_repeated_gpu_hides_all(value: str) -> None:
    """A GPU named twice, also in two spellings, leaves CUDA without any GPU."""
    assert seen(value) == []


def test_repetition_after_the_end_of_the_list_is_not_looked_at() -> None:
    """Behind an invalid entry nothing counts, a repetition neither."""
    assert seen("0,-1,0") == [0]


@pytest.mark.parametrize("value", ["MIG-33333333-cccc", "MIG-3", f"MIG-{UUIDS[0]}/1/0"])
def test_mig_id_shows_the_board_of_the_slice(value: str) -> None:
    """A MIG UUID, its unique beginning, or the older board/instance form mean the parent board."""
    assert seen(value, MIG_BOARDS) == [0]


def test_two_slices_of_a_board_show_it_once() -> None:
    """Two slices of one board are no repetition, and the board is metered once."""
    assert seen("MIG-11111111-aaaa,MIG-11112222-bbbb,MIG-4", MIG_BOARDS) == [0, 1]


def test_exact_mig_id_wins_over_a_longer_one() -> None:
    """`.../1/1` is instance 1, although `.../1/12` begins alike."""
    notes = visible_boards(MIG_BOARDS, visible_devices=f"MIG-{UUIDS[0]}/1/1").notes
    assert notes == (f"MIG-{UUIDS[0]}/1/1 is a slice of gpu-0",)


@pytest.mark.parametrize("value", ["MIG-1111", "MIG-9", f"MIG-{UUIDS[0]}/7/0", "mig-33333333-cccc"])
def test_unknown_or_ambiguous_mig_id_shows_no_gpu(value: str) -> None:
    """A MIG id that fits no slice or several is invalid."""
    assert seen(value, MIG_BOARDS) == []


def test_same_slice_in_both_spellings_hides_all() -> None:
    """The two ids of one slice are a repetition."""
    assert seen(f"MIG-11111111-aaaa,MIG-{UUIDS[0]}/1/0", MIG_BOARDS) == []


def test_uuid_of_a_board_in_mig_mode_shows_the_board() -> None:
    """A GPU- id works for a divided board too."""
    assert seen("GPU-99", MIG_BOARDS) == [0]


def test_indices_into_different_models_are_not_trusted() -> None:
    """CUDA numbers the fastest GPU 0 and NVML cannot tell which that is: all are metered, with a note."""
    visible = visible_boards(MIXED, visible_devices="0")
    assert visible.boards == MIXED
    (note,) = visible.notes
    assert "fastest first" in note
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in note


def test_pci_order_makes_indices_trusted() -> None:
    """With CUDA_DEVICE_ORDER=PCI_BUS_ID an index is a place in the order of PCI addresses."""
    visible = visible_boards(MIXED, visible_devices="1", device_order="PCI_BUS_ID")
    assert visible == Visible(boards=(MIXED[1],))


def test_fastest_first_said_aloud_is_not_trusted_either() -> None:
    """CUDA_DEVICE_ORDER=FASTEST_FIRST is the default in words."""
    assert visible_boards(MIXED, visible_devices="1", device_order="FASTEST_FIRST").boards == MIXED


def test_indices_of_all_gpus_need_no_order() -> None:
    """A list that names every index shows every GPU, whatever the order."""
    assert visible_boards(MIXED, visible_devices="1,0") == Visible(boards=MIXED)


def test_uuids_need_no_order() -> None:
    """UUIDs are right on a machine with different GPUs."""
    assert visible_boards(MIXED, visible_devices="GPU-9e8d") == Visible(boards=(MIXED[1],))


def test_no_gpu_needs_no_order() -> None:
    """An empty list hides all GPUs of a mixed machine too."""
    assert visible_boards(MIXED, visible_devices="-1") == Visible(boards=())


def test_boards_without_a_model_name_are_not_taken_for_one_model() -> None:
    """Two unnamed GPUs may differ, so their order is not trusted."""
    unnamed = tuple(Board(index=index, uuid=uuid) for index, uuid in enumerate(UUIDS[:2]))
    assert visible_boards(unnamed, visible_devices="0").boards == unnamed


def test_ignored_entry_is_told() -> None:
    """A typing mistake that hides GPUs is worth a note."""
    (note,) = visible_boards(BOARDS, visible_devices="0,7,1").notes
    assert "'7' means no GPU here" in note


def test_repetition_is_told() -> None:
    """A repetition, which hides all GPUs, is worth a note."""
    (note,) = visible_boards(BOARDS, visible_devices="1,1").notes
    assert "'1' repeats a GPU" in note


@pytest.mark.parametrize("value", ["", "-1", "0,-1,1", "0,"])
def test_list_ended_on_purpose_needs_no_note(value: str) -> None:
    """An empty entry and -1 are how people end a list."""
    assert visible_boards(BOARDS, visible_devices=value).notes == ()


ENTRIES = st.one_of(
    st.integers(-3, 9).map(str),
    st.sampled_from([*UUIDS, *(uuid[:9] for uuid in UUIDS), "GPU-", "GPU-9"]),
    st.sampled_from(["MIG-", "MIG-1111", "MIG-11111111-aaaa", f"MIG-{UUIDS[0]}/1/0"]),
    st.text(max_size=8),
)
LISTS = st.one_of(st.text(), st.lists(ENTRIES, max_size=6).map(",".join))
MACHINES = st.sampled_from([(), BOARDS[:1], BOARDS, MIXED, MIG_BOARDS])
ORDERS = st.sampled_from([None, "PCI_BUS_ID", "FASTEST_FIRST"])


@given(value=LISTS, boards=MACHINES, order=ORDERS)
def test_any_value_shows_some_of_the_boards_each_once(
    value: str, boards: tuple[Board, ...], order: str | None
) -> None:
    """No value raises, invents a GPU, shows one twice or changes the order."""
    shown = visible_boards(boards, visible_devices=value, device_order=order).boards
    assert list(shown) == [board for board in boards if board in shown]


@given(value=LISTS, rest=LISTS)
def test_nothing_after_a_negative_index_matters(value: str, rest: str) -> None:
    """Whatever follows -1 changes nothing, a repetition included."""
    assert seen(f"{value},-1,{rest}") == seen(f"{value},-1")


@given(order=st.permutations(range(len(BOARDS))), count=st.integers(0, len(BOARDS)))
def test_indices_and_uuids_of_the_same_gpus_show_the_same(order: list[int], count: int) -> None:
    """On a machine with one model an index and the UUID of that GPU are the same thing."""
    indices = ",".join(str(index) for index in order[:count])
    uuids = ",".join(UUIDS[index] for index in order[:count])
    assert seen(indices) == seen(uuids) == sorted(order[:count])
