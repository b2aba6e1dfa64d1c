"""Rails of Jetson modules, read from frozen trees of JetPack 4 (iio) and 5 (hwmon)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlmeter.backends.jetson import JetsonBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from mlmeter.testing import check_backend


def hwmon_chip(root: Path, number: int, chip: str, **rails: tuple[int, int]) -> Path:
    """Make an INA3221 with rails of (millivolts, milliamperes)."""
    folder = root / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{chip}\n")
    for channel, (rail, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        (folder / f"in{channel}_label").write_text(f"{rail}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    return folder


def backend_of(root: Path) -> JetsonBackend:
    (root / "compatible").write_bytes(b"nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0")
    return JetsonBackend(
        compatible_file=root / "compatible", hwmon_root=root / "hwmon", iio_root=root / "iio"
    )


def test_orin_rails(tmp_path: Path) -> None:
    """Volts x amperes of each rail; GPU and CPU are added, the module is not, the rest is inside it."""
    hwmon_chip(
        tmp_path, 3, "ina3221", VDD_IN=(19_000, 1_500), VDD_GPU_SOC=(19_000, 500), VDD_CPU_CV=(19_000, 200)
    )
    hwmon_chip(tmp_path, 4, "ina3221", VIN_SYS_5V0=(5_000, 800), NC=(0, 0), VDDQ_VDD2_1V8AO=(5_000, 100))
    backend = backend_of(tmp_path)
    domains = {domain.name: domain for domain in backend.open()}
    assert {name: domain.kind for name, domain in domains.items()} == {
        "VDD_IN": "machine",
        "VDD_GPU_SOC": "gpu",
        "VDD_CPU_CV": "cpu",
        "VDDQ_VDD2_1V8AO": "dram",
        "VIN_SYS_5V0": "other",
    }
    assert {name for name, domain in domains.items() if domain.counted} == {
        "VDD_GPU_SOC",
        "VDD_CPU_CV",
        "VDDQ_VDD2_1V8AO",
    }
    assert domains["VIN_SYS_5V0"].parent == "VDD_IN"
    watts = {
        name: item.value * domain.watts_per_count
        for (name, domain), item in zip(domains.items(), backend.read(), strict=True)
        if isinstance(item, Reading) and domain.watts_per_count is not None
    }
    assert watts["VDD_IN"] == pytest.approx(28.5)
    assert watts["VDD_CPU_CV"] == pytest.approx(3.8)
    check_backend(backend)


def test_iio_tree_of_the_nano(tmp_path: Path) -> None:
    """JetPack 4 names rails in rail_name_N; a rail of all is POM_5V_IN."""
    folder = tmp_path / "iio" / "iio:device0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221x\n")
    for channel, (rail, milliamperes) in enumerate(
        {"POM_5V_IN": 600, "POM_5V_GPU": 40, "POM_5V_CPU": 100}.items()
    ):
        (folder / f"rail_name_{channel}").write_text(f"{rail}\n")
        (folder / f"in_voltage{channel}_input").write_text("5000\n")
        (folder / f"in_current{channel}_input").write_text(f"{milliamperes}\n")
    backend = backend_of(tmp_path)
    assert [(domain.name, domain.kind) for domain in backend.open()] == [
        ("POM_5V_IN", "machine"),
        ("POM_5V_CPU", "cpu"),
        ("POM_5V_GPU", "gpu"),
    ]
    assert [item.value for item in backend.read() if isinstance(item, Reading)] == [
        3_000_000,
        500_000,
        200_000,
    ]


def test_carrier_board_contains_the_module(tmp_path: Path) -> None:
    """Two meters of the whole are not two wholes: VIN holds VDD_IN."""
    hwmon_chip(tmp_path, 0, "ina3221", VDD_IN=(12_000, 2_000))
    board = hwmon_chip(tmp_path, 1, "ina238")
    (board / "power1_input").write_text("31000000\n")
    backend = backend_of(tmp_path)
    assert [(domain.name, domain.parent) for domain in backend.open()] == [("VIN", None), ("VDD_IN", "VIN")]
    assert [item.value for item in backend.read() if isinstance(item, Reading)] == [31_000_000, 24_000_000]


def test_rail_that_fails_does_not_disturb_the_others(tmp_path: Path) -> None:
    """A chip that does not answer on its bus gives an input/output error, here an empty file."""
    folder = hwmon_chip(tmp_path, 0, "ina3221", VDD_IN=(5_000, 100), VDD_GPU=(5_000, 100))
    backend = backend_of(tmp_path)
    backend.open()
    (folder / "curr1_input").write_text("")
    whole, gpu = backend.read()
    assert isinstance(whole, Failure)
    assert isinstance(gpu, Reading)


def test_current_that_flows_back_is_no_negative_power(tmp_path: Path) -> None:
    """An idle rail may show -1 mA."""
    hwmon_chip(tmp_path, 0, "ina3221", VDD_GPU=(5_000, -1))
    backend = backend_of(tmp_path)
    backend.open()
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == 0


def test_no_driver_has_a_remedy(tmp_path: Path) -> None:
    """A Jetson without rails lacks a driver."""
    with pytest.raises(BackendUnavailableError, match="no power monitor") as caught:
        backend_of(tmp_path).open()
    assert "modprobe" in caught.value.remedy


def test_other_machines_with_such_a_chip_are_no_jetson(tmp_path: Path) -> None:
    """What a rail of an unknown board feeds is not known."""
    hwmon_chip(tmp_path, 0, "ina3221", VDD_GPU=(5_000, 1))
    backend = JetsonBackend(compatible_file=tmp_path / "none", hwmon_root=tmp_path / "hwmon")
    with pytest.raises(BackendUnavailableError, match="no NVIDIA Jetson"):
        backend.open()
