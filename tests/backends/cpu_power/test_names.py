"""Names of processors: spellings of one model share a key, different models never do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.backends.cpu_power.names import generation, is_client, model_key
from mlmeter.backends.cpu_power.tables import processors


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Intel(R) Xeon(R) CPU E5-2650 v2 @ 2.60GHz", "xeone52650v2"),
        ("Intel(R) Xeon(R) CPU E5-2670 0 @ 2.60GHz", "xeone52670"),
        ("Intel Xeon E5 2650 V2", "xeone52650v2"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon8480+"),
        ("Intel(R) Xeon(R) Platinum 8480C", "xeon8480c"),
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", "xeon6148"),
        ("Intel Xeon Platinum 8280 @ 2.70GHz (Intel Turbo Boost Technology up to 4.00 GHz)", "xeon8280"),
        ("Intel Xeon Platinum 8280, 2.70 GHz", "xeon8280"),
        ("Intel(R) Xeon(R) 6787P,", "xeon6787p"),
        ("Intel(R) Xeon(R) CPU Max 9468", "xeon9468"),
        ("Intel Xeon E E-2488", "xeone2488"),
        ("Intel Xeon-D 2776NT", "xeond2776nt"),
        ("Intel E3-1260L v5", "xeone31260lv5"),
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", "corei78700k"),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "corei71165g7"),
        ("Intel(R) Core(TM) Ultra 9 285K", "coreultra9285k"),
        ("AMD EPYC 7763 64-Core Processor", "epyc7763"),
        ("AMD EPYC 7702 2.0Ghz", "epyc7702"),
        ("AMD EPYC 9V74 80-Core Processor", "epyc9v74"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "ryzen75800x"),
        ("AMD Ryzen 7 5700G with Radeon Graphics", "ryzen75700g"),
        ("AMD Ryzen 9 7940HS w/ Radeon 780M Graphics", "ryzen97940hs"),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", "ryzenthreadripperpro5995wx"),
        ("Quad-Core AMD Opteron(tm) Processor 8381 HE", "opteron8381he"),
        ("2.6 GHz AMD Opteron 2435", "opteron2435"),
        ("AWS Graviton3", "graviton3"),
        ("Ampere(R) Altra(R) Max Processor M128-30", "altramaxm12830"),
        ("NVIDIA Grace CPU Superchip", "gracesuperchip"),
        ("Apple M1 Max", "m1max"),
        ("Apple M1", "m1"),
    ],
)
def test_keys(name: str, key: str) -> None:
    """Trademarks, clocks, core counts, vendors and remarks are no part of a model's name."""
    assert key == model_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "AMD EPYC",
        "AMD EPYC Processor",
        "AMD EPYC-Rome Processor",
        "AMD EPYC-Milan-v2 Processor",
        "Intel Xeon Processor (Skylake, IBRS)",
        "Intel Xeon Processor (Cascadelake)",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "Intel(R) Xeon(R) Processor @ 2.70GHz",
        "QEMU Virtual CPU version 2.5+",
        "Common KVM processor",
        "Neoverse-N1",
        "\x00\ufffd\n",
    ],
)
def test_hidden_names_are_in_no_table(name: str) -> None:
    """What hypervisors show instead of a name matches no processor and no generation."""
    assert model_key(name) not in processors()
    assert generation(model_key(name)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("AMD EPYC 7763", "AMD EPYC 7763X"),
        ("Intel Xeon Platinum 8480+", "Intel Xeon Platinum 8480C"),
        ("Intel Xeon E5-2650", "Intel Xeon E5-2650 v2"),
        ("Apple M1", "Apple M1 Max"),
        ("Ampere Altra Q80-30", "Ampere Altra Max M128-30"),
        ("AMD EPYC 9654", "AMD EPYC 9654P"),
    ],
)
def test_near_names_are_different(one: str, other: str) -> None:
    """A suffix makes another processor: there is no fuzzy match."""
    assert model_key(one) != model_key(other)


def test_a_name_close_to_a_known_one_is_unknown() -> None:
    """A letter too many is an unknown name, not its neighbour's power."""
    assert model_key("AMD EPYC 7763") in processors()
    assert model_key("AMD EPYC 7763ZZ") not in processors()


@settings(deadline=None)
@given(name=st.text(max_size=80))
def test_any_text_has_a_plain_key(name: str) -> None:
    """Whatever a firmware writes, a key has small letters, digits and plus signs only."""
    key = model_key(name)
    assert all(character in "abcdefghijklmnopqrstuvwxyz0123456789+" for character in key)


@pytest.mark.parametrize("key", sorted(processors())[::37])
def test_case_and_blanks_do_not_matter(key: str) -> None:
    """A key is its own key, in capitals and with blanks around as well, if its brand tells it."""
    assert model_key(f"  {key.upper()}  ") in (key, "")


@pytest.mark.parametrize(
    ("name", "year", "sockets"),
    [
        ("AMD EPYC 7742", 2019, 2),
        ("AMD EPYC 7502P", 2019, 1),
        ("AMD EPYC 9965", 2024, 2),
        ("Intel Xeon Platinum 8175M", 2017, 2),
        ("Intel Xeon Gold 6538Y+", 2023, 2),
        ("Intel Xeon 6972P", 2024, 2),
        ("Intel Xeon 6766E", 2024, 2),
        ("Intel Xeon E5-2686 v4", 2016, 2),
        ("Intel Xeon E-2388G", 2021, 1),
    ],
)
def test_generations(name: str, year: int, sockets: int) -> None:
    """A vendor's number tells its year and how many sit in a host."""
    assert (year, sockets) == generation(model_key(name))


def test_clients() -> None:
    """Processors of desktops are told from those of servers."""
    assert is_client(model_key("Intel Core i7-8700K"))
    assert is_client(model_key("AMD Ryzen 7 5800X"))
    assert not is_client(model_key("Intel Xeon Gold 6148"))
    assert not is_client(model_key("AMD EPYC 7763"))
