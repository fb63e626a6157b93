from topgap_jax.models.classifier import Classifier, ModelOutput
from topgap_jax.models.features import FeatureInfo
from topgap_jax.models.registry import create_model, list_models, load_model, save_model

__all__ = [
    "Classifier",
    "FeatureInfo",
    "ModelOutput",
    "create_model",
    "list_models",
    "load_model",
    "save_model",
]
