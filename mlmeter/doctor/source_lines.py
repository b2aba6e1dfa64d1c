"""Sources on the page of doctor: in full what a session looks for, in a line what is not on this machine."""

from __future__ import annotations

import textwrap
from typing import Any

from mlmeter.foreign_files import visible

WIDTH = 80
# Of these two ways to the same counters say the same.
SAME_STATUSES = ("not found", "stands still")
# Advice on these kinds is on these sources; others bring their own.
KIND = {"rapl": "cpu", "perf_rapl": "cpu", "nvml": "gpu"}


def sources_text(diagnosis: dict[str, Any], *, everything: bool) -> str:
    """Return the sources with reasons and remedies.

    Args:
        diagnosis: what `diagnose` found.
        everything: whether each source has lines of its own.
    """
    sources = {facts["source"]: facts for facts in diagnosis["sources"]}
    lines, absent, named = ["Sources"], [], []
    for name, facts in sources.items():
        first = sources.get(facts["second_to"] or "")
        if everything:
            lines += _block(name, facts, diagnosis, everything=True)
        elif not facts["default"]:
            named.append(name)
        elif facts["special"] and facts["status"] == "not found" and not facts["remedy"]:
            absent.append(name)
        elif first is not None and _is_repeated(facts, first):
            continue  # told with the first
        elif first is not None and first["status"] == "works" and facts["status"] != "works":
            lines.append(wrap(f"{name}: {facts['status']}, and not needed: {first['source']} works", "  "))
        else:
            seconds = [
                other["source"]
                for other in sources.values()
                if other["second_to"] == name and _is_repeated(other, facts)
            ]
            lines += _block(", ".join((name, *seconds)), facts, diagnosis, everything=False)
    if absent:
        lines.append(wrap(f"not on this machine: {', '.join(absent)}", "  "))
    if named:
        lines.append(wrap(f"only when named: {', '.join(named)}", "  "))
        lines.append("    docs: reference/backends; tried by: mlmeter doctor --all")
    return "\n".join(lines)


def _is_repeated(second: dict[str, Any], first: dict[str, Any]) -> bool:
    return second["status"] == first["status"] and second["status"] in SAME_STATUSES


def _block(title: str, facts: dict[str, Any], diagnosis: dict[str, Any], *, everything: bool) -> list[str]:
    """Return the lines of one source; what advice at the end says better is not said twice."""
    use = ", used" if facts["used"] else f", checks {facts['checks']}" if facts["checks"] else ""
    lines = [wrap(f"{title}: {facts['status']}{use}", "  ")]
    for item in diagnosis["unavailable"]:
        if item["source"] != facts["source"]:
            continue
        lines.append(wrap(item["reason"], "    "))
        position = None if everything else _advice_for(item["source"], diagnosis["advice"])
        if position is not None:
            lines.append(f"    -> see {position} at the end")
        elif item["remedy"]:
            lines.append(wrap(f"-> {item['remedy']}", "    "))
    return lines


def _advice_for(source: str, advice: list[dict[str, Any]]) -> int | None:
    """Return the number of the advice that stands for the remedy of a source."""
    for number, item in enumerate(advice, 1):
        of_package = item["name"].startswith("package-")
        if item["name"] == f"package-{source}" or (not of_package and KIND.get(source) in item["kinds"]):
            return number
    return None


def wrap(text: str, indent: str = "") -> str:
    """Return a paragraph whose lines after the first stand two columns further in."""
    return textwrap.fill(
        visible(text.replace("\n", " ")),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        # Paths have hyphens; only one that is longer than a line is broken.
        break_on_hyphens=False,
    )
