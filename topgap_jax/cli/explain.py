"""`topgap explain WORKDIR IMAGE...`: what a trained run sees in pictures, and where."""

import argparse
import hashlib
import sys
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain",
        help="predict and explain pictures with a trained run",
        description="Predicts pictures, and whole folders of them, and writes for each an overlay, a heat "
        "map and a line of OUT/explanations.jsonl with probabilities and the estimated area. Killed, the "
        "same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("workdir", help="folder of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders of pictures")
    parser.add_argument(
        "--class", dest="class_name", default="", help="the class to explain; default: the prediction"
    )
    parser.add_argument("--out", default="", help="folder of the results; default: WORKDIR/explanations")
    parser.add_argument("--threshold", type=float, help="of the heat map; default: the run's own, or 0.5")
    parser.add_argument(
        "--pixel-size", type=float, help="micrometres per stored pixel; default: as the file says"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="pictures per forward pass")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    # Here, since importing JAX takes seconds and a mistyped option should not.
    from rich.progress import Progress

    from topgap_jax.reports.explanations import ExplanationFolder
    from topgap_jax.training.config import ConfigError
    from topgap_jax.training.explaining import Explainer, ExplainSettings, Unreadable, find_pictures

    try:
        places = find_pictures(arguments.images)
        settings = ExplainSettings(
            arguments.class_name, arguments.threshold, arguments.pixel_size, arguments.batch_size
        )
        explain = Explainer(arguments.workdir, settings)
        out = Path(arguments.out or Path(arguments.workdir) / "explanations")
        weights = (Path(arguments.workdir) / "model.safetensors").read_bytes()
        folder = ExplanationFolder(
            out,
            {
                "network": hashlib.sha256(weights).hexdigest()[:12],
                "class": arguments.class_name,
                "threshold": explain.threshold,
                "pixel_size": arguments.pixel_size,
            },
        )
    except (ConfigError, ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    todo = [path for path, place in places.items() if place.as_posix() not in folder.done]
    left_out = 0
    with Progress(disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("explaining", total=len(places), completed=len(places) - len(todo))
        for found in explain(todo):
            place = places[found.path]
            if isinstance(found, Unreadable):
                left_out += 1
                folder.unreadable(place, found.path, found.problem)
                progress.console.print(f"left out: {found.problem}", highlight=False)
            else:
                line = folder.add(
                    place,
                    found.path,
                    found.image,
                    found.heat,
                    found.probabilities,
                    found.label,
                    explain.run.class_names,
                    explain.threshold,
                    found.pixel_size,
                )
                if len(places) <= 20:
                    progress.console.print(_sentence(line), highlight=False)
            progress.advance(task)
    explained = len(todo) - left_out
    before = f", {len(places) - len(todo)} were there" if len(todo) < len(places) else ""
    print(f"{explained} explained, {left_out} left out{before}: {out}/explanations.jsonl")
    if explained == 0 and left_out == len(places):
        sys.exit("Error: none of the pictures could be read")


def _sentence(line: dict) -> str:
    size = f"{line['lit_share']:.1%} of the picture is lit"
    if "area_um2" in line:
        size += f", {line['area_um2']:.4g} square micrometres"
    explained = "" if line["explained"] == line["prediction"] else f" (map of {line['explained']})"
    return f"{line['file']}: {line['prediction']} ({line['probability']:.1%}){explained}; {size}"
