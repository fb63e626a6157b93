"""Trains and evaluates what a configuration describes, and writes a report.

    python main.py --config=configs/quickstart.py --workdir=runs/quickstart [--config.model.k=32]

The same command goes on where an interrupted run stopped. On several hosts each runs this command, see
docs/scaling.md. Exit codes: 0 finished, 1 a mistake that the message names, 75 stopped by SIGTERM or Ctrl-C
and saved, 76 another host stopped.
"""

import sys
from functools import partial
from typing import Any

from absl import app, flags, logging

from topgap_jax.cli.arguments import read_config, split_overrides

CONFIG = flags.DEFINE_string("config", None, "A file of configs/; --config.FIELD=VALUE changes a field.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "auto",
    "How the processes of a run find each other: auto (TPU pod, SLURM, Open MPI, else alone), off, or "
    "HOST:PORT, a free port of the host with process 0.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many there are, with --distributed=HOST:PORT.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str], *, overrides: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Error: unexpected arguments: {' '.join(argv[1:])}")
    config = read_config(CONFIG.value, overrides)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    # Here, since importing Grain and Orbax takes a second and a mistyped flag should not.
    from topgap_jax.training import distributed

    try:
        distributed.start(DISTRIBUTED.value, PROCESSES.value, PROCESS.value)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    distributed.listen()
    run(config)


def run(config: Any) -> None:
    """Trains, evaluates and reports; how that ends is the exit code."""
    from topgap_jax.training import ConfigError, DataError, distributed, train_and_evaluate
    from topgap_jax.training.checkpoint import WriteError

    try:
        if config.get("data", {}).get("folds"):
            cross_validate(config)
        else:
            train_and_evaluate(config, WORKDIR.value)
            report_on_run(config)
        distributed.gather("finished")  # the others wait for the report of the first
    except (ConfigError, DataError, WriteError, FloatingPointError) as error:
        sys.exit(f"Error: {error}")
    except distributed.Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(distributed.PREEMPTED)
    except Exception as error:
        if not distributed.lost(error):
            raise
        distributed.leave_lost(error)


def report_on_run(config: Any) -> None:
    """Writes and prints the report of a run with a test set, on the first process."""
    from topgap_jax.reports import print_report, write_report
    from topgap_jax.training.distributed import is_first

    data = config.get("data", {})
    if not (data.get("test") or data.get("tests_elsewhere")) or not is_first():
        return
    report = write_report(WORKDIR.value)
    print_report(WORKDIR.value)
    print(f"Report: {report}")


def cross_validate(config: Any) -> None:
    """Trains the folds, with a report of each, and reports on all once they are finished."""
    from topgap_jax.reports import write_report
    from topgap_jax.reports.cross_validation import print_cross_validation, write_cross_validation_report
    from topgap_jax.training import cross_validation
    from topgap_jax.training.distributed import is_first

    first = is_first()
    progress = cross_validation.cross_validate(
        config,
        WORKDIR.value,
        report=partial(print, flush=True) if first else None,
        after_fold=write_report if first else None,
    )
    if not first:
        return
    if progress.unfinished:
        print(f"Folds still to be trained: {', '.join(map(str, progress.unfinished))}")
        return
    report = write_cross_validation_report(WORKDIR.value)
    print_cross_validation(WORKDIR.value)
    print(f"Report: {report}")


if __name__ == "__main__":
    given, changes = split_overrides(sys.argv)
    app.run(partial(main, overrides=changes), argv=given)
