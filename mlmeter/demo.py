"""The demo: train and serve a digit classifier, metered with whatever this machine has.

The data are the 1,797 real handwritten digits that scikit-learn ships (UCI Optical
Recognition of Handwritten Digits); the model is a small neural network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmeter.analysis.lifecycle_text import servings_table
from mlmeter.errors import ArgumentError, MLMeterError
from mlmeter.measurement import Energy, Provenance
from mlmeter.meter import EnergyMeter
from mlmeter.report.text import path_text, percent
from mlmeter.session import Session

EPOCHS = 150
HIDDEN_UNITS = (256, 128)
TRAINING_BATCH = 32
SERVING_BATCH = 64
ONE_BY_ONE_ROUNDS = 40
BATCH_ROUNDS = 2_000
TEST_SHARE = 0.3
SEED = 0

Progress = Callable[[Iterable[int], str], AbstractContextManager[Iterable[int]]]


class MissingDemoError(MLMeterError):
    """The demo's machine-learning library is not installed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found.

    Attributes:
        session: the metered run.
        accuracy: share of test images that were recognised, 0 to 1.
        directory: the run directory.
    """

    session: Session
    accuracy: float
    directory: Path | None


def run_demo(output_dir: Path, *, epochs: int = EPOCHS, rounds: float = 1.0, progress: Progress) -> Outcome:
    """Train, validate and serve; meter all of it.

    Args:
        output_dir: where the run directory is made.
        epochs: passes over the training images.
        rounds: factor on the number of rounds of serving.
        progress: wraps an iterable and a label into a progress bar.

    Raises:
        MissingDemoError: scikit-learn is not installed.
    """
    train, test, model = _prepare()
    (train_images, train_labels), (test_images, test_labels) = train, test
    with EnergyMeter("digits-demo", output_dir=output_dir) as meter:
        with progress(range(epochs), "training") as bar:
            for _ in bar:
                with meter.window("epoch", samples=len(train_images)):
                    model.partial_fit(train_images, train_labels, classes=range(10))
        with meter.evaluation("validate", samples=len(test_images)):
            accuracy = float(model.score(test_images, test_labels))
        with progress(range(max(1, round(ONE_BY_ONE_ROUNDS * rounds))), "one by one") as bar:
            for _ in bar:
                with meter.inference("predict one by one", predictions=len(test_images)):
                    for image in test_images:
                        model.predict(image[None, :])
        with progress(range(max(1, round(BATCH_ROUNDS * rounds))), "in batches") as bar:
            for _ in bar:
                with meter.inference("predict in batches", predictions=len(test_images)):
                    for first in range(0, len(test_images), SERVING_BATCH):
                        model.predict(test_images[first : first + SERVING_BATCH])
    return Outcome(meter.session, accuracy, meter.run_directory)


def describe(outcome: Outcome) -> str:
    """Return the demo's report as text of at most 80 columns."""
    session = outcome.session
    where = "nowhere: the directory could not be written"
    if outcome.directory is not None:
        where = path_text(outcome.directory)
    parts = [
        f"1,797 handwritten digits, a small neural network: {percent(outcome.accuracy)} right",
        session.summary(),
        "How many predictions cost as much as the training?",
        _break_even(session),
        _provenance(session.total()),
        f"Run and CSV files: {where}",
    ]
    return "\n\n".join(parts)


def _break_even(session: Session) -> str:
    """Return the table of what the ways of serving cost; what is unresolved is said to be so."""
    try:
        return servings_table(session.lifecycle(unit="predictions"))
    except ArgumentError as error:
        return str(error)


def _provenance(total: Energy) -> str:
    """Say in one paragraph what the joules above are worth."""
    if total.provenance is Provenance.MEASURED:
        return "All joules above are differences of hardware energy counters: measured."
    if total.provenance is Provenance.DERIVED:
        return "Some joules above are measured power integrated over time: derived."
    if total.provenance is Provenance.ESTIMATED:
        return (
            "No energy counter could be read for the CPU: its joules are ESTIMATED from\n"
            "load, for all programs of the machine together. `mlmeter doctor` tells how\n"
            "to get measured ones."
        )
    return "No energy could be read on this machine: the table has times only."


def _prepare() -> tuple[Any, Any, Any]:
    """Load the data, split and scale them, make the model."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise MissingDemoError('the demo needs scikit-learn: pip install "mlmeter[demo]"') from error
    images, labels = load_digits(return_X_y=True)
    # Pixels are 0 to 16.
    train_images, test_images, train_labels, test_labels = train_test_split(
        images / 16.0, labels, test_size=TEST_SHARE, random_state=SEED, stratify=labels
    )
    model = MLPClassifier(HIDDEN_UNITS, batch_size=TRAINING_BATCH, random_state=SEED)
    return (train_images, train_labels), (test_images, test_labels), model


def no_progress(items: Iterable[int], _label: str) -> AbstractContextManager[Iterable[int]]:
    """Return the items without a progress bar."""
    return nullcontext(items)
