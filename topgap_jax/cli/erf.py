"""`topgap erf WORKDIR...`: how much of the picture the center and the corner of the map depend on."""

import argparse
import json
import sys
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "erf",
        help="measure effective receptive fields of trained runs",
        description="Measures the effective receptive field of trained runs and of their twins at the center "
        "and the corner of the map, and writes a table and a figure.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="folders of finished runs")
    parser.add_argument("--out", default="", help="folder of the results; default: erf in the first WORKDIR")
    parser.add_argument("--examples", type=int, default=128, help="the first so many pictures of the split")
    parser.add_argument("--split", default="", help="of the runs' data; default: the first test split")
    parser.add_argument(
        "--normalize",
        choices=("image", "dataset"),
        default="image",
        help="z-normalise over both positions of each image, or of the whole data set",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pictures per pass")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    # Here, since importing JAX takes seconds and a mistyped option should not.
    from topgap_jax.reports.receptive_fields import write_fields
    from topgap_jax.training.config import ConfigError
    from topgap_jax.training.receptive_fields import measure_fields
    from topgap_jax.training.runs import with_twin

    directories = [directory for workdir in arguments.workdirs for directory in with_twin(Path(workdir))]
    try:
        measured = [
            measure_fields(
                directory,
                examples=arguments.examples,
                split=arguments.split,
                normalize=arguments.normalize,
                batch_size=arguments.batch_size,
            )
            for directory in directories
        ]
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    results, fields = zip(*measured, strict=True)
    folder = Path(arguments.out or directories[0] / "erf")
    print(write_fields(folder, results, fields))
    (folder / "erf.json").write_text(json.dumps(results, indent=2))
    print(f"Table and figure: {folder}/erf.md, erf.png")
