from topgap_jax.training.config import ConfigError
from topgap_jax.training.loop import train_and_evaluate

__all__ = ["ConfigError", "train_and_evaluate"]
