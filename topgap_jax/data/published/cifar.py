"""CIFAR-10 and CIFAR-100 from their binary archives, in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.published.hold_out import hold_out, splits_with
from topgap_jax.data.published.prepare import prepared_folder
from topgap_jax.data.sources import check_split

SIDE = 32
PIXELS = 3 * SIDE * SIDE


def cifar10(split: str, *, data_dir: str = "data", validation: int = 0) -> ArraySource:
    """CIFAR-10: 50,000 + 10,000 pictures, `[32, 32, 3]` uint8, of 10 classes.

    Args:
        split: "train", "test" or "validation".
        data_dir: the folder that holds `cifar10/cifar-10-batches-bin`.
        validation: how many training pictures make the split "validation"; "train" is then the rest.

    Raises:
        ValueError: files that are missing or damaged, an unknown split.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    parts = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    folder = Path("cifar-10-batches-bin")
    return _cifar("cifar10", split, data_dir, folder, parts, "batches.meta.txt", 1, validation)


def cifar100(split: str, *, data_dir: str = "data", validation: int = 0) -> ArraySource:
    """CIFAR-100: as `cifar10`, of 100 classes (the fine ones), from `cifar100/cifar-100-binary`."""
    parts = {"train": ["train.bin"], "test": ["test.bin"]}
    folder = Path("cifar-100-binary")
    return _cifar("cifar100", split, data_dir, folder, parts, "fine_label_names.txt", 2, validation)


def _cifar(
    name: str,
    split: str,
    data_dir: str,
    folder: Path,
    parts: dict[str, list[str]],
    names: str,
    label_bytes: int,
    validation: int,
) -> ArraySource:
    check_split(split, splits_with(validation), name)
    files = parts["test" if split == "test" else "train"]
    root = prepared_folder(name, data_dir, *(str(folder / file) for file in [*files, names]))
    labels, images = _read([root / folder / file for file in files], label_bytes)
    if split != "test" and validation:
        rest, held = hold_out(labels, validation)
        chosen = held if split == "validation" else rest
        labels, images = labels[chosen], images[chosen]
    class_names = (root / folder / names).read_text().split()
    return ArraySource(images, labels, class_names, where=str(root))


def _read(files: Sequence[Path], label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[N]` and pictures `[N, 32, 32, 3]`; a record is the label's bytes, of which the last counts."""
    records = []
    for file in files:
        stored = np.fromfile(file, np.uint8)
        if not stored.size or stored.size % (label_bytes + PIXELS):
            raise ValueError(
                f"{file} has {stored.size} bytes, not a multiple of {label_bytes + PIXELS}: it is damaged"
            )
        records.append(stored.reshape(-1, label_bytes + PIXELS))
    together = np.concatenate(records)
    planes = together[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)
    return together[:, label_bytes - 1], np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
