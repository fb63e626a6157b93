"""imagecorruptions 1.1.2 beside today's packages, with the random numbers of a generator.

It needs opencv-python-headless. `python tests/parity/corruption_reference.py` writes
`tests/corruptions/golden.json`, the figures that the default tests compare with.
"""

import importlib
import json
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import skimage.filters
import skimage.util

SEVERITIES = (1, 2, 3, 4, 5)
# These differ on purpose, see docs/corruptions.md: frost is not enlarged, elastic_transform is ImageNet-C's.
OTHER_ALGORITHM = ("frost", "elastic_transform")
# At 180 pixels every enlargement of the snow fits, so that theirs needs no cutting. But there the centres of
# some pixels lie between two large ones, and their pixelate takes another one of these than ImageNet-C does.
SIZES = {"pixelate": 224}
USUAL_SIZE = 180


def _import() -> ModuleType:
    """The package, which asks pkg_resources (no longer in setuptools) for its files."""
    resources = ModuleType("pkg_resources")
    resources.resource_filename = lambda module, name: str(Path(sys.modules[module].__file__).parent / name)
    sys.modules["pkg_resources"] = resources
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy.ndimage.interpolation
            return importlib.import_module("imagecorruptions.corruptions")
    finally:
        del sys.modules["pkg_resources"]


reference = _import()


def theirs(picture: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """What the package makes of a picture, uint8 [H, W, 3], if `rng` draws its random numbers."""
    from imagecorruptions import corrupt

    with _drawing_from(rng), _old_names(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return corrupt(picture, severity=severity, corruption_name=name)


def our_generator(name: str, severity: int, index: int, seed: int = 0) -> np.random.Generator:
    """The generator that `corrupt` gives to one picture."""
    return np.random.default_rng((seed, index, zlib.crc32(name.encode()), severity))


@contextmanager
def _drawing_from(rng: np.random.Generator) -> Iterator[None]:
    drawn = {name: getattr(rng, name) for name in ("normal", "uniform", "poisson")}
    noise = partial(skimage.util.random_noise, rng=rng)
    with (
        mock.patch.multiple(np.random, randint=rng.integers, **drawn),
        mock.patch.object(skimage.util, "random_noise", noise),
    ):
        yield


@contextmanager
def _old_names() -> Iterator[None]:
    """Three corruptions use names that scikit-image 0.23 and NumPy 2 removed."""

    def gaussian(
        image: np.ndarray, sigma: float, multichannel: bool = False, **settings: float
    ) -> np.ndarray:
        axis = -1 if multichannel else None
        return skimage.filters.gaussian(image, sigma, channel_axis=axis, **settings)

    with (
        mock.patch.object(reference, "gaussian", gaussian),
        mock.patch.object(np, "float_", np.float64, create=True),
    ):
        yield


def write_golden(path: Path) -> None:
    from corruptions.photographs import photographs, psnr
    from topgap_jax.corruptions import CORRUPTIONS

    statistics: dict[str, dict[int, dict[str, float]]] = {}
    for name in CORRUPTIONS:
        pictures = photographs(*[SIZES.get(name, USUAL_SIZE)] * 2)
        for severity in SEVERITIES if name not in OTHER_ALGORITHM else ():
            results = [
                theirs(picture, name, severity, our_generator(name, severity, index))
                for index, picture in enumerate(pictures)
            ]
            found = {
                "mean": np.mean(results),
                "std": np.std(results),
                "psnr": psnr(pictures, np.stack(results)),
            }
            found = {field: round(float(value), 3) for field, value in found.items()}
            statistics.setdefault(name, {})[severity] = found
    described = {
        "reference": "imagecorruptions 1.1.2, random numbers as ours",
        "sizes": {name: SIZES.get(name, USUAL_SIZE) for name in statistics},
        "statistics": statistics,
    }
    path.write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    write_golden(Path(__file__).parents[1] / "corruptions" / "golden.json")
