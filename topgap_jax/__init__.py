"""Top-GAP in JAX: CNN classifiers whose last layer is a class activation map with a size prior."""

from topgap_jax import attacks
from topgap_jax.analysis.cam import heatmap
from topgap_jax.losses import top_gap_loss
from topgap_jax.models import ModelOutput, create_model, list_models, load_model, save_model
from topgap_jax.nn.pooling import gap, topk_mean, topk_mean_reference

__all__ = [
    "ModelOutput",
    "attacks",
    "create_model",
    "gap",
    "heatmap",
    "list_models",
    "load_model",
    "save_model",
    "top_gap_loss",
    "topk_mean",
    "topk_mean_reference",
]
