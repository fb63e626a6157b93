"""The networks of `network.py` in PyTorch: the same layers under the same names, from the same files."""

import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from robust_networks import network

# Our names of a layer's arrays, and PyTorch's; a kernel is a matrix of a linear layer or HWIO.
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Downsample(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride > 1 or in_channels != width
        self.downsample = Downsample(in_channels, width, stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first, second, third = network.WIDTHS
        self.conv1 = nn.Conv2d(3, first, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        blocks = Block(first, first, 1), Block(first, second, 2), Block(second, third, 2)
        self.stages = nn.ModuleList(nn.ModuleList([block]) for block in blocks)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = functional.relu(self.bn1(self.conv1(x)))
        maps = []
        for (block,) in self.stages:
            x = block(x)
            maps.append(x)
        return maps


class OriginalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(network.WIDTHS[-1], 10)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return self.classifier(maps[-1].mean((2, 3)))


class PyramidHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = network.PYRAMID_CHANNELS
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 3, padding=1) for c in network.WIDTHS)
        self.classifier = nn.Conv2d(channels, 10, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[2:]
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        total = sum(functional.interpolate(x, size, mode="bilinear", align_corners=False) for x in laterals)
        cam = self.classifier(total)
        return cam.flatten(2).topk(network.K, dim=2).values.mean(2)


class Network(nn.Module):
    """Pictures [B,3,32,32] in [0, 1] to logits [B,10]."""

    def __init__(self, head: str):
        super().__init__()
        self.backbone = Backbone()
        self.head = OriginalHead() if head == "original" else PyramidHead()
        for name, values in (("mean", network.MEAN), ("std", network.STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone((images - self.mean) / self.std))


def load(name: str) -> Network:
    """The trained network, in evaluation mode."""
    model = Network(network.HEADS[name])
    state = {}
    for path, array in load_file(network.FOLDER / f"{name}.safetensors").items():
        module, leaf = path.rsplit(".", 1)
        if leaf == "kernel":
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        state[f"{module}.{LEAVES[leaf]}"] = torch.from_numpy(array.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [*unexpected, *(key for key in missing if "num_batches" not in key)]
    assert not wrong, f"{name}: {', '.join(wrong)}"
    return model.requires_grad_(False).eval()


def tensors(images, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,H,W,C] and labels as PyTorch wants them."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels).long()
