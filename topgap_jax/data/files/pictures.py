"""Picture files as a source."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.data.files.decode import Decoder
from topgap_jax.data.files.defects import PictureError, readable
from topgap_jax.data.files.listing import Problem
from topgap_jax.data.files.scan import Scan, common_pixel_size, common_size, scan, settle
from topgap_jax.data.files.tiff import TIFF_SUFFIXES, read_tiff
from topgap_jax.data.sources import Example

MaskOf = Callable[[int], np.ndarray]


class MaskFiles:
    """Masks in files: bool `[H, W]`, true where a file stores anything but 0 (colours of a palette aside)."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self.paths = list(paths)

    def __call__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        if path is None:
            raise ValueError(f"picture {index} has no mask, but others have")
        with readable(str(path)):
            if path.suffix.lower() in TIFF_SUFFIXES:
                return np.any(read_tiff(path, as_picture=False), -1)
            with Image.open(path) as picture:
                opaque = {"RGBA": "RGB", "LA": "L"}.get(picture.mode)
                values = np.asarray(picture.convert(opaque) if opaque else picture)
                return np.any(values.reshape(*values.shape[:2], -1), -1)


class PictureSource:
    """Picture files with labels, decoded when they are asked for.

    Args:
        paths: N files.
        labels: whole numbers [N] in 0..len(class_names)-1.
        class_names: one per class.
        mask_of: gives the bool mask `[H0, W0]` of picture i, in the pixels of the stored, upright picture.
            Sources travel to worker processes: let it be an object that pickle can store.
        boxes: `[N, 4]`, top, left, bottom, right, in the same pixels.
        groups, group_names: whole numbers [N] and what they mean.
        size, short_side, channels, pages, window: see `Decoder`.
        pixel_size: edge of a stored pixel in micrometres, if the files do not know or must not be believed.
        where: what messages call the data.
        problems: what was found wrong with the list of files.
        check: whether all files are checked first. Without, `image_shape` is known only where `size` is
            given, and `pixel_size` not at all.
        on_error: "stop" raises one error with all problems; "skip" leaves those pictures out with a warning.

    Attributes:
        paths, labels, groups, boxes: of the pictures that are left.
        problems: what was found; with "stop" nothing.
        skipped: how many are not, by the kind of problem.
        pixel_size: edge of a pixel of the examples, after scaling, in micrometres; None if it is not known or
            not the same for all.

    Raises:
        ValueError: no pictures, an option outside its range, labels or boxes that do not belong to the paths,
            the problems of the files; on reading, one that has gone or broken since.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        *,
        mask_of: MaskOf | None = None,
        boxes: np.ndarray | None = None,
        groups: Sequence[int] | np.ndarray | None = None,
        group_names: Sequence[str] = (),
        size: int | Sequence[int] | None = None,
        short_side: int | None = None,
        channels: int = 3,
        pages: Any = None,
        window: Any = None,
        pixel_size: float | None = None,
        where: str = "",
        problems: Sequence[Problem] = (),
        check: bool = False,
        on_error: str = "stop",
    ) -> None:
        self.decoder = Decoder(size, channels, short_side, pages, window)
        self.paths = [Path(path) for path in paths]
        self.class_names, self.group_names = list(class_names), list(group_names)
        self.num_classes = len(self.class_names)
        self.labels = np.asarray(labels, np.int32)
        self.groups = None if groups is None else np.asarray(groups, np.int32)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        self._mask_of = mask_of
        self._kept = np.arange(len(self.paths))
        self.problems = list(problems)
        where = where or "the data"
        if on_error not in ("stop", "skip"):
            raise ValueError(f'on_error is "stop" or "skip", not {on_error!r}')
        if pixel_size is not None and not pixel_size > 0:
            raise ValueError(f"pixel_size is in micrometres and above 0, not {pixel_size}")
        _check_lengths(self, where)
        known = self.decoder.size
        self.image_shape: tuple[int, int, int] | None = (*known, channels) if known else None
        self.pixel_size: float | None = None
        if check:
            self.problems = self._check(self.problems, pixel_size)
        self._kept, self.skipped = settle(self.problems, self.labels, on_error=on_error, where=where)
        if self.skipped:
            self._leave_out_the_others()
        if self.labels.min() < 0 or self.labels.max() >= self.num_classes:
            raise ValueError(f"the labels of {where} must lie in 0..{self.num_classes - 1}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        try:
            image, framing = self.decoder.decode(path)
            example: Example = {"image": image, "label": self.labels[index]}
            if self._mask_of is not None:
                with readable(f"the mask of {path}"):
                    example["mask"] = framing.mask(self._mask_of(int(self._kept[index])))
        except PictureError as error:
            hint = "mend it or take it out of the data, then start the same command again"
            raise ValueError(f"{error}; {hint}") from error
        if self.boxes is not None:
            example["box"] = framing.box(self.boxes[index])
        if self.groups is not None:
            example["group"] = self.groups[index]
        return example

    def scan(self) -> Scan:
        """Looks at the files of all pictures, which `check` does from the start."""
        masks = None
        if isinstance(self._mask_of, MaskFiles):
            masks = [self._mask_of.paths[index] for index in self._kept]
        return scan(self.paths, self.decoder, masks=masks, boxes=self.boxes)

    def _check(self, problems: list[Problem], given_pixel_size: float | None) -> list[Problem]:
        """Looks at all files and sets what only they can tell; adds their problems to those so far."""
        result = self.scan()
        problems += result.problems
        bad = {problem.example for problem in problems}
        headers = [None if index in bad else header for index, header in enumerate(result.headers)]
        if not any(headers):
            return problems
        if self.image_shape is None and not self.decoder.short_side:
            size = common_size(self.paths, headers)
            if isinstance(size, Problem):
                problems.append(size)
            else:
                self.image_shape = (*size, self.decoder.channels)
        pixel_size = common_pixel_size(self.paths, headers, self.decoder, given_pixel_size)
        if isinstance(pixel_size, Problem):
            problems.append(pixel_size)
        else:
            self.pixel_size = pixel_size
        return problems

    def _leave_out_the_others(self) -> None:
        kept = self._kept
        self.paths = [self.paths[index] for index in kept]
        self.labels = self.labels[kept]
        self.groups = None if self.groups is None else self.groups[kept]
        self.boxes = None if self.boxes is None else self.boxes[kept]


def _check_lengths(source: PictureSource, where: str) -> None:
    """Raises ValueError where the parts of a source do not belong together."""
    number = len(source.paths)
    if not number:
        raise ValueError(f"{where} holds no pictures")
    for name, values, shape in (
        ("labels", source.labels, (number,)),
        ("groups", source.groups, (number,)),
        ("boxes", source.boxes, (number, 4)),
    ):
        if values is not None and values.shape != shape:
            raise ValueError(f"the {name} of {where} must be {list(shape)}, not {list(values.shape)}")
