"""Zeus with the option that its warning recommends: power times duration where it read 0 J."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Meter all blocks."""
    spec = importlib.util.spec_from_file_location("driver_zeus", Path(__file__).with_name("zeus.py"))
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    result: dict[str, Any] = driver.run(kind, blocks, output, instant=True)
    return result
