"""Values on a command line."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any


def fraction(text: str) -> float:
    """A number or a fraction such as 8/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor a fraction such as 8/255"
        ) from error


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    try:
        return tuple(map(int, names(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 64,128,256") from error


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without changes of the configuration, and these: `--config.FIELD=VALUE` (or a space)."""
    others: list[str] = []
    overrides: list[str] = []
    taken = others
    for argument in arguments:
        if taken is overrides and "=" not in overrides[-1] and not argument.startswith("--"):
            overrides[-1] += f"={argument}"
            continue
        taken = overrides if argument.startswith(("--config.", "--noconfig.")) else others
        taken.append(argument)
    return others, overrides


def read_config(path: str, overrides: Sequence[str] = ()) -> Any:
    """The `ConfigDict` of a file in configs/ with changes such as `--config.train.epochs=3`.

    Which fields there are is for `resolve` to check. Exits with one line if the file cannot be read.
    """
    import ml_collections
    from absl import flags
    from ml_collections import config_flags

    if not Path(path).is_file():
        sys.exit(f"Error: there is no configuration file {path}")
    try:
        get_config = runpy.run_path(path).get("get_config")
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        sys.exit(f"Error: {path} is no configuration file: {error}")
    if get_config is None:
        sys.exit(f"Error: {path} is no configuration file: it has no function get_config")
    argv, values = ["topgap", *overrides], flags.FlagValues()
    options: dict[str, Any] = {"flag_values": values, "sys_argv": argv}
    try:
        file = get_config()
        for override in overrides:  # of sections that the file leaves out
            section = file
            for name in override.partition("=")[0].split(".")[1:-1]:
                if name not in section:
                    section[name] = ml_collections.ConfigDict()
                section = section[name]
        config = config_flags.DEFINE_config_dict(
            "config", file, lock_config=False, accept_new_attributes=True, **options
        )
        values(argv)
        return config.value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"Error: {error.args[0]}")
