"""`topgap COMMAND`: what can be done with data and with trained runs."""

import argparse
from collections.abc import Sequence

from topgap_jax.cli import data, erf, evaluate, explain, robustness, sweep
from topgap_jax.cli.arguments import split_overrides

COMMANDS = (data, erf, evaluate, explain, robustness, sweep)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command; a mistake of the user ends in one line."""
    parser = argparse.ArgumentParser(
        prog="topgap", description=__doc__, epilog="topgap COMMAND --help explains its options."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    arguments, others = parser.parse_known_args(argv)
    if hasattr(arguments, "overrides"):  # the command takes fields of its configuration, as main.py does
        others, arguments.overrides = split_overrides(others)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.run(arguments)
