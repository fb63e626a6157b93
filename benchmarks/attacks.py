"""PGD-20 against Foolbox on the same JAX network, in one process.

    python benchmarks/attacks.py [--head pyramid] [--images 512] [--json PATH]

Two networks are first trained on handwritten digits: a plain one, and one on FGSM pictures. Each row
answers one question with both libraries, in turn, after a warm-up that compiles:

same steps     the paper's recipe without a random start. Both take all 20 steps with every picture and end
               with the same pictures; what differs is the way there.
same question  how many pictures survive 20 steps of eps/8 from a random start? Foolbox takes all steps
               with every picture, we stop at a picture's first adversarial iterate and refill the batch.

Foolbox gets the network jitted, and the pictures in batches of our size.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import foolbox
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from topgap_jax import attacks
from topgap_jax.models import Classifier, create_model

STEPS = 20
Outcome = tuple[np.ndarray, np.ndarray]  # adversarial images and success


def digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, [1797, size, size, 1] in [0, 1], and their labels, shuffled."""
    images, labels = load_digits(return_X_y=True)
    images = np.kron(images.reshape(-1, 8, 8) / 16, np.ones((size // 8, size // 8)))
    order = np.random.default_rng(0).permutation(len(images))
    return images[order, ..., None].astype(np.float32), labels[order]


def train(
    images: np.ndarray, labels: np.ndarray, *, head: str, adversarial_eps: float, steps: int
) -> Classifier:
    """A narrow ResNet, trained on clean pictures or, with an eps, on FGSM pictures from a random start."""
    model = create_model("resnet_narrow", num_classes=10, head=head, k=64, in_channels=1)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, 1e-2), weight_decay=1e-4)

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, rest)
        logits = model(images, train=True).logits
        rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest

    @jax.jit
    def step(params: Any, rest: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        if adversarial_eps:
            noise = jax.random.uniform(jax.random.key(0), images.shape, minval=-1.0, maxval=1.0)
            start = jnp.clip(images + adversarial_eps * noise, 0, 1)
            gradient = jax.grad(loss, argnums=2, has_aux=True)(params, rest, start, labels)[0]
            moved = start + 1.25 * adversarial_eps * jnp.sign(gradient)
            images = attacks.threat_models.project(moved, images, adversarial_eps, "linf")
        gradients, rest = jax.grad(loss, has_aux=True)(params, rest, images, labels)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state

    rng, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(steps):
        rows = rng.integers(0, len(images), 64)
        params, rest, state = step(params, rest, state, images[rows], labels[rows])
    return nnx.merge(graphdef, params, rest)


def run_foolbox(
    attack: Any, network: Any, images: np.ndarray, labels: np.ndarray, eps: float, batch_size: int
) -> Outcome:
    adversarial, success = [], []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        result = attack(network, jnp.asarray(images[rows]), jnp.asarray(labels[rows]), epsilons=eps)
        adversarial.append(np.asarray(result[1]))
        success.append(np.asarray(result[2]))
    return np.concatenate(adversarial), np.concatenate(success)


def run_ours(network: Any, images: np.ndarray, labels: np.ndarray, eps: float, **settings: Any) -> Outcome:
    result = attacks.pgd(network, images, labels, eps=eps, steps=STEPS, **settings)
    return result.images, result.success


def measure(
    runs: dict[str, Callable[[], Outcome]], repetitions: int
) -> tuple[dict[str, Outcome], dict[str, list[float]]]:
    """What each run gives, and its seconds; the runs take turns."""
    outcomes = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return outcomes, seconds


def compare(
    model: Classifier, images: np.ndarray, labels: np.ndarray, eps: float, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per question."""
    ours = attacks.logits_fn(model)
    theirs = foolbox.JAXModel(jax.jit(ours), bounds=(0, 1))
    clean = attacks.predict(ours, images)
    data, size = (images, labels, eps), arguments.batch_size
    linf_pgd = partial(foolbox.attacks.LinfPGD, steps=STEPS)
    questions = {
        "same steps": (
            linf_pgd(random_start=False),
            {"recipe": "paper", "random_start": False},
        ),
        "same question": (linf_pgd(rel_stepsize=2.5 / STEPS), {"recipe": "strong"}),
    }
    rows = []
    for question, (attack, settings) in questions.items():
        runs = {
            "Foolbox": partial(run_foolbox, attack, theirs, *data, size),
            "ours": partial(run_ours, ours, *data, batch_size=size, **settings),
        }
        outcomes, seconds = measure(runs, arguments.repetitions)
        speed = {name: len(images) / statistics.median(values) for name, values in seconds.items()}
        different = np.abs(outcomes["ours"][0] - outcomes["Foolbox"][0]) > 1e-5
        rows.append(
            {
                "question": question,
                "images_per_second": speed,
                "ratio": speed["ours"] / speed["Foolbox"],
                "clean_accuracy": float((clean == labels).mean()),
                "robust_accuracy": {
                    name: float(((clean == labels) & ~success).mean())
                    for name, (_, success) in outcomes.items()
                },
                "different_pixels": float(different.mean()),
                "seconds": seconds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", default="original", choices=("original", "pyramid", "last"))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=32, help="pixels, a multiple of 8")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--train-steps", type=int, default=150)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    images, labels = digits(arguments.size)
    train_images, train_labels = images[: -arguments.images], labels[: -arguments.images]
    test_images, test_labels = images[-arguments.images :], labels[-arguments.images :]
    print(
        f"resnet_narrow, {arguments.head} head, {arguments.images} pictures of {arguments.size} px, Linf, "
        f"eps {arguments.eps:g}, batches of {arguments.batch_size}; "
        f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}"
    )
    print(f"{'network':16} {'question':14} {'clean':>6} {'robust':>15} {'images/s':>17}  ratio")
    rows = []
    for network, training_eps in (("plain", 0.0), ("trained on FGSM", arguments.eps)):
        model = train(
            train_images,
            train_labels,
            head=arguments.head,
            adversarial_eps=training_eps,
            steps=arguments.train_steps,
        )
        for row in compare(model, test_images, test_labels, arguments.eps, arguments):
            rows.append({"network": network, **row})
            robust, speed = row["robust_accuracy"], row["images_per_second"]
            print(
                f"{network:16} {row['question']:14} {row['clean_accuracy']:6.3f} "
                f"{robust['Foolbox']:7.3f} {robust['ours']:7.3f} "
                f"{speed['Foolbox']:8.1f} {speed['ours']:8.1f} {row['ratio']:6.2f}",
                flush=True,
            )
    print("robust and images/s: Foolbox, then ours")
    if arguments.json:
        settings = vars(arguments) | {"json": str(arguments.json)}
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
