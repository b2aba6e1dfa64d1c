"""Files of strangers, as libFuzzer makes them up: `make fuzz`, which installs atheris.

It ends with a traceback, and the file that caused it, if one gives anything but an error of mlmeter.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mlmeter"]):
    from mlmeter import baseline
    from mlmeter.errors import MLMeterError
    from mlmeter.journal.encoding import Decoder
    from mlmeter.report.runs_file import append_run
    from mlmeter.session import load
    from tests.fuzz.journals import JOURNAL, read_all, write_run


def journal(run: Path, data: bytes) -> None:
    """Read a journal of these bytes and make everything of it."""
    (run / JOURNAL).write_bytes(data)
    read_all(run)


def batch(_: Path, data: bytes) -> None:
    """Take a batch of numbers apart."""
    try:
        Decoder({0: "qwd", 1: "q"}).take(data)
    except ValueError:
        return


def stored_baseline(run: Path, data: bytes) -> None:
    """Read a baseline."""
    path = run / "baseline.json"
    path.write_bytes(data)
    try:
        baseline.read(path).powers()
    except MLMeterError:
        return


def runs_file(run: Path, data: bytes) -> None:
    """Append a row to a file of these bytes; it still begins as it did, or has a wider header."""
    path = run / "runs.csv"
    path.write_bytes(data)
    try:
        append_run(RECORDING, path)
    except MLMeterError:
        assert path.read_bytes() == data
    else:
        assert RECORDING.run.id.encode() in path.read_bytes()


TARGETS: tuple[Callable[[Path, bytes], None], ...] = (journal, batch, stored_baseline, runs_file)
FOLDER = Path(tempfile.mkdtemp(prefix="mlmeter-fuzz-"))
GOOD = write_run(FOLDER / "good")
RECORDING = load(GOOD).recording


def one_input(data: bytes) -> None:
    """Feed one target: the first byte says which."""
    work = FOLDER / "work"
    work.mkdir(exist_ok=True)
    if data:
        TARGETS[data[0] % len(TARGETS)](work, data[1:])


def main() -> None:
    """Begin with good files of each kind."""
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    (corpus / "journal").write_bytes(b"\0" + (GOOD / JOURNAL).read_bytes())
    (corpus / "runs").write_bytes(b"\3session,note\nold,mine\n")
    (corpus / "baseline").write_bytes(b'\2{"schema_version": 1, "mlmeter": "0.1.0"}')
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[1:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
