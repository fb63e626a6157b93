"""Where weights of another library meet a model: tables of keys, layouts, and one error for all that differs.

A key table lists pairs of an anchored pattern and a template, which turn the key of a module of the source
(its state dict's keys without `weight`, `bias`, ...) into the path of our module. Adding an architecture
means adding such a table beside it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from topgap_jax.models.classifier import Classifier
from topgap_jax.models.weights import Weights

KeyTable = Sequence[tuple[str, str]]
Shapes = Mapping[str, tuple[int, ...]]  # by path in the model

# PyTorch's names of a module's arrays, and ours.
LEAVES = {
    "weight": ("kernel", "scale"),
    "bias": ("bias",),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
IGNORED = ("num_batches_tracked",)
SHOWN = 10


class Plan(NamedTuple):
    """What would be loaded, and why it must not be."""

    arrays: dict[str, np.ndarray | None]  # by path in the model; None: of another shape
    problems: list[str]


def load_weights(
    model: Classifier, weights: Weights, tables: Sequence[KeyTable], *, stem: str, name: str
) -> None:
    """Fills `model` with pretrained weights, or leaves it as it is and raises.

    The classifier is loaded too where `model` has the original head and the source's number of classes;
    otherwise it keeps its fresh parameters. A stem for another number of image channels than the source's
    three is adapted as in timm (`adapt_channels`).

    Args:
      weights: of a source that follows one of the `tables`, or our own.
      stem: path of the first convolution.
      name: of the architecture, for the message.

    Raises:
      ValueError: unknown keys, unfilled parameters, other shapes, or values that are not finite: the first
        ten and the count. Nothing is loaded then.
    """
    state = nnx.state(model)
    targets = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    del targets["k"]  # a setting, not a weight
    shapes = {path: leaf.get_value().shape for path, leaf in targets.items()}
    if weights.settings is not None:
        plan = _plan_own(model, weights, shapes)
    else:
        plans = [_plan(model, weights.tensors, table, shapes, stem) for table in tables]
        plan = min(plans, key=lambda plan: len(plan.problems))
    if plan.problems:
        raise ValueError(
            f"{weights.source} does not fit {name}: {_summary(plan.problems)}\nNothing was loaded."
        )
    for path, array in plan.arrays.items():
        targets[path].set_value(jnp.asarray(array, targets[path].get_value().dtype))
    nnx.update(model, state)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel `[O, 3, h, w]` of RGB images as one for `channels`, by timm's rule.

    For one channel it is the sum over the three, so that a grey image gives what its RGB copy gave; for more
    it is repeated and scaled by `3 / channels`.
    """
    rgb = kernel.shape[1]
    if channels == rgb:
        return kernel
    if channels == 1:
        return kernel.sum(1, keepdims=True)
    repeats = -(-channels // rgb)
    return np.tile(kernel, (1, repeats, 1, 1))[:, :channels] * (rgb / channels)


def _plan(
    model: Classifier, tensors: Mapping[str, np.ndarray], table: KeyTable, shapes: Shapes, stem: str
) -> Plan:
    """Follows one key table."""
    modules = {key: _module(key, table) for key in tensors if not key.endswith(IGNORED)}
    skipped = _skipped(model, tensors, modules)
    arrays: dict[str, np.ndarray | None] = {}
    problems: list[str] = []
    for key, module in modules.items():
        if module is not None and module.startswith(skipped):
            continue
        path = _path(key, module, shapes)
        if path is None:
            problems.append(f"{key}: unknown")
        elif path in arrays:
            problems.append(f"{key}: {path} is filled already")
        else:
            value = tensors[key]
            if path == f"{stem}.kernel" and value.ndim == 4:
                value = adapt_channels(value, shapes[path][2])
            arrays[path] = _in_our_layout(value, shapes[path])
            problems += _differences(key, tensors[key].shape, arrays[path], _in_torch_layout(shapes[path]))
    wanted = [path for path in shapes if not path.startswith(skipped)]
    return Plan(arrays, problems + [f"{path}: missing" for path in wanted if path not in arrays])


def _plan_own(model: Classifier, weights: Weights, shapes: Shapes) -> Plan:
    """A file of ours has our paths and layouts; its head is loaded where it is the same one."""
    theirs, ours = weights.settings or {}, dict(model.settings)
    same_head = all(theirs[name] == ours[name] for name in ("head", "num_classes", "pyramid_channels"))
    skipped = () if same_head else ("head.",)
    arrays: dict[str, np.ndarray | None] = {}
    problems: list[str] = []
    for key, value in weights.tensors.items():
        if key.startswith(skipped):
            continue
        if key not in shapes:
            problems.append(f"{key}: unknown")
            continue
        arrays[key] = value if value.shape == shapes[key] else None
        problems += _differences(key, value.shape, arrays[key], shapes[key])
    wanted = [path for path in shapes if not path.startswith(skipped)]
    return Plan(arrays, problems + [f"{path}: missing" for path in wanted if path not in arrays])


def _module(key: str, table: KeyTable) -> str | None:
    """The path that the table gives for the module of a key, or for a bare array's own key."""
    module, _, leaf = key.rpartition(".")
    source = module if leaf in LEAVES else key
    for pattern, template in table:
        if match := re.fullmatch(pattern, source):
            return match.expand(template)
    return None


def _path(key: str, module: str | None, shapes: Shapes) -> str | None:
    """The path of the array inside the module: a `weight` is its kernel or its scale."""
    if module is None:
        return None
    names = LEAVES.get(key.rpartition(".")[2])
    paths = [f"{module}.{name}" for name in names] if names else [module]
    return next((path for path in paths if path in shapes), None)


def _skipped(
    model: Classifier, tensors: Mapping[str, np.ndarray], modules: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Beginnings of the paths that keep their fresh parameters."""
    if model.head_name != "original":
        return ("head",)
    classes = {len(tensors[key]) for key, module in modules.items() if module == "head.classifier"}
    return () if classes <= {dict(model.settings)["num_classes"]} else ("head.classifier",)


def _in_torch_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What PyTorch calls the shape of an array that is `shape` here."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return shape[::-1]


def _in_our_layout(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """PyTorch's array in the layout of ours, or None if it cannot be that.

    Convolutions are HWIO here and OIHW there. A linear layer may stand for a 1x1 convolution, or for one over
    the whole map that it flattens, and the other way round.
    """
    expected = _in_torch_layout(shape)
    same_outputs = value.ndim > 0 and value.shape[0] == expected[0]
    if value.shape != expected:
        flattened = {value.ndim, len(expected)} == {2, 4}
        vector = len(expected) == 1 and value.size == value.shape[0] if value.ndim else False
        if not same_outputs or value.size != np.prod(expected) or not (flattened or vector):
            return None
    value = value.reshape(expected)
    return value.transpose(2, 3, 1, 0) if len(expected) == 4 else value.T


def _differences(
    key: str, given: tuple[int, ...], array: np.ndarray | None, expected: tuple[int, ...]
) -> list[str]:
    if array is None:
        return [f"{key}: shape {given}, not {expected}"]
    return [] if np.isfinite(array).all() else [f"{key}: NaN or infinite"]


def _summary(problems: Sequence[str]) -> str:
    shown = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        shown.append(f"  and {len(problems) - SHOWN} more")
    return f"{len(problems)} differences\n" + "\n".join(shown)
