"""mlmeter: a session for each length of window, as a program with windows of that length has."""

from collections.abc import Callable, Sequence
from typing import Any

SOURCE = {"cpu": "rapl", "gpu": "nvml"}


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Meter all blocks; final values, with their intervals."""
    from mlmeter import EnergyMeter
    from mlmeter.backends.rapl import RaplBackend

    # The made-up counter may stand still until its load begins.
    RaplBackend.look_seconds = 0.0
    sessions = []
    for block in blocks:
        with EnergyMeter("peers", phase="idle", backends=[SOURCE[kind]]) as meter:
            numbers: list[int] = []

            def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
                numbers.append(number)  # noqa: B023
                with meter.window("step", phase=phase):
                    body()

            block(enclose)
        sessions.append((numbers, meter))
    windows: dict[int, dict[str, Any]] = {}
    phases = []
    for numbers, meter in sessions:
        session = meter.session
        table = session.windows()
        chosen = (table["kind"] == kind) & (table["scope"] == "exclusive") & (table["name"] == "step")
        table = table[chosen].sort_values("start_seconds")
        for number, (_, row) in zip(numbers, table.iterrows(), strict=True):
            windows[number] = _energy(row)
        table = session.phases()
        sums = {row["phase"]: _energy(row) for _, row in table[table["kind"] == kind].iterrows()}
        phases.append({"windows": numbers, "sums": sums})
    return {"windows": windows, "phases": phases[1:]}


def _energy(row: Any) -> dict[str, Any]:
    names = ("energy_joules", "low_joules", "high_joules")
    joules, low, high = (None if row[name] != row[name] else float(row[name]) for name in names)
    unknown = not bool(row["resolved"])
    return {"joules": joules, "low": low, "high": high, "unknown": unknown, "method": row["method"]}
