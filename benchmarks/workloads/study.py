"""What a study is: ways to reach the same end, the first of which the others are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one piece of work did.

    Attributes:
        units: how much of what is compared: 1 for a training, samples for predictions.
        samples: samples that were seen, each as often as it was.
        accuracy: share of test samples told right; None where nothing was predicted.
        other_cpu_seconds: CPU time of processes that neither ended nor are this one.
    """

    units: float
    samples: int
    accuracy: float | None = None
    other_cpu_seconds: float = 0.0


# Does the work once. Its argument is a seed: work that draws numbers draws others each time.
Work = Callable[[int], Outcome]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to do it."""

    name: str
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Variants whose joules per unit are compared.

    Attributes:
        key: short name, for the command line and the files.
        title: what is done.
        unit: what joules are compared per: ``"training"``, ``"sample"``.
        variants: the first one is the baseline.
        close: called at the end.
        whole_machine: True to compare the joules of the whole machine in any case. With the part of this
            process a way that leaves half of the machine idle is not charged for it.
    """

    key: str
    title: str
    unit: str
    variants: tuple[Variant, ...]
    close: Callable[[], object] = lambda: None
    whole_machine: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A study that can be made.

    Attributes:
        key: as of the study.
        build: makes it; may take seconds, which are not metered.
        needs: modules it cannot do without, beside those of the extra `demo`.
    """

    key: str
    build: Callable[[], Study]
    needs: tuple[str, ...] = ()


def training(samples: int, accuracy: float) -> Outcome:
    """Return the outcome of one training that saw so many samples."""
    return Outcome(1.0, samples, accuracy)


def prediction(samples: int, accuracy: float | None = None) -> Outcome:
    """Return the outcome of so many predictions."""
    return Outcome(float(samples), samples, accuracy)
