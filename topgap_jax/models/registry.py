"""Models by name."""

import inspect
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from topgap_jax.models import (
    convnext,
    densenet,
    efficientnet,
    preact_resnet,
    ra_wide_resnet,
    resnet,
    vgg,
    wide_resnet,
)
from topgap_jax.models.classifier import HEADS, POOLS, Classifier
from topgap_jax.models.pretrained import KeyTable, load_weights
from topgap_jax.models.weights import Weights, read_weights, write_weights
from topgap_jax.nn.flc_pooling import DOWNSAMPLINGS
from topgap_jax.nn.kwta import KWTA
from topgap_jax.nn.norm import freeze_batch_norm

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
DTYPES = ("float32", "bfloat16", "float64")


class Architecture(NamedTuple):
    """A backbone by name, and what its published weights expect."""

    build: partial[Any]  # of the backbone's class
    tables: tuple[KeyTable, ...]  # one per naming scheme of its published weights
    stem: str  # path of the first convolution
    mean: tuple[float, ...]  # of the images in [0, 1], per channel
    std: tuple[float, ...]


def _imagenet(build: partial[Any], *tables: KeyTable, stem: str = "backbone.conv1") -> Architecture:
    return Architecture(build, tables, stem, IMAGENET_MEAN, IMAGENET_STD)


def _cifar(build: partial[Any], *tables: KeyTable) -> Architecture:
    return Architecture(build, tables, "backbone.conv1", CIFAR_MEAN, CIFAR_STD)


def _convnext(build: partial[Any]) -> Architecture:
    return _imagenet(build, convnext.TIMM_KEYS, convnext.TORCHVISION_KEYS, stem="backbone.stem")


def _efficientnet(build: partial[Any]) -> Architecture:
    tables = (efficientnet.TIMM_KEYS, efficientnet.TORCHVISION_KEYS, efficientnet.LITE0_KEYS)
    return _imagenet(build, *tables, stem="backbone.stem.conv")


ARCHITECTURES = {
    "cifar_resnet18": _cifar(resnet.cifar_resnet18, resnet.KEYS),
    "cifar_resnet34": _cifar(resnet.cifar_resnet34, resnet.KEYS),
    "cifar_resnet50": _cifar(resnet.cifar_resnet50, resnet.KEYS),
    "convnext_base": _convnext(convnext.convnext_base),
    "convnext_small": _convnext(convnext.convnext_small),
    "convnext_tiny": _convnext(convnext.convnext_tiny),
    "densenet121": _imagenet(densenet.densenet121, densenet.KEYS),
    "efficientnet_b0": _efficientnet(efficientnet.efficientnet_b0),
    "efficientnet_b1": _efficientnet(efficientnet.efficientnet_b1),
    "efficientnet_b2": _efficientnet(efficientnet.efficientnet_b2),
    "efficientnet_b3": _efficientnet(efficientnet.efficientnet_b3),
    "efficientnet_lite0": _efficientnet(efficientnet.efficientnet_lite0)._replace(
        mean=(127 / 255,) * 3, std=(128 / 255,) * 3
    ),
    "preact_resnet18": _cifar(preact_resnet.preact_resnet18, preact_resnet.KEYS),
    "preact_resnet34": _cifar(preact_resnet.preact_resnet34, preact_resnet.KEYS),
    "preact_resnet50": _cifar(preact_resnet.preact_resnet50, preact_resnet.KEYS),
    "preact_resnet_narrow": _cifar(preact_resnet.preact_resnet_narrow, preact_resnet.KEYS),
    "ra_wide_resnet70_16": _cifar(ra_wide_resnet.ra_wide_resnet70_16, ra_wide_resnet.KEYS),
    "resnet101": _imagenet(resnet.resnet101, resnet.KEYS),
    "resnet152": _imagenet(resnet.resnet152, resnet.KEYS),
    "resnet18": _imagenet(resnet.resnet18, resnet.KEYS),
    "resnet34": _imagenet(resnet.resnet34, resnet.KEYS),
    "resnet50": _imagenet(resnet.resnet50, resnet.KEYS),
    "resnet_narrow": _imagenet(resnet.resnet_narrow, resnet.KEYS),
    "tf_efficientnet_b0": _efficientnet(efficientnet.tf_efficientnet_b0),
    "tf_efficientnet_b1": _efficientnet(efficientnet.tf_efficientnet_b1),
    "tf_efficientnet_b2": _efficientnet(efficientnet.tf_efficientnet_b2),
    "tf_efficientnet_b3": _efficientnet(efficientnet.tf_efficientnet_b3),
    "vgg11_bn": _imagenet(vgg.vgg11_bn, vgg.VGG11_KEYS, stem="backbone.stages.0.0.conv"),
    "vgg16_bn": _imagenet(vgg.vgg16_bn, vgg.VGG16_KEYS, stem="backbone.stages.0.0.conv"),
    "wide_resnet28_10": _cifar(wide_resnet.wide_resnet28_10, wide_resnet.KEYS),
    "wide_resnet40_4": _cifar(wide_resnet.wide_resnet40_4, wide_resnet.KEYS),
}


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(ARCHITECTURES)


def create_model(
    name: str,
    num_classes: int,
    *,
    head: str = "pyramid",
    pool: str | None = None,
    k: int = 256,
    pyramid_channels: int = 256,
    dropout: float = 0.0,
    block_dropout: float = 0.0,
    drop_path: float = 0.0,
    activation: str = "relu",
    downsampling: str = "strided",
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: str = "float32",
    remat: bool = False,
    frozen_batch_norm: bool = False,
    pretrained: str | Path | None = None,
    seed: int = 0,
) -> Classifier:
    """Creates a classifier with fresh or pretrained parameters.

    Args:
      name: one of `list_models()`.
      num_classes: K >= 2.
      head: "pyramid" (the paper's), "last" (1x1 convolution on the last map) or "original" (unmodified).
      pool: "topk" or "mean"; by default "topk", and "mean" for the original head, which knows no other.
      k: positions of the CAM that Top-GAP averages (paper: 64 to 2048 at 56x56, 8 to 256 at 32x32).
      pyramid_channels: filters of the pyramid's 3x3 convolutions.
      dropout: rate before the last layer of the pyramid or of the original classifier, in [0, 1).
      block_dropout: rate inside the blocks, for networks that were published with it.
      drop_path: stochastic depth of the last block, in [0, 1), for residual networks; it rises from 0.
      activation: "relu", or for ResNet, PreAct-ResNet and Wide ResNet "kwta:SHARE": in their blocks
        k-winners-take-all with that share of the values in (0, 1] (Xiao et al., 2019: 0.1 and 0.2).
      downsampling: "strided", or for the same networks "flc": FrequencyLowCut pooling before convolutions of
        stride 1, and in place of max pooling (Grabinski et al., 2022).
      in_channels: channels of the images.
      mean, std: normalisation per channel, in units of [0, 1]; by default what the pretrained weights state,
        else the architecture's, and its average over the colours where there are not three channels.
      dtype: of the computation, "float32", "bfloat16" or, where JAX has it enabled, "float64"; parameters are
        float32.
      remat: recompute the blocks in the backward pass: less memory, about a third more computation.
      frozen_batch_norm: BatchNorm uses its running statistics, and changes nothing, in training too.
      pretrained: a file of weights (`.safetensors`, `.pth`; ours, or with the keys of timm or torchvision),
        `hf:OWNER/NAME` on the Hugging Face hub, or `package:NAME`, a Python package that contains such a
        file. The classifier is loaded only into an original head with the same number of classes.
      seed: of the initial parameters.

    Returns:
      A `flax.nnx.Module`: `model(images)` gives `ModelOutput(logits, cam, features)`.

    Raises:
      ValueError: an unknown name, a value outside its range, or weights that do not fit; the message lists
        what exists or what differs.
    """
    _choose("model", name, list_models())
    _choose("head", head, HEADS)
    pool = pool or ("mean" if head == "original" else "topk")
    _choose("pool", pool, POOLS)
    _choose("dtype", dtype, DTYPES)
    if dtype == "float64" and jnp.asarray(np.float64()).dtype != np.float64:
        raise ValueError(
            'dtype="float64" needs jax.config.update("jax_enable_x64", True) before anything else'
        )
    if head == "original" and pool != "mean":
        raise ValueError(f'head="original" is the unmodified classifier and pools by "mean", not by "{pool}"')
    for label, value, lowest in (
        ("num_classes", num_classes, 2),
        ("k", k, 1),
        ("in_channels", in_channels, 1),
        ("pyramid_channels", pyramid_channels, 1),
    ):
        if value < lowest:
            raise ValueError(f"{label}={value} is too small: at least {lowest}")
    if dropout and head == "last":
        raise ValueError(f'dropout={dropout} belongs to another head; head="last" has none')
    architecture = ARCHITECTURES[name]
    arguments = _rates(name, dropout=dropout, drop_path=drop_path, block_dropout=block_dropout)
    arguments |= _layers(name, activation, downsampling)
    weights = read_weights(pretrained) if pretrained else Weights({}, "")
    mean = _per_channel("mean", mean, weights.mean or architecture.mean, in_channels)
    std = _per_channel("std", std, weights.std or architecture.std, in_channels)

    rngs = nnx.Rngs(seed)
    compute = jnp.dtype(dtype)
    model = Classifier(
        architecture.build(in_channels=in_channels, remat=remat, dtype=compute, rngs=rngs, **arguments),
        num_classes,
        head=head,
        pool=pool,
        k=k,
        pyramid_channels=pyramid_channels,
        dropout=dropout,
        mean=mean,
        std=std,
        dtype=compute,
        rngs=rngs,
    )
    model.settings = (
        ("name", name),
        ("num_classes", num_classes),
        ("head", head),
        ("pool", pool),
        ("pyramid_channels", pyramid_channels),
        ("dropout", dropout),
        ("block_dropout", block_dropout),
        ("drop_path", drop_path),
        ("activation", activation),
        ("downsampling", downsampling),
        ("in_channels", in_channels),
        ("mean", mean),
        ("std", std),
        ("dtype", dtype),
        ("remat", remat),
        ("frozen_batch_norm", frozen_batch_norm),
    )
    if frozen_batch_norm:
        freeze_batch_norm(model)
    if pretrained:
        load_weights(model, weights, architecture.tables, stem=architecture.stem, name=name)
    return model


def save_model(model: Classifier, path: str | Path) -> None:
    """Writes a model of `create_model` as one safetensors file: its arrays, and in the metadata its settings.

    `load_model` makes the same model of it, and `create_model(pretrained=path)` one with its weights.

    Raises:
      ValueError: a name without the ending `.safetensors`, or a model that `create_model` did not make.
    """
    if not model.settings:
        raise ValueError("only a model that create_model made can be saved: its settings go into the file")
    arrays = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
    k = int(arrays.pop("k").get_value())
    tensors = {path: np.asarray(leaf.get_value()) for path, leaf in arrays.items()}
    write_weights(path, tensors, dict(model.settings) | {"k": k})


def load_model(path: str | Path) -> Classifier:
    """The model that `save_model` wrote, with its k, normalisation and weights.

    Raises:
      ValueError: no such file, a damaged one, or one that is not ours.
    """
    settings = read_weights(path).settings
    if settings is None:
        raise ValueError(
            f"{str(path)!r} does not say which model it belongs to: use create_model(NAME, pretrained=...)"
        )
    return create_model(**settings, pretrained=path)


def _rates(name: str, **rates: float) -> dict[str, float]:
    """Those rates that are set and belong to the backbone."""
    for label, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{label}={rate} is outside [0, 1)")
    backbone = {label: rate for label, rate in rates.items() if rate and label != "dropout"}
    for label, rate in backbone.items():
        if label not in _parameters(name):
            raise ValueError(f"{label}={rate}: {name} was published without it")
    return backbone


def _layers(name: str, activation: str, downsampling: str) -> dict[str, Any]:
    """Those layers that differ from the usual ones, for a backbone that can be built of them."""
    _choose("downsampling", downsampling, DOWNSAMPLINGS)
    layers: dict[str, Any] = {}
    if activation != "relu":
        layers["activation"] = _kwta(activation)
    if downsampling != "strided":
        layers["downsampling"] = downsampling
    # Not by the name `activation` alone: EfficientNet has one of its own.
    if layers and "downsampling" not in _parameters(name):
        able = ", ".join(other for other in list_models() if "downsampling" in _parameters(other))
        raise ValueError(
            f"{name} cannot be built with activation={activation!r}, downsampling={downsampling!r}; "
            f"these can: {able}"
        )
    return layers


def _kwta(activation: str) -> KWTA:
    """What "kwta:SHARE" stands for."""
    kind, _, share = activation.partition(":")
    try:
        return KWTA(float(share) if kind == "kwta" else 0.0)
    except ValueError as error:
        raise ValueError(
            f"unknown activation {activation!r}; there are: relu, and kwta:SHARE with 0 < SHARE <= 1, "
            "such as kwta:0.1"
        ) from error


def _parameters(name: str) -> Set[str]:
    """The arguments of a backbone's constructor."""
    return inspect.signature(ARCHITECTURES[name].build.func.__init__).parameters.keys()


def _choose(label: str, value: Any, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"unknown {label} {value!r}; there are: {', '.join(options)}")


def _per_channel(
    label: str, given: Sequence[float] | None, default: Sequence[float], channels: int
) -> tuple[float, ...]:
    if given is None:
        if len(default) == channels:
            return tuple(default)
        return (sum(default) / len(default),) * channels
    if len(given) != channels:
        raise ValueError(f"{label}={tuple(given)} has {len(given)} values for {channels} image channels")
    return tuple(float(value) for value in given)
