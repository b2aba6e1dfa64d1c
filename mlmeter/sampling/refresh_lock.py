"""When to poll a slow counter, so that each refresh lies in a narrow bracket at the cost of few reads.

A lock first polls evenly until it knows the update period (discover). Then it sleeps until
shortly before the next refresh and polls every millisecond until the counter changes (lock).
Where that does not work, because the counter is irregular, stands still, or costs too much to
read, it polls now and then (coarse). It never decides what a reading means: a poll at a bad time
widens a bracket and changes no total.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque

from mlmeter.energy.refresh_period import NARROW_RATIO, refresh_period
from mlmeter.measurement import Reading
from mlmeter.sampling.poll_budget import PollBudget

NEVER_NS = 2**63
SHORTEST_STEP_NS = 1_000_000
# Also brackets of polls that follow each other at once count as narrow.
NARROW_STEPS = 1.5
# Windows have not begun or ended for so many periods: there is nothing to look at closely.
QUIET_PERIODS = 10
# discover
DISCOVERY_STEPS = 20
DISCOVERY_CHANGES = 9
# As many have to do where polls are dear, and had to rest in between.
FEWEST_CHANGES = 5
WIDEST_STEPS = 4
DISCOVERY_ROWS = 5
# A period of fewer steps than this may be one of the polls.
FEWEST_STEPS = 3
FEWEST_DISCOVERY_STEPS = 4
DISCOVERY_NS = 2_000_000_000
# So many polls without a change mean that the period is longer than was thought.
UNCHANGED_POLLS = 40
# lock
RESIDUALS = 32
RESIDUALS_NEEDED = 4
# Part of the square of a residual that comes from the width of two brackets, not from the counter.
BRACKET_VARIANCE = 1 / 16
GUARD_SIGMAS = 3
WIDEST_GUARD = 1 / 4
FIRST_GUARD = 1 / 10
BOOST_DECAY = 0.9
SEARCH_STEPS = 20
STANDS_STILL_PERIODS = 3
# The phase drifts by this share of a period in each period without a refresh that was seen closely,
# and is lost after so many.
DRIFT_RATIO = 0.002
FIRST_DRIFT_RATIO = 0.01
SYNCHRONISED_PERIODS = 64
# Polls about one refresh: at least before and after it, and no more however badly it is foreseen.
MOST_POLLS = 16
FEWEST_POLLS = 2
# More than that to come back, for the cost of polls varies.
BACK_RATIO = 1.2
# Wider steps would place no refresh. Where they are too dear, polls come in rows, with rests.
WIDEST_STEP = 0.08
FEWEST_POLLS_PER_ROW = 16
LEARNT_FROM = 129
LEARN_EVERY = 8
JUDGED = 16
# coarse
COARSE_PERIODS = 0.2
STANDING_PERIODS = 0.5
SPREAD = 0.5
SHORTEST_COARSE_NS = 2 * SHORTEST_STEP_NS
SHORT_HOLD_PERIODS = 16
HOLD_PERIODS = 64
LONGEST_HOLD_PERIODS = 4096
# A counter that is refreshed more often than this cannot be caught by waking up for it.
SHORTEST_PERIOD_NS = 10 * SHORTEST_STEP_NS


class Mode(enum.StrEnum):
    """How a counter is polled at present."""

    DISCOVER = "discover"
    LOCK = "lock"
    COARSE = "coarse"


class RefreshLock:
    """The next time to poll one counter, from what its readings have shown.

    Args:
        guess_ns: update period so far as is known beforehand.
        budget: what polls cost, and how late the thread wakes.
        known_ns: update period that was measured before, if any: it is not learnt again.
        rng: of the times of coarse polls.

    Attributes:
        mode: how the counter is polled.
        measured_ns: update period as measured; None until it is known.
        polls: polls made in each mode.
    """

    def __init__(
        self, guess_ns: float, budget: PollBudget, *, known_ns: float | None = None, rng: random.Random
    ) -> None:
        self.mode = Mode.DISCOVER if known_ns is None else Mode.LOCK
        self.measured_ns = known_ns
        self.polls = dict.fromkeys(Mode, 0)
        self._period_ns = guess_ns if known_ns is None else known_ns
        self._budget, self._random = budget, rng
        self._value: int | None = None
        self._read_ns = 0
        self._due_ns = 0
        # Best knowledge of the last refresh, and of the last one that was seen closely.
        self._last_ns: float | None = None
        self._seen_ns = -math.inf
        # The last refresh was so long before or after that, at most.
        self._unsure_ns = math.inf
        self._after: deque[float] = deque(maxlen=LEARNT_FROM)
        self._before: deque[float] = deque(maxlen=LEARNT_FROM)
        self._narrow = 0
        self._variances: deque[float] = deque(maxlen=RESIDUALS)
        self._sigma_ns = 0.0
        self._boost = 1.0
        self._awaited = False
        self._failed: deque[bool] = deque(maxlen=JUDGED)
        self._hold_until_ns, self._hold_periods = 0.0, HOLD_PERIODS
        self._standing = False
        self._learnt_at_ns = -math.inf
        self._begin_discovery()

    def due_ns(self, active_ns: float) -> int:
        """Return when to poll next; never, if windows began or ended too long ago.

        Args:
            active_ns: when windows were last seen to begin or end.
        """
        quiet = self._due_ns - active_ns > QUIET_PERIODS * self._period_ns + DISCOVERY_NS * self._discovering
        return NEVER_NS if quiet else self._due_ns

    def observe(self, reading: Reading, *, polled: bool) -> None:
        """Take a reading of the counter, in order of time.

        Args:
            reading: what was read.
            polled: it was read because it was due; False for one made for another reason.
        """
        value, self._value = self._value, reading.value
        after, self._read_ns = self._read_ns, reading.begin_ns
        if polled:
            self.polls[self.mode] += 1
        if self.mode is Mode.DISCOVER:
            if reading.begin_ns - after > WIDEST_STEPS * self._step_ns:
                self._interrupt_discovery(reading.end_ns)
            elif value is not None:
                self._discover(after, reading, changed=reading.value != value)
        elif value is not None and reading.value != value:
            # A driver's own time stamp of the value would replace or narrow this bracket.
            self._changed(float(after), float(reading.end_ns), polled=polled)
        self._due_ns = self._next_ns(reading.end_ns)

    def postpone(self, now_ns: int) -> None:
        """The counter could not be read: try again after a while."""
        self._due_ns = now_ns + round(self._coarse_ns())

    # -- discover --------------------------------------------------------------------------

    @property
    def _discovering(self) -> bool:
        return self.mode is Mode.DISCOVER

    def _begin_discovery(self) -> None:
        self._discovered_ns, self._rows_of_polls = 0.0, 0
        self._begin_row()

    def _begin_row(self) -> None:
        """Begin a row of polls, with as many to a period as can follow each other without a rest."""
        polls = self._budget.polls_within(DISCOVERY_CHANGES * self._period_ns)
        steps = max(FEWEST_DISCOVERY_STEPS, min(polls / DISCOVERY_CHANGES, DISCOVERY_STEPS))
        self._step_ns = max(self._period_ns / steps, SHORTEST_STEP_NS)
        self._unchanged = 0
        self._after.clear()
        self._before.clear()

    def _discover(self, after_ns: int, reading: Reading, *, changed: bool) -> None:
        self._discovered_ns += reading.begin_ns - after_ns
        self._unchanged = 0 if changed else self._unchanged + 1
        if changed:
            self._after.append(float(after_ns))
            self._before.append(float(reading.end_ns))
        elif self._unchanged >= UNCHANGED_POLLS:
            self._step_ns *= 2
            self._unchanged = 0
        if len(self._after) >= DISCOVERY_CHANGES or self._discovered_ns >= DISCOVERY_NS:
            self._end_discovery(reading.end_ns)

    def _interrupt_discovery(self, now_ns: float) -> None:
        """Nobody has polled for a while: how many refreshes there were is not known."""
        if not self._after:
            self._unchanged = 0
            return
        self._rows_of_polls += 1
        if len(self._after) >= FEWEST_CHANGES or self._rows_of_polls >= DISCOVERY_ROWS:
            self._end_discovery(now_ns)
        else:
            self._begin_row()

    def _end_discovery(self, now_ns: float) -> None:
        period_ns = refresh_period(self._after, self._before)
        if period_ns is not None and period_ns < FEWEST_STEPS * self._step_ns:
            period_ns = None
        if period_ns is None and self._step_ns > SHORTEST_STEP_NS and len(self._after) >= DISCOVERY_CHANGES:
            # It had changed at nearly every poll: the period is shorter than was thought.
            self._period_ns /= 4
            self._begin_discovery()
            return
        self._learnt_at_ns = now_ns
        self._variances.clear()
        self._narrow = 0
        self._failed.clear()
        if period_ns is None:
            if len(self._after) < FEWEST_CHANGES:
                self._period_ns = max(self._period_ns, DISCOVERY_STEPS * self._step_ns)
            self._hold(now_ns)
            return
        self.measured_ns = self._period_ns = period_ns
        self._last_ns = (self._after[-1] + self._before[-1]) / 2
        self._unsure_ns = (self._before[-1] - self._after[-1]) / 2
        self._seen_ns, self._boost = self._last_ns, 1.0
        self.mode = Mode.LOCK

    # -- lock ------------------------------------------------------------------------------

    def _changed(self, after: float, before: float, *, polled: bool) -> None:
        """Place the refresh that was seen, and judge how well it was foreseen."""
        period, last = self._period_ns, self._last_ns
        middle, width = (after + before) / 2, before - after
        narrow = width <= max(NARROW_RATIO * period, NARROW_STEPS * SHORTEST_STEP_NS)
        if last is None:
            self._last_ns = middle
        else:
            likely = middle if width < period else before - period / 2
            foreseen = last + max(1, round((likely - last) / period)) * period
            residual = middle - foreseen
            if not narrow:
                self._last_ns = self._narrowed(foreseen, after, before)
            elif self._is_synchronised(before) and abs(residual) < NARROW_RATIO * period:
                # Half way: right whether refreshes deviate from a grid or each from the one before.
                self._last_ns = foreseen + residual / 2
            else:
                self._last_ns = middle
            if self._standing:
                self._standing, self.mode = False, Mode.LOCK
            # After a rest, nobody tried to foresee it.
            if polled and self.mode is Mode.LOCK and width <= period:
                self._judge(residual, width, narrow=narrow, now_ns=before)
        self._awaited = False
        if narrow:
            self._seen_ns, self._unsure_ns = middle, width / 2
            self._learn(after, before)

    def _narrowed(self, foreseen: float, after: float, before: float) -> float:
        """Return where the refresh was by both its bracket and what was foreseen."""
        unsure = self._unsure_ns + FIRST_DRIFT_RATIO * self._period_ns
        low, high = max(after, foreseen - unsure), min(before, foreseen + unsure)
        if low > high:
            # The bracket excludes what was foreseen.
            self._unsure_ns = (before - after) / 2
            return min(max(foreseen, after), before)
        self._unsure_ns = (high - low) / 2
        return (low + high) / 2

    def _judge(self, residual: float, width: float, *, narrow: bool, now_ns: float) -> None:
        """Learn how well refreshes are foreseen; where they are not, learn the period again, or give up."""
        foreseen = abs(residual) <= self._guard_ns() + self._search_step_ns()
        if narrow and self._is_synchronised(now_ns) and abs(residual) <= WIDEST_GUARD * self._period_ns:
            self._variances.append(residual**2 - BRACKET_VARIANCE * width**2)
            self._sigma_ns = math.sqrt(max(0.0, sum(self._variances) / len(self._variances)))
        self._boost = max(1.0, self._boost * BOOST_DECAY)
        # It was there at the first look already.
        if not self._awaited and not narrow and self._is_synchronised(now_ns):
            self._boost = min(2 * self._boost, 64.0)
        self._failed.append(not (narrow and foreseen))
        if sum(self._failed) >= JUDGED / 2:
            self._failed.clear()
            if now_ns - self._learnt_at_ns < HOLD_PERIODS * self._period_ns:
                self._hold(now_ns)
            else:
                self.mode = Mode.DISCOVER
                self._begin_discovery()
        elif len(self._failed) == JUDGED and not any(self._failed):
            self._hold_periods = HOLD_PERIODS

    def _learn(self, after: float, before: float) -> None:
        self._after.append(after)
        self._before.append(before)
        self._narrow += 1
        if self.measured_ns is not None and self._narrow % LEARN_EVERY == 0:
            period_ns = refresh_period(self._after, self._before)
            if period_ns is not None:
                self.measured_ns = self._period_ns = period_ns

    def _is_synchronised(self, now_ns: float) -> bool:
        return now_ns - self._seen_ns <= SYNCHRONISED_PERIODS * self._period_ns

    def _guard_ns(self) -> float:
        if len(self._variances) < RESIDUALS_NEEDED:
            unsure_ns = self._unsure_ns + FIRST_DRIFT_RATIO * self._period_ns + self._budget.wake_delay_ns
            needed = min(FIRST_GUARD * self._period_ns, unsure_ns)
        else:
            needed = GUARD_SIGMAS * self._sigma_ns + self._budget.wake_delay_ns
        return min(WIDEST_GUARD * self._period_ns, max(SHORTEST_STEP_NS, needed) * self._boost)

    def _polls_per_period(self) -> float:
        return self._budget.polls_per_second * self._period_ns * 1e-9 / self._budget.locks

    def _worth_locking(self, polls: float) -> bool:
        affordable = self._polls_per_period() >= polls or (
            self._budget.locks == 1 and self._budget.polls_within(0) >= FEWEST_POLLS_PER_ROW
        )
        return affordable and self._period_ns >= SHORTEST_PERIOD_NS

    def _search_step_ns(self) -> float:
        return max(self._period_ns / SEARCH_STEPS, SHORTEST_STEP_NS)

    # -- coarse ----------------------------------------------------------------------------

    def _hold(self, now_ns: float, periods: int | None = None) -> None:
        """Poll coarsely for a while, and for longer each time that locking fails."""
        self.mode = Mode.COARSE
        if periods is None:
            periods = self._hold_periods
            self._hold_periods = min(2 * periods, LONGEST_HOLD_PERIODS)
        self._hold_until_ns = now_ns + periods * self._period_ns

    def _coarse_ns(self) -> float:
        """Return the time to the next coarse poll.

        At random: polls in step with the refreshes would give every bracket the same error.
        """
        least = STANDING_PERIODS if self._standing else COARSE_PERIODS
        periods = max(least, 1 / max(self._polls_per_period() * self._budget.locks, 0.01))
        step_ns = max(periods * self._period_ns, SHORTEST_COARSE_NS)
        return step_ns * self._random.uniform(1 - SPREAD, 1 + SPREAD)

    # -- the next poll -----------------------------------------------------------------------

    def _next_ns(self, now_ns: int) -> int:
        if self.mode is Mode.COARSE and not self._standing and now_ns >= self._hold_until_ns:
            self._end_hold(now_ns)
        if self.mode is Mode.LOCK:
            self._check_lock(now_ns)
        if self.mode is Mode.DISCOVER:
            return now_ns + round(self._step_ns)
        if self.mode is Mode.COARSE:
            return now_ns + round(self._coarse_ns())
        # The first look may be due this very moment: no poll is repeated at once.
        return max(round(self._next_locked_ns(now_ns)), now_ns + SHORTEST_STEP_NS // 4)

    def _end_hold(self, now_ns: int) -> None:
        if self.measured_ns is None:
            self.mode = Mode.DISCOVER
            self._begin_discovery()
        elif self._worth_locking(BACK_RATIO * FEWEST_POLLS):
            self.mode = Mode.LOCK
        else:
            self._hold(now_ns, SHORT_HOLD_PERIODS)

    def _check_lock(self, now_ns: int) -> None:
        """Leave the lock where polls are too dear, or the counter stands still."""
        if not self._worth_locking(FEWEST_POLLS):
            self._hold(now_ns, SHORT_HOLD_PERIODS)
        elif self._last_ns is None:
            self._last_ns = float(now_ns)
        elif now_ns > self._last_ns + (1 + STANDS_STILL_PERIODS) * self._period_ns:
            self.mode, self._standing = Mode.COARSE, True

    def _next_locked_ns(self, now_ns: int) -> float:
        last_ns = self._last_ns if self._last_ns is not None else float(now_ns)
        expected_ns = last_ns + self._period_ns
        # Refreshes that nobody saw have moved the expectation from what was seen.
        drift_ratio = DRIFT_RATIO if self._narrow >= LEARN_EVERY else FIRST_DRIFT_RATIO
        unseen_ns = last_ns - self._seen_ns if self._is_synchronised(now_ns) else 0.0
        guard_ns = min(self._guard_ns() + drift_ratio * unseen_ns, WIDEST_GUARD * self._period_ns)
        if not self._is_synchronised(now_ns) or now_ns > expected_ns + guard_ns:
            self._awaited = True
            return now_ns + self._search_step_ns()
        # More than can be made for ever while much is saved, fewer when little is left.
        polls = self._polls_per_period() * self._budget.plenty
        # A look in the middle halves what is not known yet, refresh by refresh.
        least = FEWEST_POLLS if len(self._variances) >= RESIDUALS_NEEDED else FEWEST_POLLS + 1
        polls = max(least, min(polls, MOST_POLLS))
        step_ns = max(SHORTEST_STEP_NS, min(2 * guard_ns / (polls - 1), WIDEST_STEP * self._period_ns))
        if now_ns < expected_ns - guard_ns - step_ns:
            # Wide steps in phase with the refreshes would give every bracket the same error.
            dither_ns = self._random.random() * (step_ns - SHORTEST_STEP_NS)
            return expected_ns - guard_ns - dither_ns
        self._awaited = True
        return now_ns + step_ns
