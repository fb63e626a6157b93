"""Adversarial attacks on any classifier: functions of images to logits, no model class, no data set."""

from topgap_jax.attacks.base import AttackResult, prediction_consistency, robust_accuracy
from topgap_jax.attacks.gradient import fgsm, pgd
from topgap_jax.attacks.networks import LogitsFn, logits_fn, predict

__all__ = [
    "AttackResult",
    "LogitsFn",
    "fgsm",
    "logits_fn",
    "pgd",
    "predict",
    "prediction_consistency",
    "robust_accuracy",
]
