"""AutoAttack (Croce & Hein, 2020): an ensemble without parameters, each on what the others left standing.

An example leaves at its first adversarial image, within an attack and between them. Its result does not
depend on the batch it sits in, and with a `directory` an evaluation that was killed goes on where it was.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, networks
from topgap_jax.attacks.apgd import apgd
from topgap_jax.attacks.base import AttackResult, Examples
from topgap_jax.attacks.fab import fab
from topgap_jax.attacks.journal import Journal
from topgap_jax.attacks.network_checks import network_flags
from topgap_jax.attacks.square import square
from topgap_jax.attacks.threat_models import distances

Stages = Mapping[str, Callable[..., AttackResult]]

APGD_CE = partial(apgd, loss="ce")
APGD_DLR = partial(apgd, loss="dlr")
APGD_T = partial(apgd, loss="dlr-targeted", num_targets=9)
FAB_T = partial(fab, targeted=True, num_targets=9)

# The attacks of each version in their order.
VERSIONS: Mapping[str, Stages] = {
    "standard": {"apgd-ce": APGD_CE, "apgd-t": APGD_T, "fab-t": FAB_T, "square": square},
    "plus": {
        "apgd-ce": partial(APGD_CE, restarts=5),
        "apgd-dlr": partial(APGD_DLR, restarts=5),
        "fab": partial(fab, restarts=5),
        "square": square,
        "apgd-t": APGD_T,
        "fab-t": FAB_T,
    },
    "rand": {"apgd-ce": partial(APGD_CE, eot=20), "apgd-dlr": partial(APGD_DLR, eot=20)},
}

# In L1, APGD gets restarts and fewer targets (Croce & Hein, 2021, "Mind the box").
STANDARD_L1: Stages = {
    "apgd-ce": partial(APGD_CE, restarts=5),
    "apgd-t": partial(APGD_T, num_targets=5),
    "fab-t": FAB_T,
    "square": square,
}

# If Square, which needs no gradient, finds more than this beyond the others, these were masked.
SQUARE_SURPLUS = 0.002


class AutoAttackResult(NamedTuple):
    """The worst case per example; NumPy arrays."""

    images: np.ndarray  # float32 [B,H,W,C]: the adversarial image, else the clean one
    success: np.ndarray  # bool [B]: the label is missed, on the clean image or the adversarial one
    predictions: np.ndarray  # int32 [B], of `images`
    fooled_by: np.ndarray  # str [B]: the attack that succeeded; "clean": wrong all along; "": still standing
    queries: np.ndarray  # int32 [B], times the network saw the example, over all attacks
    distance: np.ndarray  # float32 [B], norm of the perturbation
    robust_accuracy: dict[str, float]  # "clean", then the share left standing after each attack, in order
    flags: tuple[str, ...]  # what makes these figures doubtful, a sentence each
    config: dict[str, Any]  # every setting of every attack, ready for JSON


def auto_attack(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    version: str | Stages = "standard",
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    directory: str | Path | None = None,
    report: Callable[[str], None] | None = None,
) -> AutoAttackResult:
    """Robust accuracy against the standard ensemble: APGD-CE, targeted APGD, targeted FAB, Square.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`; a randomised one, see `networks.randomized`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf", "l2" or "l1".
      version: "standard"; "plus": also untargeted DLR and FAB, with restarts; "rand": for randomised
        networks, gradients averaged over 20 draws; or your own mapping from names to functions like `apgd`.
      indices: where each image stands in its data set, integers [B], default 0..B-1. They choose the random
        numbers, so that an image fares alike in whatever batch it comes.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      directory: where finished attempts are written, see `journal`; the same call goes on from there.
      report: called with a line of text after each attack.

    Returns:
      An `AutoAttackResult`.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits; a `directory` of other data.

    Croce & Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
    Parameter-free Attacks", section 5.
    """
    stages = _stages(version, norm)
    network, examples = base.prepare(
        logits_fn, images, labels, norm=norm, eps=eps, indices=indices, batch_size=batch_size
    )
    key = networks.as_key(key)
    config = {
        "version": version if isinstance(version, str) else "custom",
        "stages": list(stages),
        "eps": float(eps),
        "norm": norm,
        "key": jax.random.key_data(key).tolist(),
    }
    journal = None if directory is None else Journal(directory, network, examples, config)

    logits = networks.logits_of(network, examples.images, batch_size=batch_size)
    result = _clean(examples, logits)
    flags = network_flags(network, examples, logits, batch_size=batch_size)
    if networks.is_randomized(network) and version != "rand":
        flags.append('the network is randomised: version="rand" averages its gradients')
    accuracy = {"clean": _standing(result)}
    settings: dict[str, Any] = {}
    for number, (name, attack) in enumerate(stages.items()):
        rows = np.flatnonzero(~result.success)
        if not len(rows):
            break
        survivors: Examples = jax.tree.map(lambda field: field[rows], examples)  # noqa: B023
        found = attack(
            network,
            survivors.images,
            survivors.labels,
            eps=eps,
            norm=norm,
            indices=survivors.indices,
            batch_size=batch_size,
            key=jax.random.fold_in(key, number),
            log=None if journal is None else journal.log(name, survivors, norm),
        )
        settings[name] = found.config
        flags += _take_over(result, name, rows, found, network, survivors, batch_size)
        accuracy[name] = _standing(result)
        if report is not None:
            report(f"{name}: {accuracy[name]:.1%} of {len(logits)} still standing")
    flags += _attack_flags(accuracy)
    distance = distances(result.images - np.asarray(examples.images), norm)
    return result._replace(
        distance=distance, robust_accuracy=accuracy, flags=tuple(flags), config=config | {"attacks": settings}
    )


def _stages(version: str | Stages, norm: str) -> Stages:
    if not isinstance(version, str):
        if not version:
            raise ValueError("a version of your own needs at least one attack, got an empty mapping")
        return version
    checks.check_name(version, "version", VERSIONS)
    return STANDARD_L1 if (version, norm) == ("standard", "l1") else VERSIONS[version]


def _standing(result: AutoAttackResult) -> float:
    return float((~result.success).mean())


def _clean(examples: Examples, logits: np.ndarray) -> AutoAttackResult:
    """Before any attack: who is wrong all along."""
    predictions = logits.argmax(-1).astype(np.int32)
    wrong = predictions != np.asarray(examples.labels)
    return AutoAttackResult(
        images=np.array(examples.images),
        success=wrong,
        predictions=predictions,
        fooled_by=np.where(wrong, "clean", "").astype(object),
        queries=np.ones(len(wrong), np.int32),
        distance=np.zeros(len(wrong), np.float32),
        robust_accuracy={},
        flags=(),
        config={},
    )


def _take_over(
    result: AutoAttackResult,
    name: str,
    rows: np.ndarray,
    found: AttackResult,
    network: Partial,
    survivors: Examples,
    batch_size: int,
) -> list[str]:
    """Writes an attack's successes into the result, in place, if the network still misses the label."""
    result.queries[rows] += found.queries
    hits = np.flatnonzero(found.success)
    if not len(hits):
        return []
    # Filled up to one size for all attacks, so that it compiles once.
    filled = np.resize(hits, max(len(hits), networks.smallest_bucket(len(result.success), batch_size)))
    predictions = networks.predict(network, found.images[filled], batch_size=batch_size)[: len(hits)]
    holds = predictions != np.asarray(survivors.labels)[hits]
    fooled = rows[hits[holds]]
    result.images[fooled] = found.images[hits[holds]]
    result.predictions[fooled] = predictions[holds]
    result.success[fooled] = True
    result.fooled_by[fooled] = name
    lost = int((~holds).sum())
    if not lost:
        return []
    return [f"{lost} of {len(hits)} adversarial images of {name} did not fool the network when shown again"]


def _attack_flags(accuracy: Mapping[str, float]) -> list[str]:
    names = list(accuracy)
    if "square" not in names:
        return []
    before = accuracy[names[names.index("square") - 1]]
    surplus = before - accuracy["square"]
    if surplus <= SQUARE_SURPLUS:
        return []
    return [f"Square, which needs no gradient, fooled {surplus:.1%} that the others left: masked gradients?"]
