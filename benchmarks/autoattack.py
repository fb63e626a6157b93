"""Standard AutoAttack beside the PyTorch reference, on three small trained networks, in one process.

    PYTHONPATH=tests python benchmarks/autoattack.py [--networks plain] [--pictures 256] [--json PATH]

The networks, plain, adversarially trained and Top-GAP, are those of `tests/robust_networks`, with the same
weights in JAX and in PyTorch. Both run APGD-CE, targeted APGD, targeted FAB and Square one after the other,
each on what the ones before left standing, with all cores. The reference is fra31/auto-attack, where the
environment variable AUTOATTACK names its folder, else torchattacks with the same settings.

robust    robust accuracy after each attack.
seconds   from the first attack to the last, ours with compilation.
again     ours: seconds of a second evaluation in the same process, where nothing compiles.
passes    images that the network saw, forward or forward and backward, both counted.
us/image  microseconds of one image in a forward pass, and in a forward and a backward pass (the gradient of
          the cross-entropy with respect to the images), in batches of 64 and 256.
forward, backward    ours: passes times their microseconds at the batch size of the attack.
rest      ours: the seconds that are left: empty slots of a batch when few survive, the attacks' own
          arithmetic, random numbers, the host.

`--json PATH` appends a line per network and contender as it is measured; one that stands there already, from
the same machine with the same settings, is not measured again.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from robust_networks import network, reference, torch_network
from topgap_jax import attacks
from topgap_jax.attacks.autoattack import VERSIONS, auto_attack

BATCH_SIZES = (64, 256)
CONTENDERS = ("reference", "ours")
STAGES = ("clean", *reference.STANDARD)
# Passes that go backward, too. FAB looks at an image with a gradient, and at the next one without.
GRADIENT_SHARE = {"apgd-ce": 1.0, "apgd-t": 1.0, "fab-t": 0.5, "square": 0.0}
COMPILATION = "/jax/core/compile"  # JAX's events: tracing, lowering and compiling


class Reference:
    """The PyTorch network under the reference attacks."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray):
        self.model, self.seen = torch_network.load(name), 0
        self.images, self.labels = torch_network.tensors(images, labels)
        self.source, self.build = next(iter(reference.sources().items()))

    def evaluate(self, eps: float) -> dict[str, Any]:
        passes: dict[str, int] = {}

        def counted(name: str, *arguments: Any, **settings: Any) -> reference.Attack:
            attack = self.build(name, *arguments, **settings)

            def run(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                before = self.seen
                adversarial = attack(images, labels)
                passes[name] = passes.get(name, 0) + self.seen - before
                return adversarial

            return run

        handle = self.model.register_forward_hook(self._count)
        outcome = reference.run(counted, self.model, self.images, self.labels, eps=eps)
        handle.remove()
        return {"robust": outcome.robust_accuracy, "seconds": outcome.seconds, "passes": passes}

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.seen += len(output)

    def forward(self, batch: int) -> Callable[[], Any]:
        images = self.images[_first(batch, self.images)]

        def run() -> None:
            with torch.no_grad():
                self.model(images)

        return run

    def gradient(self, batch: int) -> Callable[[], Any]:
        rows = _first(batch, self.images)
        images, labels = self.images[rows].requires_grad_(), self.labels[rows]

        def run() -> None:
            loss = torch.nn.functional.cross_entropy(self.model(images), labels, reduction="sum")
            torch.autograd.grad(loss, [images])

        return run


class Ours:
    """The JAX network under our attacks."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, batch_size: int):
        self.logits_fn = attacks.logits_fn(network.load(name))
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def evaluate(self, eps: float) -> dict[str, Any]:
        seconds: dict[str, float] = {}
        passes: dict[str, int] = {}

        def timed(name: str, attack: Callable[..., attacks.AttackResult]) -> Callable[..., Any]:
            def run(*arguments: Any, **settings: Any) -> attacks.AttackResult:
                start = time.perf_counter()
                result = attack(*arguments, **settings)
                seconds[name] = time.perf_counter() - start
                passes[name] = int(result.queries.sum())
                return result

            return run

        stages = {name: timed(name, attack) for name, attack in VERSIONS["standard"].items()}
        result = auto_attack(
            self.logits_fn, self.images, self.labels, eps=eps, version=stages, batch_size=self.batch_size
        )
        return {"robust": result.robust_accuracy, "seconds": seconds, "passes": passes}

    def forward(self, batch: int) -> Callable[[], Any]:
        images, logits = jnp.asarray(self.images[_first(batch, self.images)]), jax.jit(self.logits_fn)
        return lambda: logits(images).block_until_ready()

    def gradient(self, batch: int) -> Callable[[], Any]:
        rows = _first(batch, self.images)
        images, labels = jnp.asarray(self.images[rows]), jnp.asarray(self.labels[rows])

        @jax.jit
        @jax.grad
        def gradient(images: jax.Array) -> jax.Array:
            return attacks.losses.LOSSES["ce"](self.logits_fn(images), labels).sum()

        return lambda: gradient(images).block_until_ready()


def _first(batch: int, images: Any) -> np.ndarray:
    """Rows of so many images, over and over where there are fewer."""
    return np.arange(batch) % len(images)


def microseconds(contender: Reference | Ours, repetitions: int = 20) -> dict[str, dict[str, float]]:
    """Per image, by kind of pass and batch size; medians."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("forward", "gradient"):
        found[kind] = {}
        for batch in BATCH_SIZES:
            run, seconds = getattr(contender, kind)(batch), []
            for repetition in range(repetitions + 3):
                start = time.perf_counter()
                run()
                if repetition >= 3:  # the first ones warm up
                    seconds.append(time.perf_counter() - start)
            found[kind][str(batch)] = 1e6 * statistics.median(seconds) / batch
    return found


def measure(settings: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """One row: a network under the attacks of one contender."""
    name = settings["network"]
    contender: Reference | Ours
    if settings["contender"] == "ours":
        contender = Ours(name, images, labels, settings["batch_size"])
    else:
        contender = Reference(name, images, labels)
    compilation = [0.0]

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith(COMPILATION):
            compilation[0] += duration

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    row = {"settings": settings, **contender.evaluate(settings["eps"])}
    row |= {"total": time.perf_counter() - start, "compilation": compilation[0]}
    jax.monitoring.unregister_event_duration_listener(listen)
    if isinstance(contender, Ours):
        start = time.perf_counter()
        contender.evaluate(settings["eps"])
        row["again"] = time.perf_counter() - start
    return row | {"microseconds": microseconds(contender)}


def breakdown(row: dict[str, Any]) -> dict[str, float]:
    """Our seconds by what they went into."""
    batch = str(min(BATCH_SIZES, key=lambda size: abs(size - row["settings"]["batch_size"])))
    forward, gradient = (row["microseconds"][kind][batch] / 1e6 for kind in ("forward", "gradient"))
    passes = sum(row["passes"].values())
    with_gradient = sum(GRADIENT_SHARE[name] * count for name, count in row["passes"].items())
    parts = {"compilation": row["compilation"], "forward": passes * forward}
    parts["backward"] = with_gradient * (gradient - forward)
    return parts | {"rest": row["total"] - sum(parts.values())}


def text(rows: dict[str, dict[str, Any]]) -> str:
    """What one network's two rows say."""
    lines = []
    for contender, row in rows.items():
        robust = " ".join(f"{row['robust'].get(name, float('nan')):8.4f}" for name in STAGES)
        passes = sum(row["passes"].values())
        speed = " ".join(
            f"{row['microseconds'][kind][str(batch)]:6.0f}"
            for kind in ("forward", "gradient")
            for batch in BATCH_SIZES
        )
        label = f"{row['settings']['network']:22} {row['settings']['eps']:6.4f} {contender:9}"
        lines.append(f"{label} {robust} {row['total']:8.1f} {passes:9} {speed}")
    if len(rows) == len(CONTENDERS):
        parts = "  ".join(f"{name} {value:.1f}" for name, value in breakdown(rows["ours"]).items())
        theirs, ours = rows["reference"]["total"], rows["ours"]
        ratios = f"ratio {theirs / ours['total']:.2f}, again {theirs / ours['again']:.2f}"
        lines.append(f"{'':29} {ratios} ({ours['again']:.1f} s); our first seconds: {parts}")
    return "\n".join(lines)


def machine() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch"))
    return f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores), {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(network.NAMES))
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--eps", type=float, help="by default each network's own, see network.py")
    parser.add_argument("--batch-size", type=int, default=64, help="ours; the reference's is 250")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = arguments.networks.split(",")
    if unknown := set(names) - set(network.NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(network.NAMES)}")

    torch.set_num_threads(os.cpu_count() or 1)
    source = next(iter(reference.sources()))
    images, labels = network.pictures(arguments.pictures)
    lines = arguments.json.read_text().splitlines() if arguments.json and arguments.json.exists() else []
    print(f"{machine()}; {arguments.pictures} pictures, Linf; reference: {source}")
    robust = " ".join(f"{name:>8}" for name in STAGES)
    speed = " ".join(f"{kind}{batch:3}" for kind in ("fwd", "f+b") for batch in BATCH_SIZES)
    print(
        f"{'network':22} {'eps':>6} {'contender':9} {robust} {'seconds':>8} {'passes':>9} {speed} [us/image]"
    )
    for name in names:
        rows = {}
        for contender in CONTENDERS:
            settings = {"machine": machine(), "network": name, "contender": contender}
            settings |= {"pictures": arguments.pictures, "eps": arguments.eps or network.EPS[name]}
            settings |= {"batch_size": arguments.batch_size} if contender == "ours" else {"source": source}
            row = next((row for row in map(json.loads, lines) if row["settings"] == settings), None)
            if row is None:
                row = measure(settings, images, labels)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            rows[contender] = row
        print(text(rows), flush=True)


if __name__ == "__main__":
    main()
