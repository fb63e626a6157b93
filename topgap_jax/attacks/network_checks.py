"""What is odd about a network, before an evaluation: cheap checks, a sentence each."""

import re
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from topgap_jax.attacks import networks
from topgap_jax.attacks.base import Examples
from topgap_jax.attacks.journal import fingerprint
from topgap_jax.attacks.trajectories import input_gradients

LOOKED_AT = 64  # examples whose gradients are computed


def network_flags(
    network: Partial, examples: Examples, logits: np.ndarray, *, batch_size: int = 64
) -> list[str]:
    """Sentences about a network that an evaluation may misjudge; none if it is as it should be.

    Args:
      network: see `networks.logits_fn`.
      examples: B of them, on the host.
      logits: of their images, [B,K].
      batch_size: images in one pass through the network.
    """
    classes, wrong = logits.shape[1], logits.argmax(-1) != np.asarray(examples.labels)
    flags = []
    if logits.min() >= 0 and logits.max() <= 1 and np.allclose(logits.sum(-1), 1, atol=1e-3):
        flags.append("the outputs look like probabilities: give logits, else the losses lose their gradient")
    if not networks.is_randomized(network) and _changes(network, examples, logits, batch_size):
        flags.append("two calls with the same images gave different logits: see networks.randomized")
    if wrong.all():
        flags.append(f"the network is wrong on all {len(wrong)} clean images: do labels and classes match?")
    if classes < 4:
        flags.append(f"with {classes} classes the (targeted) DLR loss does not exist: the margin stands in")
    zero = _zero_gradients(network, examples, batch_size)
    if zero.any():
        flags.append(
            f"{zero.sum()} of {len(zero)} input gradients are zero: attacks with gradients are blind there"
        )
    return flags


def _changes(network: Partial, examples: Examples, logits: np.ndarray, batch_size: int) -> bool:
    """Whether a second call gives other logits, or a second trace another program.

    Random numbers from outside JAX are drawn when a network is traced, and are constants of its program.
    """
    again = networks.logits_of(network, examples.images, batch_size=batch_size)
    return not np.array_equal(again, logits) or _traced(network, examples) != _traced(network, examples)


def _traced(network: Partial, examples: Examples) -> tuple[str, str]:
    image = jax.ShapeDtypeStruct((1, *examples.images.shape[1:]), np.float32)
    program = jax.make_jaxpr(lambda network, images: network(images))(network, image)
    return re.sub("0x[0-9a-f]+", "", str(program)), fingerprint(program.consts)


def _zero_gradients(network: Partial, examples: Examples, batch_size: int) -> np.ndarray:
    chosen: Any = jax.tree.map(lambda field: field[:LOOKED_AT], examples)
    images = np.asarray(chosen.images)
    gradients = input_gradients(network, chosen, images, norm="linf", batch_size=min(batch_size, LOOKED_AT))
    return np.array([not gradient.any() for gradient in gradients])
