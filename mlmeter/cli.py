"""The command line: demo, run, baseline, doctor, report, impact, compare, bench, recover.

Tables go to standard output, everything else to standard error. Exit codes: 0 success; 1 the
command could not do its work; 2 wrong usage; 3 nothing could be measured and
``--require-measured`` was given; 4 the gate of ``report`` failed; ``run`` passes on the program's own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlmeter import __version__
from mlmeter.commands.bench import bench
from mlmeter.commands.compare import compare
from mlmeter.commands.electricity import electricity_options, number_or_text
from mlmeter.commands.impact import impact
from mlmeter.commands.options import json_option
from mlmeter.commands.report import report
from mlmeter.errors import MLMeterError, MLMeterWarning

if TYPE_CHECKING:
    from mlmeter.baseline import Baseline, Machine
    from mlmeter.measurement import Energy

OUTPUT_DIR = "mlmeter-runs"
NOT_MEASURED = 3

output_dir_option = click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=OUTPUT_DIR,
    show_default=True,
    help="Folder for the run's directory and runs.csv.",
)
require_measured_option = click.option(
    "--require-measured",
    is_flag=True,
    help=f"Exit with {NOT_MEASURED} unless hardware measured the energy.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlmeter")
def main() -> None:
    """Meter the real energy of GPUs and CPUs while code trains and serves models."""
    # Reports say what is estimated; the warning would only repeat it.
    warnings.simplefilter("ignore", MLMeterWarning)


main.add_command(bench)
main.add_command(compare)
main.add_command(impact)
main.add_command(report)


@main.command()
@output_dir_option
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--rounds", type=click.FloatRange(0, min_open=True), default=1.0, help="Factor on serving.")
@require_measured_option
@json_option
def demo(
    output_dir: Path, epochs: int | None, rounds: float, *, require_measured: bool, as_json: bool
) -> None:
    """Train and serve a real digit classifier, metered with whatever this machine has."""
    from mlmeter.demo import EPOCHS, describe, run_demo

    try:
        outcome = run_demo(output_dir, epochs=epochs or EPOCHS, rounds=rounds, progress=_progress)
    except MLMeterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(outcome.session.to_json() if as_json else describe(outcome))
    _check_measured(outcome.session.total(), required=require_measured)


@main.command(context_settings={"allow_interspersed_args": False})
@output_dir_option
@click.option("--name", help="Name of the run; by default the program's.")
@click.option("--phase", default="other", show_default=True, help="Phase of the time in no window.")
@click.option("--backends", help="Comma-separated sources, such as rapl,nvml; by default the best.")
@click.option(
    "--scope",
    type=click.Choice(("machine", "process")),
    default="machine",
    show_default=True,
    help="Energy of the whole machine, or of the program and its children.",
)
@electricity_options
@click.option("--quiet", is_flag=True, help="Print no summary.")
@require_measured_option
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    output_dir: Path,
    name: str | None,
    phase: str,
    backends: str | None,
    scope: str,
    grid: str | None,
    pue: str | None,
    price: str | None,
    program: tuple[str, ...],
    *,
    quiet: bool,
    require_measured: bool,
) -> None:
    """Meter any program: mlmeter run -- python train.py --epochs 3.

    A Python script runs in this process, so that its own windows and decorators land in the
    same session. Any other program is metered from outside. The exit code is the program's.
    """
    from mlmeter.foreign_files import visible
    from mlmeter.meter import EnergyMeter
    from mlmeter.program import Program
    from mlmeter.report.text import path_text

    target = Program.of(program)
    if (missing := target.cannot_run()) is not None:
        reason, code = missing
        click.echo(f"mlmeter run: {reason}", err=True)
        sys.exit(code)
    if target.other_python and not quiet:
        text = f"{program[0]} is not the Python of mlmeter ({sys.executable}): metered from outside"
        click.echo(f"mlmeter run: {text}", err=True)
    try:
        meter = EnergyMeter(
            name or target.name,
            phase=phase,
            backends=backends.split(",") if backends else None,
            scope=scope,
            output_dir=output_dir,
            grid=number_or_text(grid),
            pue=number_or_text(pue),
            price=price,
        )
    except MLMeterError as error:
        raise click.UsageError(str(error)) from error
    process = os.getpid()
    with meter:
        code = target.run()
    if os.getpid() != process:
        # A child that the script forked has come to its end: the run is its parent's.
        sys.exit(code)
    if not quiet:
        click.echo(f"\n{meter.session.summary()}\n", err=True)
    if meter.write_error is not None:
        what = "run" if meter.run_directory is None else "row of the run"
        click.echo(f"mlmeter run: the {what} was not written: {visible(meter.write_error)}", err=True)
    if meter.run_directory is not None and not quiet:
        click.echo(f"run directory: {path_text(meter.run_directory)}", err=True)
    if code == 0:
        _check_measured(meter.session.total(), required=require_measured)
    sys.exit(code)


@main.command()
@click.option(
    "--seconds",
    type=click.FloatRange(10, 86_400),
    default=60.0,
    show_default=True,
    help="How long to measure.",
)
@click.option("--backends", help="Comma-separated sources; by default the best.")
@click.option("--force", is_flag=True, help="Measure and store although the machine is not idle.")
@click.option("--show", is_flag=True, help="Print the stored baseline, measure nothing.")
@click.option("--clear", is_flag=True, help="Forget the stored baseline, measure nothing.")
@json_option
def baseline(
    seconds: float, backends: str | None, *, force: bool, show: bool, clear: bool, as_json: bool
) -> None:
    """Measure the idle power of this machine, so that runs tell energy above idle.

    Let the machine rest first: no training, no browser. Later runs on this machine use what was
    measured for 30 days, as long as kernel and GPU drivers stay the same.
    """
    from mlmeter.baseline import Machine, baseline_path, read, store
    from mlmeter.foreign_files import visible
    from mlmeter.report.idle_table import baseline_text

    if show and clear:
        raise click.UsageError("--show and --clear exclude each other")
    if math.isnan(seconds):  # it is in every range
        raise click.UsageError("--seconds is no number")
    machine = Machine.of_root()
    path = baseline_path(machine)
    try:
        if clear:
            path.unlink(missing_ok=True)
            click.echo(f"no baseline is stored any more: {path}", err=True)
            return
        found = read(path) if show else _measured_baseline(seconds, backends, machine, force=force)
        if not show:
            store(found, path)
            click.echo(f"stored: {path}", err=True)
    except (MLMeterError, OSError) as error:
        hint = "; measure one with `mlmeter baseline`" if show and not path.exists() else ""
        raise click.ClickException(visible(f"{error}{hint}")) from error
    objections = found.objections(machine, datetime.now(UTC))
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else baseline_text(found, objections))


def _measured_baseline(seconds: float, backends: str | None, machine: Machine, *, force: bool) -> Baseline:
    """Measure, or end with code 1 where the machine is not idle."""
    import time

    from mlmeter import idle
    from mlmeter.meter import EnergyMeter

    load = idle.Load()
    names = backends.split(",") if backends else None
    try:
        meter = EnergyMeter("idle baseline", phase="idle", backends=names, baseline=None)
    except MLMeterError as error:
        raise click.UsageError(str(error)) from error
    remarks = [] if force else idle.look(load, time.sleep)
    if not remarks:
        found = idle.measure(meter, seconds, load=load, wait=time.sleep, progress=_progress, machine=machine)
        if not found.domains:
            raise click.ClickException(
                "no energy can be read here, so there is no idle power: see mlmeter doctor"
            )
        if force or not found.remarks:
            return found
        remarks = list(found.remarks)
    text = "; ".join(remarks)
    raise click.ClickException(
        f"the machine is not idle: {text}. Nothing was stored. Stop what is running, or use --force"
    )


@main.command()
@click.option("--apply", "apply_it", is_flag=True, help="Let a group read the CPU's counters; asks first.")
@click.option("--yes", is_flag=True, help="With --apply: do not ask.")
@click.option(
    "--all", "everything", is_flag=True, help="Try sources that are opened by name only, too; all details."
)
@require_measured_option
@json_option
def doctor(*, apply_it: bool, yes: bool, everything: bool, require_measured: bool, as_json: bool) -> None:
    """Say what can be metered here, from where, how well, and what would give more.

    Reads each source for a second. Changes nothing, but for --apply: that prints the commands for
    the group and the udev rule of the CPU's counters, asks, and does exactly these.
    """
    if apply_it and (as_json or require_measured or everything):
        raise click.UsageError("--apply goes with --yes only")
    if yes and not apply_it:
        raise click.UsageError("--yes goes with --apply only")
    if apply_it:
        _apply_rule(yes=yes)
        return
    from mlmeter.doctor.diagnosis import diagnose
    from mlmeter.doctor.text import report_text

    diagnosis = diagnose(everything=everything)
    text = json.dumps(diagnosis, indent=1) if as_json else report_text(diagnosis, everything=everything)
    click.echo(text)
    verdict = diagnosis["verdict"]
    if require_measured and not (verdict["measured"] or verdict["derived"]):
        sys.exit(NOT_MEASURED)


def _apply_rule(*, yes: bool) -> None:
    """Print what will be done, ask, and do it; end with code 1 where that is not possible."""
    from mlmeter.doctor.application import ApplyError, apply, commands_text, plan
    from mlmeter.doctor.surroundings import surroundings_of

    around = surroundings_of()
    try:
        steps = plan(around)
        if not steps:
            click.echo("Nothing to apply: no counter of the CPU is closed here. See mlmeter doctor.")
            return
        if not around.is_root:
            command = f"sudo {sys.executable} -m mlmeter doctor --apply"
            click.echo(f"{commands_text(around)}\n\nNothing was done: this needs root.")
            click.echo(f"Type the above, or: {command}")
            sys.exit(1)
        click.echo("As root:\n")
        for step in steps:
            click.echo(step.text)
        if not yes:
            click.confirm("\nDo this now?", abort=True)
        apply(steps, around)
    except ApplyError as error:
        raise click.ClickException(str(error)) from error
    if surroundings_of().closed:
        raise click.ClickException("all steps were done, but the counters are still closed: is udev running?")
    click.echo(f"\nDone. {around.user} reads the counters after logging in again; check with mlmeter doctor.")


@main.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@json_option
def recover(run_path: Path, *, as_json: bool) -> None:
    """Finish the files of a killed run: its directory, or a folder of runs (all that need it)."""
    from mlmeter.foreign_files import visible
    from mlmeter.journal.opening import EMPTY
    from mlmeter.report.recovery import unfinished_runs
    from mlmeter.report.text import path_text
    from mlmeter.session import recover as recover_session

    runs = unfinished_runs(run_path)
    if not runs and not run_path.is_dir():
        raise click.ClickException(f"{run_path}: there is no such run")
    if not runs:
        click.echo("nothing to recover: every run is complete", err=True)
    failed = False
    for directory in runs:
        try:
            session = recover_session(directory)
        except (MLMeterError, OSError) as error:
            click.echo(f"mlmeter recover: {visible(str(error))}", err=True)
            # There is nothing to recover of a program that was killed in its first moments.
            failed = failed or not str(error).endswith(EMPTY)
            continue
        click.echo(session.to_json() if as_json else f"{path_text(directory)}\n{session.summary()}")
    if failed:
        sys.exit(1)


def _check_measured(total: Energy, *, required: bool) -> None:
    if required and str(total.provenance) not in ("measured", "derived"):
        click.echo("no hardware source could measure the energy of this run: see mlmeter doctor", err=True)
        sys.exit(NOT_MEASURED)


def _progress(items: Iterable[int], label: str) -> AbstractContextManager[Iterable[Any]]:
    """Return a progress bar on standard error, hidden where that is no terminal."""
    return click.progressbar(items, label=label.ljust(12), file=sys.stderr, hidden=not sys.stderr.isatty())
