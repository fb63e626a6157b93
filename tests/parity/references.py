"""The reference implementations as PyTorch modules, with weights in which no array is like another."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

# The torchvision wheel describes operators that a torch without CUDA does not have.
_register_fake = torch.library.register_fake
torch.library.register_fake = lambda operator, *args, **settings: (
    (lambda function: function)
    if isinstance(operator, str) and operator.startswith("torchvision::")
    else _register_fake(operator, *args, **settings)
)

import timm  # noqa: E402
import torchvision  # noqa: E402

IMAGENET_SIZES = ((224, 224), (193, 161))
CIFAR_SIZES = ((32, 32), (35, 29))


class Reference(NamedTuple):
    """A published network, and what its modules are called whose outputs are our maps."""

    ours: str
    build: Callable[..., torch.nn.Module]  # num_classes -> module
    taps: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...] = IMAGENET_SIZES
    activation: Callable[[torch.Tensor], torch.Tensor] | None = (
        None  # after the last tap, outside of any module
    )
    classifier: str = ""  # the linear layer, where the reference's own pooling is made for one size only


def from_timm(name: str, taps: tuple[str, ...], ours: str | None = None) -> Reference:
    return Reference(ours or name, partial(timm.create_model, name, pretrained=False), taps)


def from_torchvision(
    name: str,
    taps: tuple[str, ...],
    activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
    **settings: float,
) -> Reference:
    build = partial(torchvision.models.get_model, name, weights=None, **settings)
    return Reference(name, build, taps, activation=activation)


def robustbench(name: str) -> ModuleType:
    """RobustBench's `architectures/NAME.py` without its packages, whose imports need far more than torch."""
    parts = ["robustbench", "model_zoo", "architectures"]
    if parts[0] not in sys.modules:
        package = importlib.util.find_spec(parts[0])
        assert package is not None and package.submodule_search_locations is not None
        folder = Path(package.submodule_search_locations[0]).parent
        for depth in range(1, len(parts) + 1):
            stub = ModuleType(".".join(parts[:depth]))
            stub.__path__ = [str(folder.joinpath(*parts[:depth]))]
            sys.modules[stub.__name__] = stub
    return importlib.import_module(".".join([*parts, name]))


def preact_resnet(ours: str, blocks: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    """The form with a final BatchNorm, and with shortcuts that start after the first one."""
    zoo = robustbench("resnet")

    class Bottleneck(zoo.PreActBottleneck):
        def __init__(self, in_planes: int, planes: int, stride: int = 1, out_shortcut: bool = False):
            super().__init__(in_planes, planes, stride)

    block = Bottleneck if ours.endswith("50") else zoo.PreActBlockV2
    return zoo.PreActResNet(block, list(blocks), num_classes=num_classes, bn_before_fc=True)


def shrunken_ra_wide_resnet(num_classes: int) -> torch.nn.Module:
    """RaWideResNet-70-16 with 7 blocks instead of 71."""
    return robustbench("robustarch_wide_resnet").NormalizedWideResNet(
        (0.0,) * 3,
        (1.0,) * 3,
        stem_width=12,
        depth=[2, 3, 2],
        stage_width=[24, 40, 64],
        groups=[1] * 3,
        num_classes=num_classes,
        activation_fn=torch.nn.SiLU,
        se_ratio=0.25,
        se_activation=torch.nn.ReLU,
        se_order=2,
    )


def cifar(
    ours: str,
    build: Callable[..., torch.nn.Module],
    taps: tuple[str, ...],
    classifier: str = "linear",
    activation: Callable[[torch.Tensor], torch.Tensor] | None = torch.relu,
    sizes: tuple[tuple[int, int], ...] = CIFAR_SIZES,
) -> Reference:
    return Reference(ours, build, taps, sizes, activation, classifier)


LAYERS = tuple(f"layer{i}" for i in range(1, 5))
PREACT = (*LAYERS[:3], "bn")
WIDE = ("block1", "block2", "bn1")
CONVNEXT = tuple(f"stages.{i}" for i in range(4))
EFFICIENTNET = tuple(f"blocks.{i}" for i in (1, 2, 4, 6))
DENSENET = (*(f"features.denseblock{i}" for i in range(1, 4)), "features.norm5")
VGG11 = tuple(f"features.{i}" for i in (13, 20, 27))
VGG16 = tuple(f"features.{i}" for i in (22, 32, 42))

# One network of each family and naming scheme in full, its siblings by their logits.
FAMILIES = {
    "timm/resnet18": from_timm("resnet18", LAYERS),
    "torchvision/resnet50": from_torchvision("resnet50", LAYERS),
    "timm/convnext_tiny": from_timm("convnext_tiny", CONVNEXT),
    "torchvision/convnext_tiny": from_torchvision(
        "convnext_tiny", tuple(f"features.{i}" for i in (1, 3, 5, 7))
    ),
    "timm/efficientnet_b0": from_timm("efficientnet_b0", EFFICIENTNET),
    "timm/tf_efficientnet_b0": from_timm("tf_efficientnet_b0", EFFICIENTNET),
    "timm/tf_efficientnet_lite0": from_timm("tf_efficientnet_lite0", EFFICIENTNET, "efficientnet_lite0"),
    "torchvision/efficientnet_b0": from_torchvision(
        "efficientnet_b0", tuple(f"features.{i}" for i in (2, 3, 5, 7)), stochastic_depth_prob=0.0
    ),
    "timm/densenet121": from_timm("densenet121", DENSENET),
    "torchvision/densenet121": from_torchvision("densenet121", DENSENET, torch.relu),
    "timm/vgg11_bn": from_timm("vgg11_bn", VGG11),
    "torchvision/vgg11_bn": from_torchvision("vgg11_bn", VGG11),
    "robustbench/cifar_resnet18": cifar(
        "cifar_resnet18", lambda num_classes: robustbench("resnet").ResNet18(), LAYERS, activation=None
    ),
    "robustbench/preact_resnet18": cifar(
        "preact_resnet18", partial(preact_resnet, "preact_resnet18", (2, 2, 2, 2)), PREACT
    ),
    "robustbench/preact_resnet50": cifar(
        "preact_resnet50", partial(preact_resnet, "preact_resnet50", (3, 4, 6, 3)), PREACT
    ),
    "robustbench/wide_resnet40_4": cifar(
        "wide_resnet40_4", lambda num_classes: robustbench("wide_resnet").WideResNet(40, 10, 4), WIDE, "fc"
    ),
    # The reference pads stride-2 convolutions for even sizes only.
    "robustbench/ra_wide_resnet_shrunken": cifar(
        "ra_wide_resnet_shrunken",
        shrunken_ra_wide_resnet,
        ("layer.0", "layer.1", "batchnorm"),
        "logits",
        torch.nn.functional.silu,
        ((32, 32), (36, 28)),
    ),
}
SIBLINGS = {
    **{
        f"timm/{name}": from_timm(name, LAYERS) for name in ("resnet34", "resnet50", "resnet101", "resnet152")
    },
    **{f"timm/{name}": from_timm(name, CONVNEXT) for name in ("convnext_small", "convnext_base")},
    **{
        f"timm/{name}": from_timm(name, EFFICIENTNET)
        for b in "123"
        for name in (f"efficientnet_b{b}", f"tf_efficientnet_b{b}")
    },
    "timm/vgg16_bn": from_timm("vgg16_bn", VGG16),
    "torchvision/vgg16_bn": from_torchvision("vgg16_bn", VGG16),
    "robustbench/cifar_resnet34": cifar(
        "cifar_resnet34", lambda num_classes: robustbench("resnet").ResNet34(), LAYERS, activation=None
    ),
    "robustbench/cifar_resnet50": cifar(
        "cifar_resnet50", lambda num_classes: robustbench("resnet").ResNet50(), LAYERS, activation=None
    ),
    "robustbench/preact_resnet34": cifar(
        "preact_resnet34", partial(preact_resnet, "preact_resnet34", (3, 4, 6, 3)), PREACT
    ),
    "robustbench/wide_resnet28_10": cifar(
        "wide_resnet28_10", lambda num_classes: robustbench("wide_resnet").WideResNet(28, 10, 10), WIDE, "fc"
    ),
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Draws what is constant at the start (scales, statistics, biases), so that a mix-up shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
        elif getattr(module, "bias", None) is not None and isinstance(module.bias, torch.nn.Parameter):
            module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        for name in ("gamma", "layer_scale"):
            if isinstance(getattr(module, name, None), torch.nn.Parameter):
                getattr(module, name).data.uniform_(0.1, 0.5, generator=generator)
    return model.eval()


def state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The weights, as a file holds them."""
    return {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}


def maps_and_logits(
    reference: Reference, model: torch.nn.Module, images: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The outputs of the tapped modules and the logits."""
    modules = dict(model.named_modules())
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        found[name] = output.clone()  # the next activation may be in place

    handles = [
        modules[name].register_forward_hook(lambda module, _, output, name=name: keep(name, output))
        for name in reference.taps
    ]
    try:
        logits = model(images)
    except RuntimeError:  # pooling and classifier that do not fit the size
        assert reference.classifier
    for handle in handles:
        handle.remove()
    maps = [found[name] for name in reference.taps]
    if reference.activation is not None:
        maps[-1] = reference.activation(maps[-1])
    if reference.classifier:
        logits = modules[reference.classifier](maps[-1].mean((2, 3)))
    return maps, logits
