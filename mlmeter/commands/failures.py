"""What a command does with errors of mlmeter: one line, and an exit code that tells whose fault it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from mlmeter.errors import ArgumentError, MLMeterError
from mlmeter.foreign_files import visible


@contextmanager
def told_failures() -> Iterator[None]:
    """End the command where the block fails: with code 2 for wrong usage, with 1 for anything else.

    Raises:
        click.UsageError: an argument is wrong.
        click.ClickException: mlmeter or the system cannot do what is asked.
    """
    try:
        yield
    except ArgumentError as error:
        raise click.UsageError(str(error)) from error
    except (MLMeterError, OSError) as error:
        raise click.ClickException(visible(str(error))) from error
