"""What a training step needs on slices of TPU v5e, compiled without a TPU; and an ESTIMATE of its speed.

    pip install libtpu     # in an environment of its own
    python benchmarks/tpu.py [--topologies 4x4,16x16] [--change model.pool=mean] [--json runs/tpu.jsonl]

Memory, operations and collectives are those of the optimised program. Images/s are a roofline ESTIMATE from
Google's figures of the chip (https://cloud.google.com/tpu/docs/v5e): nothing ran. Ends with an error if the
memory of a chip does not suffice, or if more than gradients, BatchNorm's sums and metrics crosses chips.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from topgap_jax.training.ahead_of_time import abstract_model, compile_train_step, memory, tpu_devices
from topgap_jax.training.config import as_json, resolve
from topgap_jax.training.hlo import Collective, collectives, executed

CONFIGS = ("configs/imagenet_k256.py", "configs/imagenet_baseline.py", "configs/imagenet_vgg11.py")
TOPOLOGIES = ("2x4", "4x4", "8x8", "16x16")
IMAGE_SHAPE, CLASSES = (224, 224, 3), 1000

MEMORY = 16e9  # bytes per chip
PEAK_FLOPS = 197e12  # per second, bfloat16
HBM_BANDWIDTH = 819e9  # bytes per second
# Of the 400 GB/s in both directions together through four ports, a ring along one axis can send through two.
RING_BANDWIDTH = 100e9
CLOCK = PEAK_FLOPS / (4 * 128 * 128 * 2)  # per second: four matrix units of 128x128 multiply and add
HOP_SECONDS = 1e-6  # assumed: from one chip to the next
REDUCTIONS = ("all-reduce",)
OF_SHARDED_PARAMETERS = (*REDUCTIONS, "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def load(path: str, changes: Iterable[str], images: int) -> Any:
    """The resolved configuration of a file, with `FIELD=JSON` changes and a batch of `images`."""
    spec = importlib.util.spec_from_file_location("config", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fields: dict[str, Any] = module.get_config().to_dict()
    for change in (*changes, f"train.batch_size={images}"):
        path_of_field, _, text = change.partition("=")
        section, _, field = path_of_field.partition(".")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        fields.setdefault(section, {})[field] = value
    return resolve(fields)


def purpose(collective: Collective) -> str:
    """What a collective is for, as its shapes and its origin show."""
    if collective.kind != "all-reduce":
        return "sharded parameters"
    if any(len(tensor.shape) > 1 for tensor in collective.results):
        return "gradients"
    if not any(tensor.shape for tensor in collective.results):
        return "metrics"
    return "BatchNorm, backward" if "transpose" in collective.origin else "BatchNorm, forward"


def summary(found: list[Collective]) -> list[dict[str, Any]]:
    """One entry per kind and purpose: how many, the bytes of the arrays, and what each chip sends."""
    groups: dict[tuple[str, str], list[Collective]] = {}
    for collective in found:
        groups.setdefault((collective.kind, purpose(collective)), []).append(collective)
    return [
        {
            "kind": kind,
            "purpose": what,
            "count": len(group),
            "arrays": sum(len(collective.results) for collective in group),
            "bytes": sum(collective.nbytes for collective in group),
            "sent": sum(collective.sent for collective in group),
            "largest": max((list(t.shape) for c in group for t in c.results), key=math.prod),
        }
        for (kind, what), group in groups.items()
    ]


def name(settings: dict[str, Any]) -> list[str]:
    """What tells a row from the others."""
    return [Path(settings["path"]).stem, *settings["changes"], settings["topology"]]


def measure(settings: dict[str, Any], config: Any, programs: Path | None) -> dict[str, Any]:
    """One row: the settings and what the compiled program says. Its text goes to the folder `programs`."""
    devices = tpu_devices(f"v5e:{settings['topology']}")
    start = time.perf_counter()
    compiled = compile_train_step(config, devices, num_classes=CLASSES, image_shape=IMAGE_SHAPE)
    seconds = time.perf_counter() - start
    analysis: Any = compiled.cost_analysis()
    program = compiled.as_text() or ""
    if programs:
        programs.mkdir(parents=True, exist_ok=True)
        (programs / f"{'-'.join(name(settings))}.hlo").write_text(program)
    parameters = jax.tree.leaves(jax.eval_shape(lambda: abstract_model(config, CLASSES)))
    return {
        "settings": settings,
        "compile_seconds": seconds,
        "memory": memory(compiled),
        "flops": analysis["flops"],
        **in_program(program),
        "largest_parameter": max(leaf.size for leaf in parameters),
    }


def in_program(text: str) -> dict[str, Any]:
    """Memory traffic [bytes] and the compiler's estimate of cycles, with Top-GAP's share, and collectives."""
    instructions = executed(text)
    pooling = [each for each in instructions if "topk_mean" in each.origin]
    return {
        "traffic": sum(each.times * each.memory_bytes for each in instructions),
        "pooling_traffic": sum(each.times * each.memory_bytes for each in pooling),
        "cycles": sum(each.times * each.cycles for each in instructions),
        "pooling_cycles": sum(each.times * each.cycles for each in pooling),
        "collectives": summary(collectives(text)),
    }


def complaints(row: dict[str, Any]) -> list[str]:
    """What must not be: too much memory, or a CAM (or anything else of the pictures) that crosses chips."""
    fsdp = json.loads(row["settings"]["config"])["mesh"]["fsdp"]
    allowed = OF_SHARDED_PARAMETERS if fsdp > 1 else REDUCTIONS
    total, found = row["memory"]["total"], []
    if total >= MEMORY:
        found.append(f"{total / 1e9:.1f} GB of {MEMORY / 1e9:.0f} GB")
    for entry in row["collectives"]:
        if entry["kind"] not in allowed:
            found.append(f"{entry['count']} {entry['kind']}, up to {entry['largest']}")
        if math.prod(entry["largest"]) > row["largest_parameter"]:
            found.append(f"{entry['kind']} of {entry['largest']}, more than any parameter has")
    return found


def estimate(row: dict[str, Any]) -> dict[str, float]:
    """ESTIMATE of one step: seconds of each part, images/s, and the share that communication leaves.

    A roofline: matrix arithmetic and memory traffic overlap entirely, communication not at all. A collective
    takes the time of its bytes round a ring, and that of twice the longest way through the slice. What the
    vector unit does is left out; the compiler's own estimate of cycles has it.
    """
    rows, columns = map(int, row["settings"]["topology"].split("x"))
    # Only the full pod is closed to a torus.
    hops = (rows + columns) // 2 if rows * columns == 256 else rows + columns - 2
    images = rows * columns * row["settings"]["images_per_chip"]
    compute, traffic = row["flops"] / PEAK_FLOPS, row["traffic"] / HBM_BANDWIDTH
    count = sum(entry["count"] for entry in row["collectives"])
    ring = sum(entry["sent"] for entry in row["collectives"]) / RING_BANDWIDTH
    communication = ring + count * 2 * hops * HOP_SECONDS
    seconds = max(compute, traffic) + communication
    return {
        "compute": compute,
        "traffic": traffic,
        "communication": communication,
        "images_per_second": images / seconds,
        "efficiency": max(compute, traffic) / seconds,
        "cycles": row["cycles"] / CLOCK,
        "images_per_second_by_cycles": images / (row["cycles"] / CLOCK + communication),
    }


def text(row: dict[str, Any]) -> str:
    """The row as a line of a Markdown table."""
    settings, guess = row["settings"], estimate(row)
    sent = sum(entry["bytes"] for entry in row["collectives"])
    cells = [
        " ".join(name(settings)[:-1]),
        math.prod(map(int, settings["topology"].split("x"))),
        f"{row['memory']['total'] / 1e9:.2f}",
        f"{row['flops'] / 1e12:.3f}",
        f"{row['traffic'] / 1e9:.1f}",
        f"{sum(entry['count'] for entry in row['collectives'])}",
        f"{sent / 1e6:.1f}",
        f"{1e3 * guess['compute']:.1f}",
        f"{1e3 * guess['traffic']:.1f}",
        f"{1e3 * guess['communication']:.2f}",
        f"{guess['images_per_second']:,.0f}",
        f"{guess['efficiency']:.3f}",
        f"{1e3 * guess['cycles']:.1f}",
        f"{guess['images_per_second_by_cycles']:,.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


COLUMNS = (
    *("run", "chips", "memory [GB]", "TFLOP", "memory traffic [GB]", "collectives", "their arrays [MB]"),
    *("ESTIMATE: arithmetic [ms]", "traffic [ms]", "communication [ms]", "images/s", "efficiency"),
    *("by the compiler's cycles [ms]", "images/s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--images-per-chip", type=int, default=128)
    parser.add_argument("--change", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--json", type=Path, help="rows found there are not compiled again")
    parser.add_argument("--programs", type=Path, help="folder for the optimised programs")
    arguments = parser.parse_args()

    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    lines = arguments.json.read_text().splitlines() if arguments.json and arguments.json.exists() else []
    wrong = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for path in arguments.configs.split(","):
        for topology in arguments.topologies.split(","):
            chips = math.prod(map(int, topology.split("x")))
            config = load(path, arguments.change, chips * arguments.images_per_chip)
            settings = {"path": path, "topology": topology, "images_per_chip": arguments.images_per_chip}
            settings |= {"changes": arguments.change, "config": as_json(config), "versions": versions}
            row = next((row for row in map(json.loads, lines) if row["settings"] == settings), None)
            if row is None:
                row = measure(settings, config, arguments.programs)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            print(text(row), flush=True)
            wrong += [f"{path} on {topology}: {complaint}" for complaint in complaints(row)]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
