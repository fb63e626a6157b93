"""Every kind of source, as small as it gets: the list that the shared contract test goes through.

A factory `folder -> Source` writes what it needs into that folder and opens it. It is called twice with the
same folder, and both must give the same.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from data import original_sets, published_sets
from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.folds import fold_parts
from topgap_jax.data.sources import Source, load_source


class Entry(NamedTuple):
    name: str
    factory: Callable[[Path], Source]


def embedded(folder: Path) -> Source:
    return load_source("embedded", "train", num_images=13)


def npz(folder: Path) -> Source:
    cells = np.stack([data.cell()[top : top + 24, 200:230] for top in range(0, 7 * 24, 24)])
    arrays = {"images": cells, "labels": np.arange(7) % 3, "masks": cells > 100, "groups": np.arange(7) % 2}
    np.savez(folder / "train.npz", **arrays)
    return load_source(f"npz:{folder}", "train")


def pictures(folder: Path) -> Source:
    """Photographs of several sizes and formats, at one size."""
    photograph = Image.fromarray(data.chelsea())
    for i, suffix in enumerate(("png", "jpg", "webp", "bmp", "jpg", "png", "jpg")):
        path = folder / "train" / ("left", "right", "top")[i % 3] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.crop((30 * i, 20 * i, 30 * i + 60, 20 * i + 50 + i)).save(path)
    return load_source(f"folder:{folder}", "train", size=(20, 24))


def microscope(folder: Path) -> Source:
    """16-bit TIFFs of two channels with masks, in a manifest with boxes and groups."""
    rows = ["file;label;split;group;mask;box"]
    for i in range(7):
        cell = data.cell()[60 * i : 60 * i + 50, 200:260].astype(np.uint16)
        stored = np.stack([40 * cell, 65535 - 100 * cell])
        tifffile.imwrite(folder / f"{i}.tif", stored, metadata={"axes": "CYX"}, photometric="minisblack")
        Image.fromarray(cell > 90).save(folder / f"{i}.png")
        rows.append(f"{i}.tif;{'light' if i % 3 else 'dark'};train;slide {i % 2};{i}.png;{i} 5 40 50.5")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return load_source(f"folder:{folder}", "train", size=(30, 24), channels=2)


# A process of its own builds the set, so that the one that reads it knows nothing but the files.
BUILD_COIN_PICTURES = """
import io, sys
import tensorflow_datasets as tfds
from PIL import Image
from skimage import data

class CoinPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["upper", "lower"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        coins = Image.fromarray(data.coins()).convert("RGB")
        for i in range(7):
            file = io.BytesIO()
            coins.crop((50 * i, 40 * i, 50 * i + 40 + i, 40 * i + 30)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i // 4}

CoinPictures(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def tfds(folder: Path) -> Source:
    prepared, script = folder / "prepared", folder / "coin_pictures.py"
    if not prepared.exists():
        script.write_text(BUILD_COIN_PICTURES)
        subprocess.run([sys.executable, str(script), str(prepared)], check=True, capture_output=True)
    return load_source("tfds:coin_pictures", "train", data_dir=str(prepared), size=16)


def cub(folder: Path) -> Source:
    original_sets.write_cub(folder)
    return load_source("cub", "all", data_dir=str(folder), size=(40, 48))


def waterbirds(folder: Path) -> Source:
    original_sets.write_cub(folder)
    original_sets.write_waterbirds(folder)
    return load_source("waterbirds", "train", data_dir=str(folder), masks=True, short_side=48)


def coco(folder: Path) -> Source:
    pytest.importorskip("pycocotools")
    original_sets.write_coco(folder)
    return load_source("coco", "all", data_dir=str(folder), min_samples=2)


def fold(folder: Path) -> Source:
    cells = np.stack([data.cell()[top : top + 24, 200:230] for top in range(0, 16 * 24, 24)])
    groups = np.arange(16) // 4
    whole = ArraySource(cells, np.arange(16) % 2, ["even", "odd"], masks=cells > 100, groups=groups)
    return fold_parts(whole, 2, 1)[0]


def cifar100(folder: Path) -> Source:
    published_sets.write_cifar100(folder)
    return load_source("cifar100", "validation", data_dir=str(folder), validation=13)


def imagenet(folder: Path) -> Source:
    published_sets.write_imagenet(folder)
    return load_source("imagenet", "train", data_dir=str(folder), size=(20, 24), short_side=30)


def oxford_pet(folder: Path) -> Source:
    published_sets.write_oxford_pet(folder)
    return load_source("oxford_pet", "all", data_dir=str(folder), short_side=25)


SOURCES = [
    Entry("embedded", embedded),
    Entry("fold", fold),
    Entry("npz", npz),
    Entry("folder", pictures),
    Entry("microscope", microscope),
    Entry("tfds", tfds),
    Entry("cub", cub),
    Entry("waterbirds", waterbirds),
    Entry("coco", coco),
    Entry("cifar100", cifar100),
    Entry("imagenet", imagenet),
    Entry("oxford_pet", oxford_pet),
]
