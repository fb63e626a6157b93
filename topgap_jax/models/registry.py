"""Models by name."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from topgap_jax.models import preact_resnet, resnet
from topgap_jax.models.classifier import HEADS, POOLS, Classifier
from topgap_jax.models.features import Backbone

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "cifar_resnet18": resnet.cifar_resnet18,
    "preact_resnet18": preact_resnet.preact_resnet18,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet_narrow": resnet.resnet_narrow,
}
DTYPES = ("float32", "bfloat16")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(BACKBONES)


def create_model(
    name: str,
    num_classes: int,
    *,
    head: str = "pyramid",
    pool: str | None = None,
    k: int = 256,
    pyramid_channels: int = 256,
    dropout: float = 0.0,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: str = "float32",
    pretrained: str | None = None,
    seed: int = 0,
) -> Classifier:
    """Creates a classifier with fresh parameters.

    Args:
      name: one of `list_models()`.
      num_classes: K >= 2.
      head: "pyramid" (the paper's), "last" (1x1 convolution on the last map) or "original" (unmodified).
      pool: "topk" or "mean"; by default "topk", and "mean" for the original head, which knows no other.
      k: positions of the CAM that Top-GAP averages (paper: 64 to 2048 at 56x56, 8 to 256 at 32x32).
      pyramid_channels: filters of the pyramid's 3x3 convolutions.
      dropout: rate before the pyramid's last convolution, in [0, 1).
      in_channels: channels of the images.
      mean, std: normalisation per channel, in units of [0, 1]; by default ImageNet's for three channels, else
        0.5 and 0.25.
      dtype: of the computation, "float32" or "bfloat16".
      pretrained: reserved for pretrained weights; only None exists so far.
      seed: of the initial parameters.

    Returns:
      A `flax.nnx.Module`: `model(images)` gives `ModelOutput(logits, cam, features)`.

    Raises:
      ValueError: an unknown name or a value outside its range; the message lists what exists.
    """
    _choose("model", name, list_models())
    _choose("head", head, HEADS)
    pool = pool or ("mean" if head == "original" else "topk")
    _choose("pool", pool, POOLS)
    _choose("dtype", dtype, DTYPES)
    if head == "original" and pool != "mean":
        raise ValueError(f'head="original" is the unmodified classifier and pools by "mean", not by "{pool}"')
    if pretrained is not None:
        raise ValueError(
            f"pretrained={pretrained!r}: no pretrained weights are available for {name!r} yet; use None"
        )
    for label, value, lowest in (
        ("num_classes", num_classes, 2),
        ("k", k, 1),
        ("in_channels", in_channels, 1),
    ):
        if value < lowest:
            raise ValueError(f"{label}={value} is too small: at least {lowest}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is outside [0, 1)")
    if dropout and head != "pyramid":
        raise ValueError(f'dropout={dropout} belongs to head="pyramid"; head="{head}" has none')

    rngs = nnx.Rngs(seed)
    compute = jnp.dtype(dtype)
    return Classifier(
        BACKBONES[name](in_channels=in_channels, dtype=compute, rngs=rngs),
        num_classes,
        head=head,
        pool=pool,
        k=k,
        pyramid_channels=pyramid_channels,
        dropout=dropout,
        mean=_per_channel("mean", mean, IMAGENET_MEAN, 0.5, in_channels),
        std=_per_channel("std", std, IMAGENET_STD, 0.25, in_channels),
        dtype=compute,
        rngs=rngs,
    )


def _choose(label: str, value: Any, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"unknown {label} {value!r}; there are: {', '.join(options)}")


def _per_channel(
    label: str, value: Sequence[float] | None, rgb: tuple[float, ...], other: float, channels: int
) -> tuple[float, ...]:
    if value is None:
        return rgb if channels == 3 else (other,) * channels
    if len(value) != channels:
        raise ValueError(f"{label}={tuple(value)} has {len(value)} values for {channels} image channels")
    return tuple(float(v) for v in value)
