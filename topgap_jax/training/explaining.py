"""Explanations of single pictures by a trained run: prediction, heat map and estimated area of the object."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from topgap_jax.analysis import cam
from topgap_jax.data.files.decode import PICTURE_SUFFIXES, Decoder
from topgap_jax.data.files.scan import check_file
from topgap_jax.models import Classifier
from topgap_jax.training.config import ConfigError
from topgap_jax.training.runs import FinishedRun, open_run

DECODING = ("size", "short_side", "channels", "pages", "window")  # options of sources that say how to decode
DEFAULT_THRESHOLD = 0.5  # where the run has no masks to choose one on


@dataclasses.dataclass(frozen=True)
class ExplainSettings:
    """How pictures are explained.

    Args:
      class_name: the class to explain; "" takes the predicted one.
      threshold: a pixel belongs to the object where heat >= threshold; None takes the run's global
        threshold, chosen on its held-out masks, or 0.5.
      pixel_size: edge of a stored pixel in micrometres; None takes what the file says.
      batch_size: pictures per forward pass.
    """

    class_name: str = ""
    threshold: float | None = None
    pixel_size: float | None = None
    batch_size: int = 16


class Explanation(NamedTuple):
    """What the network says about one picture."""

    path: Path
    image: np.ndarray  # [H,W,C] in [0, 1], as the network sees it
    heat: np.ndarray  # [H,W] in [0, 1], of the explained class
    probabilities: np.ndarray  # [K]
    label: int  # the explained class
    pixel_size: float | None  # micrometres per pixel of `image`


class Unreadable(NamedTuple):
    """A picture that could not be explained, and why."""

    path: Path
    problem: str


class Explainer:
    """A trained run, ready to explain pictures.

    Args:
      workdir: of a finished run.
      settings: see `ExplainSettings`.

    Attributes:
      run: configuration, network and class names.
      threshold: what counts as lit.

    Raises:
      ConfigError: no finished run, a class that does not exist, or a setting outside its range.
    """

    def __init__(self, workdir: str | Path, settings: ExplainSettings) -> None:
        try:
            self.run = open_run(Path(workdir))
            self.label = _label(settings.class_name, self.run.class_names)
            self.threshold = _threshold(settings.threshold, self.run)
            _check(settings)
            self.decoder = _decoder(self.run)
            _check_map(self.run)
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error
        self.settings = settings
        self._step = make_step(self.run.model)

    def __call__(self, paths: Iterable[Path]) -> Iterator[Explanation | Unreadable]:
        """Explains pictures one after the other; a broken one gives an `Unreadable`.

        Files are decoded in threads ahead of the network. Memory does not grow with their number.
        """
        waiting: list[tuple[Path, np.ndarray, float | None]] = []
        for item in self._decoded(paths):
            if isinstance(item, Unreadable):
                yield item
                continue
            if waiting and waiting[0][1].shape != item[1].shape:
                yield from self._explained(waiting)
                waiting = []
            waiting.append(item)
            if len(waiting) == self.settings.batch_size:
                yield from self._explained(waiting)
                waiting = []
        if waiting:
            yield from self._explained(waiting)

    def _decoded(self, paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray, float | None] | Unreadable]:
        """Pictures in order, a few batches ahead."""
        with ThreadPoolExecutor(4) as pool:
            ahead: deque[Any] = deque()
            for path in paths:
                ahead.append(pool.submit(self._decode, path))
                if len(ahead) > 2 * self.settings.batch_size:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _decode(self, path: Path) -> tuple[Path, np.ndarray, float | None] | Unreadable:
        try:
            stored = self.settings.pixel_size or check_file(path).pixel_size
            image, framing = self.decoder.decode(path)
        except (ValueError, OSError) as error:
            return Unreadable(path, str(error))
        if image.dtype == np.uint8:
            image = image.astype(np.float32) / np.float32(255)
        return path, image, stored and stored * framing.scale

    def _explained(self, pictures: Sequence[tuple[Path, np.ndarray, float | None]]) -> Iterator[Explanation]:
        paths, images, pixel_sizes = zip(*pictures, strict=True)
        rows = np.arange(self.settings.batch_size) % len(images)  # the last batch is filled up
        heat, probabilities, labels = jax.device_get(self._step(np.stack(images)[rows], self.label))
        for row, path in enumerate(paths):
            yield Explanation(
                path, images[row], heat[row], probabilities[row], int(labels[row]), pixel_sizes[row]
            )


def make_step(
    model: Classifier,
) -> Callable[[np.ndarray, int], tuple[jax.Array, jax.Array, jax.Array]]:
    """Compiles `(images, label) -> (heat, probabilities, labels)`; label -1 is the predicted class."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def step(state: Any, images: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        out = nnx.merge(graphdef, state)(images)
        labels = jnp.where(label < 0, out.logits.argmax(-1), label)
        # After global average pooling and one linear layer, Grad-CAM is the positive part of the CAM.
        maps = jax.nn.relu(out.cam) if model.head_name == "original" else out.cam
        _, height, width, _ = images.shape
        return cam.heatmap(maps, labels, (height, width)), jax.nn.softmax(out.logits), labels

    return lambda images, label: step(state, images, jnp.int32(label))


def find_pictures(arguments: Iterable[str | Path]) -> dict[Path, Path]:
    """The pictures that files and folders name, each with the place of its results (without suffix).

    Folders are searched with their subfolders; results keep the folder's structure. Files whose names look
    like no picture are left out within folders, and refused when named themselves.

    Raises:
      ConfigError: a file or folder that does not exist, no pictures, or two with one place for results.
    """
    places: dict[Path, Path] = {}
    for argument in map(Path, arguments):
        if argument.is_dir():
            files = sorted(
                path
                for path in argument.rglob("*")
                if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
            )
            places |= {path: path.relative_to(argument) for path in files}
        elif argument.is_file():
            if argument.suffix.lower() not in PICTURE_SUFFIXES:
                raise ConfigError(f"{argument} is no picture: {', '.join(PICTURE_SUFFIXES)}")
            places[argument] = Path(argument.name)
        else:
            raise ConfigError(f"{argument} does not exist")
    if not places:
        raise ConfigError(f"no pictures found ({', '.join(PICTURE_SUFFIXES)})")
    taken: dict[Path, Path] = {}
    for path, place in places.items():
        if place in taken:
            raise ConfigError(f"{taken[place]} and {path} would have the same result {place}: run them apart")
        taken[place] = path
    return places


def _label(class_name: str, class_names: Sequence[str]) -> int:
    if class_name and class_name not in class_names:
        raise ValueError(f"no class {class_name!r}; there are: {', '.join(class_names)}")
    return class_names.index(class_name) if class_name else -1


def _threshold(given: float | None, run: FinishedRun) -> float:
    if given is not None:
        return given
    return float(run.evaluation.get("cam", {}).get("global_threshold", DEFAULT_THRESHOLD))


def _check(settings: ExplainSettings) -> None:
    if settings.threshold is not None and not 0 < settings.threshold <= 1:
        raise ValueError(f"threshold={settings.threshold} must lie in (0, 1], the range of heat maps")
    if settings.pixel_size is not None and not settings.pixel_size > 0:
        raise ValueError(f"pixel_size={settings.pixel_size} is in micrometres and must be above 0")
    if settings.batch_size < 1:
        raise ValueError(f"batch_size={settings.batch_size} must be at least 1")


def _check_map(run: FinishedRun) -> None:
    shape = run.evaluation.get("image_shape")
    if shape and run.model.cam_shape(tuple(shape))[1:3] == (1, 1):
        raise ValueError(f"{run.directory}: this network has no spatial map to show, its CAM is 1x1")


def _decoder(run: FinishedRun) -> Decoder:
    """Pictures are read as the run's own were, and framed as in its evaluation."""
    data = run.config.data
    options = {name: value for name, value in dict(data.options).items() if name in DECODING}
    for name, _, argument in (entry.partition(":") for entry in data.eval_transforms):
        if name == "resize_short":
            options["short_side"] = int(argument)
    if shape := run.evaluation.get("image_shape"):
        options["size"] = tuple(shape[:2])
        if options.get("short_side", 0) < max(shape[:2]):
            options.pop("short_side", None)
    return Decoder(**{"channels": dict(run.model.settings)["in_channels"]} | options)
