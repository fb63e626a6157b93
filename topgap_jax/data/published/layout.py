"""The files of an original archive: what is missing, and how to get it."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from topgap_jax.data.files.decode import upright_size
from topgap_jax.data.files.defects import PictureError, readable


def how_to_get(name: str, data_dir: str | Path, only: str = "") -> str:
    return f"run: topgap data prepare {name} --data-dir {data_dir}" + (f" --only {only}" if only else "")


def missing_files(paths: Iterable[Path]) -> list[str]:
    """The paths without a file. Lists each folder once: asking file by file is slow on a network's disk."""
    paths = list(paths)
    there = {folder: _names(folder) for folder in {path.parent for path in paths}}
    return [str(path) for path in paths if path.name not in there[path.parent]]


def other_sizes(pictures: Sequence[Path], expected: Sequence[Path | tuple[int, int]]) -> list[str]:
    """The pictures of another size than (height, width) or than the file expected; reads headers only."""
    with ThreadPoolExecutor(16) as pool:  # a network's disk answers many at once
        pairs = zip(pictures, pool.map(_size, pictures), pool.map(_size, expected), strict=True)
        return [f"{path} is {here}, not {there}" for path, here, there in pairs if here != there]


def _size(file: Path | tuple[int, int]) -> str:
    """Height x width of an upright picture, or why it has none."""
    if isinstance(file, tuple):
        return f"{file[0]}x{file[1]}"
    try:
        with readable(str(file)), Image.open(file) as picture:
            return f"{upright_size(picture)[0]}x{upright_size(picture)[1]}"
    except PictureError as error:
        return error.kind


def some(problems: Sequence[str], count: int = 5) -> str:
    """The first few, and how many more there are."""
    rest = len(problems) - count
    return "; ".join(problems[:count]) + (f"; and {rest} more" if rest > 0 else "")


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
