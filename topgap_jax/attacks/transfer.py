"""Transfer attacks (Papernot et al., 2016): adversarial images of one network, shown to another.

They need no gradient of the network under attack. One that falls to them, but not to its own gradients, masks
its gradients (Athalye et al., 2018, section 3.1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, networks
from topgap_jax.attacks.base import AttackResult, Progress
from topgap_jax.attacks.gradient import pgd
from topgap_jax.attacks.journal import fingerprint
from topgap_jax.attacks.threat_models import distances

# Every image takes every step, twice the radius in all: one that stops at its first success lies next to the
# source's boundary, and the target's is elsewhere.
PGD60 = partial(pgd, steps=60, recipe="paper")


def transfer(
    source: Any,
    target: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    attack: Callable[..., AttackResult] = PGD60,
    targets: ArrayLike | None = None,
    batch_size: int = 64,
    **settings: Any,
) -> AttackResult:
    """Attacks `source`, and judges the adversarial images on `target`.

    Args:
      source: the classifier whose gradients are used, see `networks.logits_fn`.
      target: the classifier under attack, with the same classes and image size.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      attack: on `source`, any of this package. Prefer one that goes on after its first success.
      targets: classes to reach, integers [B]; default: miss the label.
      batch_size: most images in one pass through a network.
      **settings: of the attack: norm, steps, loss, key, indices, ...

    Returns:
      An `AttackResult`: success, predictions, loss (the margin) and queries on `target`. Its `config` has the
      attack's settings, how much of `source` it fooled, and a fingerprint of both networks.

    Raises:
      ValueError: input that cannot be meant; NaN logits.
    """
    if targets is not None:
        settings["targets"] = targets
    crafted = attack(source, images, labels, eps=eps, batch_size=batch_size, **settings)
    norm = crafted.config["norm"]
    judged = judge_images(
        target, crafted.images, images, labels, eps, norm, targets=targets, batch_size=batch_size
    )
    config = judged.config | {
        "attack": "transfer",
        "source": fingerprint(networks.logits_fn(source)),
        "source_attack": crafted.config,
        "source_success": float(crafted.success.mean()),
    }
    return judged._replace(config=config)


def judge_images(
    target: Any,
    adversarial: Any,
    images: ArrayLike,
    labels: ArrayLike,
    eps: float,
    norm: str = "linf",
    *,
    targets: ArrayLike | None = None,
    batch_size: int = 64,
) -> AttackResult:
    """Judges adversarial images that were made elsewhere.

    Args:
      target: the classifier under attack, see `networks.logits_fn`.
      adversarial: [B,H,W,C] float in [0, 1].
      images: the clean ones, [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball that the adversarial images must lie in, in units of the image range.
      norm: a name in `threat_models.NORMS`.
      targets: classes to reach, integers [B]; default: miss the label.
      batch_size: images per pass through the network.

    Returns:
      An `AttackResult` with one query per image; the loss is the margin.

    Raises:
      ValueError: adversarial images outside [0, 1] or the ball, other bad input, NaN logits.
    """
    network, examples = base.prepare(
        target, images, labels, norm=norm, eps=eps, targets=targets, batch_size=batch_size
    )
    adversarial = checks.check_images(adversarial)
    _check_in_ball(adversarial, np.asarray(examples.images), eps, norm)
    logits = networks.logits_of(network, adversarial, batch_size=batch_size)
    judgement = base.judge(jnp.asarray(logits), examples, "margin", targets is not None)
    once: Any = np.ones(len(adversarial), np.int32)
    progress = Progress(images=adversarial, queries=once, done=once > 0, **judgement._asdict())
    config = {
        "attack": "judge_images",
        "norm": norm,
        "eps": float(eps),
        "loss": "margin",
        "targeted": targets is not None,
        "batch_size": batch_size,
        "target": fingerprint(network),
    }
    return base.attack_result(progress, examples, norm, config)


def _check_in_ball(adversarial: np.ndarray, images: np.ndarray, eps: float, norm: str) -> None:
    if adversarial.shape != images.shape:
        raise ValueError(f"adversarial images have shape {adversarial.shape}, the clean ones {images.shape}")
    distance = distances(adversarial - images, norm)
    outside = distance > eps * (1 + 1e-5) + 1e-6  # float32 rounds
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(images)} adversarial images lie outside the {norm} ball of "
            f"eps={eps:g}, the farthest, images[{distance.argmax()}], at {distance.max():g}; "
            "were they stored in 8 bits?"
        )
