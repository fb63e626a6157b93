"""`topgap robustness WORKDIR --eps 8/255`: cheap and strong attacks on a trained run, and their report."""

import argparse
import sys

from topgap_jax.cli.arguments import fraction, names


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "robustness",
        help="attack a trained run and write its robustness report",
        description="Attacks a trained run, and its twin where there is one, with cheap and strong attacks, "
        "looks for masked gradients, and writes WORKDIR/robustness/. Killed, the same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("workdir", help="folder of a finished run")
    parser.add_argument("--eps", type=fraction, required=True, help="radius in image units, such as 8/255")
    parser.add_argument("--norm", default="linf", help="linf, l2 or l1")
    parser.add_argument(
        "--attacks", type=names, help="names, separated by commas; default: the paper's and more"
    )
    parser.add_argument(
        "--version", default="standard", help="of AutoAttack: standard, plus, rand; none: without"
    )
    parser.add_argument("--examples", type=int, default=512, help="the first so many pictures of the split")
    parser.add_argument("--split", default="", help="of the run's data; default: its first test split")
    parser.add_argument(
        "--diagnostics", type=int, default=128, help="pictures for the diagnostics; 0: without"
    )
    parser.add_argument("--max-steps", type=int, default=1000, help="of PGD on the curve, figure A3")
    parser.add_argument("--batch-size", type=int, default=64, help="most pictures per pass")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks")
    parser.add_argument(
        "--transfer-from", default="", help="folder of an adversarially trained run: do its images transfer?"
    )
    parser.add_argument(
        "--control", action="append", default=[], help="folder of a run with squeezed logits; may be repeated"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    # Here, since importing JAX takes seconds and a mistyped option should not.
    from topgap_jax.reports.robustness import print_robustness, write_robustness_report
    from topgap_jax.training.config import ConfigError
    from topgap_jax.training.robustness import RobustnessSettings, evaluate_robustness

    chosen = {} if arguments.attacks is None else {"attacks": arguments.attacks}
    settings = RobustnessSettings(
        eps=arguments.eps,
        norm=arguments.norm,
        version="" if arguments.version == "none" else arguments.version,
        examples=arguments.examples,
        split=arguments.split,
        diagnostics=arguments.diagnostics,
        max_steps=arguments.max_steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        transfer_from=arguments.transfer_from,
        controls=tuple(arguments.control),
        **chosen,
    )
    try:
        folders = evaluate_robustness(
            arguments.workdir, settings, report=lambda line: print(line, flush=True)
        )
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    page = write_robustness_report(folders[0])
    print_robustness(folders[0])
    print(f"Report: {page}")
