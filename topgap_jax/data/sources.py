"""What a data set is: random access to examples, under one name each."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Example = dict[str, Any]


class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` is a dict with `image`, `[H, W, C]` uint8 or float32 in [0, 1], and `label`, int32 in
    0..num_classes-1; where the data has them also `mask`, bool `[H, W]`, and `group`, int32.
    """

    num_classes: int
    class_names: list[str]
    image_shape: tuple[int, int, int] | None  # (H, W, C), or None where pictures differ in size

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def load_source(name: str, split: str, **options: Any) -> Source:
    """The split of a data set.

    Args:
        name: "embedded" (`TexturedDigits`), "folder:PATH" (`FolderSource`), "npz:PATH" (`npz_source`) or
            "tfds:NAME" (`TfdsSource`).
        split: one of the splits that the data set has.
        **options: what the named class or function takes beside path and split.

    Raises:
        ValueError: an unknown data set, split or option (the message lists what exists), or unusable data.
    """
    kind, colon, path = name.partition(":")
    if kind not in _KINDS or bool(colon) != (kind != "embedded") or bool(colon) != bool(path):
        raise ValueError(f"no data set {name!r}; there are embedded, folder:PATH, npz:PATH and tfds:NAME")
    open_source = _KINDS[kind]()
    arguments = (path, split) if path else (split,)
    accepted = list(inspect.signature(open_source).parameters)[len(arguments) :]
    if unknown := [option for option in options if option not in accepted]:
        raise ValueError(f"{kind} takes no option {unknown[0]!r}; there are {listed(accepted)}")
    return open_source(*arguments, **options)


def _embedded() -> Callable[..., Source]:
    from topgap_jax.data.embedded import TexturedDigits

    return TexturedDigits


def _folder() -> Callable[..., Source]:
    from topgap_jax.data.folder import FolderSource

    return FolderSource


def _npz() -> Callable[..., Source]:
    from topgap_jax.data.arrays import npz_source

    return npz_source


def _tfds() -> Callable[..., Source]:
    from topgap_jax.data.tfds import TfdsSource

    return TfdsSource


# Opened when asked for: scikit-learn alone takes a second to import.
_KINDS: dict[str, Callable[[], Callable[..., Source]]] = {
    "embedded": _embedded,
    "folder": _folder,
    "npz": _npz,
    "tfds": _tfds,
}


def check_split(split: str, splits: Sequence[str], where: str) -> None:
    if split not in splits:
        raise ValueError(f"{where} has no split {split!r}; there are {listed(splits)}")


def listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
