"""`topgap evaluate WORKDIR [--corruptions paper]`: a run's accuracies, clean and on corrupted pictures."""

import argparse
import sys

from topgap_jax.cli.arguments import names


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained run again, also on corrupted pictures",
        description="Prints the accuracies of a trained run, and of its twin where there is one, on its test "
        "sets. With --corruptions it evaluates one test set clean and corrupted and writes "
        "WORKDIR/corruptions/. Killed, the same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("workdir", help="folder of a finished run")
    parser.add_argument("--split", default="", help="of the run's data; default: its test sets")
    parser.add_argument(
        "--corruptions",
        type=names,
        default=(),
        help="paper (the 15 types of ImageNet-C), all (and its 4 extra ones), or names with commas",
    )
    parser.add_argument("--severities", type=_numbers, default=(1, 2, 3, 4, 5), help="from 1 to 5")
    parser.add_argument(
        "--variant", default="auto", help="constants: imagenet (for 224 pixels), cifar (for 32), auto"
    )
    parser.add_argument("--examples", type=int, default=0, help="the first so many pictures; 0: all")
    parser.add_argument("--batch-size", type=int, default=64, help="most pictures per pass")
    parser.add_argument("--seed", type=int, default=0, help="of the corruptions")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    # Here, since importing JAX takes seconds and a mistyped option should not.
    from topgap_jax.training import ConfigError, DataError

    try:
        _evaluate_corrupted(arguments) if arguments.corruptions else _evaluate_clean(arguments)
    except (ConfigError, DataError) as error:
        sys.exit(f"Error: {error}")


def _evaluate_corrupted(arguments: argparse.Namespace) -> None:
    from topgap_jax.reports.corruptions import print_corruptions, write_corruption_report
    from topgap_jax.training.corrupted import CorruptionSettings, evaluate_corruptions

    settings = CorruptionSettings(
        names=arguments.corruptions,
        severities=arguments.severities,
        examples=arguments.examples,
        split=arguments.split,
        variant=arguments.variant,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    folder = evaluate_corruptions(arguments.workdir, settings, report=lambda line: print(line, flush=True))
    page = write_corruption_report(folder)
    print_corruptions(folder)
    print(f"Report: {page}")


def _evaluate_clean(arguments: argparse.Namespace) -> None:
    from topgap_jax.reports.corruptions import print_accuracies
    from topgap_jax.training.corrupted import evaluate_splits

    found = evaluate_splits(
        arguments.workdir,
        split=arguments.split,
        examples=arguments.examples,
        batch_size=arguments.batch_size,
    )
    print_accuracies(found)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,3") from error
    return tuple(found)
