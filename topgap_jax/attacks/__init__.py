"""Adversarial attacks on any classifier: functions of images to logits, no model class, no data set."""

from topgap_jax.attacks.adaptive import adaptive
from topgap_jax.attacks.apgd import apgd
from topgap_jax.attacks.autoattack import AutoAttackResult, auto_attack
from topgap_jax.attacks.base import AttackResult, prediction_consistency, robust_accuracy
from topgap_jax.attacks.ddn import ddn
from topgap_jax.attacks.fab import fab
from topgap_jax.attacks.gradient import fgsm, pgd
from topgap_jax.attacks.hard_label import rays
from topgap_jax.attacks.networks import LogitsFn, logits_fn, predict, randomized
from topgap_jax.attacks.presets import PRESETS
from topgap_jax.attacks.square import square
from topgap_jax.attacks.transfer import transfer

__all__ = [
    "PRESETS",
    "AttackResult",
    "AutoAttackResult",
    "LogitsFn",
    "adaptive",
    "apgd",
    "auto_attack",
    "ddn",
    "fab",
    "fgsm",
    "logits_fn",
    "pgd",
    "predict",
    "prediction_consistency",
    "randomized",
    "rays",
    "robust_accuracy",
    "square",
    "transfer",
]
