"""Several trainings: one after the other in one process, or in several processes."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.workloads.digits import accuracy_of, digits
from benchmarks.workloads.network import trained
from benchmarks.workloads.study import Outcome, Study, Variant

TRAININGS, PROCESSES = 4, 2
HIDDEN = (512,)
EPOCHS = 15


def processes() -> Study:
    """Return the study of four trainings in one process, in two that wait for work, and in two new ones."""
    pool = _new_pool()
    list(pool.map(_train, range(PROCESSES)))
    return Study(
        key="processes",
        title=f"{TRAININGS} trainings of {HIDDEN[0]} hidden units, {EPOCHS} epochs each",
        unit="training",
        variants=(
            Variant("one process", _in_turn),
            Variant(f"{PROCESSES} waiting processes", partial(_in_pool, pool)),
            Variant(f"{PROCESSES} new processes", _in_new_pool),
        ),
        close=pool.shutdown,
        whole_machine=True,
    )


def _new_pool() -> ProcessPoolExecutor:
    # Not a fork: this process has the threads of the meter.
    return ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn"))


def _in_turn(seed: int) -> Outcome:
    return _outcome([_train(one)[0] for one in _seeds(seed)])


def _in_pool(pool: ProcessPoolExecutor, seed: int) -> Outcome:
    found = list(pool.map(_train, _seeds(seed)))
    # Of processes that go on the system does not tell the CPU time to their parent.
    return _outcome([accuracy for accuracy, _ in found], sum(spent for _, spent in found))


def _in_new_pool(seed: int) -> Outcome:
    with _new_pool() as pool:
        return _outcome([accuracy for accuracy, _ in pool.map(_train, _seeds(seed))])


def _seeds(seed: int) -> range:
    return range(TRAININGS * seed, TRAININGS * (seed + 1))


def _outcome(accuracies: list[float], other_cpu_seconds: float = 0.0) -> Outcome:
    samples = TRAININGS * EPOCHS * len(digits().train)
    return Outcome(TRAININGS, samples, sum(accuracies) / len(accuracies), other_cpu_seconds)


def _train(seed: int) -> tuple[float, float]:
    """Return the accuracy and the CPU seconds of one training."""
    before = time.process_time()
    network = trained(HIDDEN, seed, EPOCHS)
    return accuracy_of(network.predict(digits().test)), time.process_time() - before
