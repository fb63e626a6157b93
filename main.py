"""Trains and evaluates what a configuration describes, and writes a report.

    python main.py --config=configs/quickstart.py --workdir=runs/quickstart [--config.model.k=32]

The same command goes on where an interrupted run stopped.
"""

import runpy
import sys
from functools import partial

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    # Here, since importing JAX takes seconds and a mistyped flag should not.
    from topgap_jax.reports import print_report, write_report
    from topgap_jax.training import ConfigError, DataError, train_and_evaluate

    try:
        if CONFIG.value.data.get("folds"):
            cross_validate()
            return
        train_and_evaluate(CONFIG.value, WORKDIR.value)
    except (ConfigError, DataError, FloatingPointError) as error:
        sys.exit(f"Error: {error}")
    if CONFIG.value.data.get("test") or CONFIG.value.data.get("tests_elsewhere"):
        report = write_report(WORKDIR.value)
        print_report(WORKDIR.value)
        print(f"Report: {report}")


def cross_validate() -> None:
    """Trains the folds, with a report of each, and reports on all once they are finished."""
    from topgap_jax.reports import write_report
    from topgap_jax.reports.cross_validation import print_cross_validation, write_cross_validation_report
    from topgap_jax.training import cross_validation

    progress = cross_validation.cross_validate(
        CONFIG.value, WORKDIR.value, report=partial(print, flush=True), after_fold=write_report
    )
    if progress.unfinished:
        print(f"Folds still to be trained: {', '.join(map(str, progress.unfinished))}")
        return
    report = write_cross_validation_report(WORKDIR.value)
    print_cross_validation(WORKDIR.value)
    print(f"Report: {report}")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a field that the configuration lacks is answered with those that it has."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        sys.exit(f"Error: {unknown_field(argv) or error}")


def unknown_field(argv: list[str]) -> str | None:
    """Names the first `--config.FIELD` that does not exist, and those that do."""
    given = [argument.lstrip("-").split("=", 1) for argument in argv[1:] if argument.startswith("-")]
    path = next(value for name, *value in given if name == "config")[0]
    config = runpy.run_path(path)["get_config"]()
    for name, *_ in given:
        section = config
        for depth, field in enumerate(parts := name.split(".")[1:]):
            if field not in section:
                prefix = "".join(f"{part}." for part in parts[:depth])
                there = ", ".join(sorted(prefix + known for known in section))
                return f"unknown config field {prefix + field!r}; there are: {there}"
            section = section[field]
    return None


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
