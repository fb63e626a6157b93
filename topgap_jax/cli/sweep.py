"""`topgap sweep --config=FILE --workdir=DIR --k=64,128,256`: trains every k and says which one to take."""

import argparse
import sys
from functools import partial

from topgap_jax.cli.arguments import integers, read_config


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "sweep",
        help="train one configuration with several k and compare them",
        description="Trains and evaluates a configuration for each k, all by the same compiled programs, and "
        "writes one table. Which k is best, the validation split says. Killed, the same command goes on. "
        "Fields of the configuration are changed as in main.py: --config.train.epochs=3.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of the sweep; made if missing"
    )
    parser.add_argument("--k", type=integers, required=True, metavar="K,K,...", help="such as 64,128,256")
    parser.add_argument(
        "--seeds", type=integers, default=(), metavar="N,N,...", help="train every k with each; default: one"
    )
    parser.add_argument(
        "--together", type=int, default=1, metavar="N", help="train so many k at once, as one program"
    )
    parser.set_defaults(run=run, overrides=())


def run(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config, arguments.overrides)
    # Here, since importing JAX takes seconds and a mistyped option should not.
    from topgap_jax.reports import write_report
    from topgap_jax.reports.sweep import print_sweep, write_sweep_report
    from topgap_jax.training import ConfigError, DataError, distributed
    from topgap_jax.training.checkpoint import WriteError
    from topgap_jax.training.sweep import sweep

    distributed.listen()
    tests = config.get("data", {}).get("test") or config.get("data", {}).get("tests_elsewhere")
    try:
        sweep(
            config,
            arguments.workdir,
            arguments.k,
            seeds=arguments.seeds,
            together=arguments.together,
            report=partial(print, flush=True),
            after_run=write_report if tests else None,
        )
    except (ConfigError, DataError, WriteError, FloatingPointError) as error:
        sys.exit(f"Error: {error}")
    except distributed.Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(distributed.PREEMPTED)
    page = write_sweep_report(arguments.workdir)
    print_sweep(arguments.workdir)
    print(f"Report: {page}")
