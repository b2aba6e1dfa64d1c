"""All errors and warnings of mlmeter.

    MLMeterError
    ├── ArgumentError (also ValueError)      a wrong argument, raised where it was given
    ├── BackendError
    │   └── BackendUnavailableError          a source of readings cannot be opened here
    ├── ProviderError                        a source of carbon intensity on the network gives nothing
    ├── StateError (also RuntimeError)       a call that makes no sense now
    └── RunFileError (also ValueError)       a file of a run directory cannot be used

    MLMeterWarning (UserWarning)
    ├── BudgetWarning                        more was used than a budget allows
    ├── EstimateWarning                      a figure of this session will be an estimate
    └── NothingMeteredWarning                no energy can be read on this machine

Run-time trouble with hardware raises none of these in the metered program: it becomes
an event of the session (``session.events()``).
"""

from __future__ import annotations


class MLMeterError(Exception):
    """Base class of every error that mlmeter raises."""


class ArgumentError(MLMeterError, ValueError):
    """An argument has a value that mlmeter cannot use; the message lists what it accepts."""


class BackendError(MLMeterError):
    """Base class of errors of one source of readings.

    Attributes:
        backend: name of the source, such as ``"rapl"``.
        reason: what happened, without the source's name.
        remedy: what the user can do about it, or an empty string.
    """

    def __init__(self, backend: str, reason: str, remedy: str = "") -> None:
        self.backend = backend
        self.reason = reason
        self.remedy = remedy
        text = f"{backend}: {reason}"
        super().__init__(f"{text}. {remedy}" if remedy else text)


class BackendUnavailableError(BackendError):
    """A source of readings cannot be opened on this machine."""


class ProviderError(MLMeterError):
    """A provider of carbon intensity is down, slow, refuses, or answers nonsense.

    Attributes:
        provider: its name, such as ``"WattTime CAISO_NORTH"``.
        reason: what happened, without the provider's name and without any key.
    """

    def __init__(self, provider: str, reason: str) -> None:
        self.provider = provider
        self.reason = reason
        super().__init__(f"{provider}: {reason}")


class StateError(MLMeterError, RuntimeError):
    """A call that makes no sense in the present state, such as the session of a meter never started."""


class RunFileError(MLMeterError, ValueError):
    """A file of a run directory is missing, damaged or of a newer version.

    Attributes:
        path: the file in question.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class MLMeterWarning(UserWarning):
    """Base class of the warnings of mlmeter; each is given at most once per session."""


class StateWarning(MLMeterWarning):
    """Windows are opened on a meter that is not running: they are not metered."""


class NotWrittenWarning(MLMeterWarning):
    """The run directory could not be written; the session is still in memory."""


class BudgetWarning(MLMeterWarning):
    """More energy, CO2e or money was used than an `EnergyBudget` allows."""


class EstimateWarning(MLMeterWarning):
    """The session contains an estimated energy because no counter could be read."""


class NothingMeteredWarning(MLMeterWarning):
    """No source of energy readings works on this machine: the session has times only."""
