from topgap_jax.training.config import ConfigError
from topgap_jax.training.loop import train_and_evaluate
from topgap_jax.training.splits import DataError

__all__ = ["ConfigError", "DataError", "train_and_evaluate"]
