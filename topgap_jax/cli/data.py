"""`topgap data prepare NAME` and `topgap data inspect SOURCE`."""

import argparse
import sys
from pathlib import Path

from topgap_jax.cli.arguments import names
from topgap_jax.cli.inspect_command import add_inspect


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("data", help="get data sets ready, look into them")
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    _add_prepare(subcommands)
    add_inspect(subcommands)


def _add_prepare(subcommands: argparse._SubParsersAction) -> None:
    prepare = subcommands.add_parser(
        "prepare",
        help="download, verify and unpack a data set",
        description="Downloads the archives of a data set, compares them with the published checksums and "
        "unpacks them into DATA_DIR/NAME. Killed, the same command goes on. Without NAME: what there is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    prepare.add_argument("name", nargs="?", help="of the list, or tfds:NAME of TensorFlow Datasets")
    prepare.add_argument("--data-dir", default="data", help="parent of the data sets' folders")
    prepare.add_argument("--archives", help="a folder with archives that you have already")
    prepare.add_argument("--only", type=names, default=(), help="parts of archive names, such as val,devkit")
    prepare.add_argument(
        "--keep-archives", action="store_true", help="leave what was downloaded in DATA_DIR/NAME/archives"
    )
    prepare.set_defaults(run=run_prepare)


def run_prepare(arguments: argparse.Namespace) -> None:
    from topgap_jax.data.published.prepare import prepare

    if arguments.name is None:
        return print_data_sets(arguments.data_dir)
    try:
        prepare(
            arguments.name,
            arguments.data_dir,
            archives=arguments.archives,
            only=arguments.only,
            keep_archives=arguments.keep_archives,
            report=lambda line: print(line, flush=True),
        )
    except (ValueError, ModuleNotFoundError, OSError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on from here")


def print_data_sets(data_dir: str) -> None:
    """One line per data set: name, size of the usual archives, whether it is there, what it is."""
    from topgap_jax.data.published.archives import DATA_SETS
    from topgap_jax.data.published.prepare import chosen_archives, is_prepared

    for name, data_set in DATA_SETS.items():
        size = sum(archive.size for archive in chosen_archives(name)) / 1e9
        state = f"in {Path(data_dir) / name}" if is_prepared(name, data_dir) else "not prepared"
        how = f"; archives from {data_set.register}" if data_set.register else ""
        print(f"{name:16} {size:6.1f} GB  {state:24} {data_set.title}{how}")
    print(f"{'tfds:NAME':53} any set of TensorFlow Datasets with pictures and class labels")
