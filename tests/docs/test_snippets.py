"""Every Python block of README.md and docs/ runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import mlmeter

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TIMEOUT_SECONDS = 120

# Blocks that are not run, by page and number of the block: every one needs a reason in the page too.
NOT_RUN = {"docs/tutorials/first-run.md 1", "docs/how-to/gate-energy-in-ci.md 1"}

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
NO_TEST = re.compile(r"<!-- no-test: (?P<reason>.+) -->")


class Block(NamedTuple):
    """A Python block; `line` is the page's line of its first statement, from 1."""

    number: int
    line: int
    text: str
    reason: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the Python blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    opening = None
    number = 0
    for position, line in enumerate(lines):
        fence = FENCE.match(line)
        if opening is not None:
            if fence is not None and not fence["language"]:
                start, language, indent = opening
                opening = None
                if language == "python":
                    number += 1
                    mark = NO_TEST.search(lines[start - 1]) if start else None
                    text = "\n".join(line.removeprefix(indent) for line in lines[start + 1 : position])
                    yield Block(number, start + 2, text, mark["reason"] if mark else None)
        elif fence is not None:
            opening = position, fence["language"], fence["indent"]


def title(page: Path) -> str:
    """Return the page's name as in `NOT_RUN`."""
    return page.relative_to(ROOT).as_posix()


def script_of(page: Path) -> str:
    """Return the blocks as one script in which every statement has the line number of its page."""
    script = ""
    for block in blocks_of(page):
        if block.reason is None:
            script += "\n" * (block.line - 1 - script.count("\n")) + block.text + "\n"
    return script


@pytest.mark.parametrize("page", [page for page in PAGES if script_of(page)], ids=title)
def test_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """A reader who types the blocks of a page in order sees no error."""
    script = tmp_path / f"{page.stem}.py"
    script.write_text(script_of(page), encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    environment = {
        **os.environ,
        # The package that the tests import: this checkout's or an installed one.
        "PYTHONPATH": str(Path(mlmeter.__file__).parents[1]),
        # Small matrices on many threads wait for each other more than they compute.
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("MLMETER_OUTPUT_DIR", None)
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{title(page)}, line numbers are the page's:\n{result.stderr}"


def test_only_listed_blocks_are_not_run() -> None:
    """A block is left out only with a reason, and here."""
    left_out = {
        f"{title(page)} {block.number}"
        for page in PAGES
        for block in blocks_of(page)
        if block.reason is not None
    }
    assert left_out == NOT_RUN


def test_no_page_names_an_output_that_was_not_filled_in() -> None:
    """Printed output was printed: no placeholder is left in a text block."""
    for page in PAGES:
        assert not re.search(r"^(OUTPUT \d+|DOCTOR|RUN)$", page.read_text(encoding="utf-8"), re.MULTILINE), (
            page
        )
