"""`topgap COMMAND`: what can be done with data and with trained runs."""

import argparse
from collections.abc import Sequence

from topgap_jax.cli import data, erf, evaluate, explain, robustness

COMMANDS = (data, erf, evaluate, explain, robustness)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command; a mistake of the user ends in one line."""
    parser = argparse.ArgumentParser(
        prog="topgap", description=__doc__, epilog="topgap COMMAND --help explains its options."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
