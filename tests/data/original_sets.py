"""Small data sets in the format of the original archives, from the pictures that scikit-image ships.

Every object is the silhouette of scikit-image's horse, a shape with legs and hollows, on a photograph.
"""

import csv
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from skimage import data, measure

NEAREST = Image.Resampling.NEAREST
PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")


class Bird(NamedTuple):
    """A picture of the small CUB."""

    name: str
    species: int  # position in SPECIES
    in_training: bool
    height: int
    width: int


SPECIES = ("001.Black_footed_Albatross", "002.Groove_billed_Ani", "003.Chuck_will_Widow")
WATERBIRDS = (SPECIES[0],)
PLACES = ("/b/bamboo_forest/00000044.jpg", "/o/ocean/00000012.jpg")
BIRDS = [
    Bird(f"{SPECIES[i % 3]}/{SPECIES[i % 3][4:]}_{i:04}_{7 * i}.jpg", i % 3, i % 4 != 3, 60 + i, 84 - 2 * i)
    for i in range(11)
] + [Bird(f"{SPECIES[1]}/Groove billed Ani 12.jpg", 1, False, 72, 72)]
GREY = 4  # the number of the one that is a grey JPEG, as a few of the original are


@functools.cache
def stored(name: str) -> np.ndarray:
    return getattr(data, name)()


def photograph(number: int, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: some part of a photograph."""
    whole = stored(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
    top, left = 11 * number % (whole.shape[0] - height), 17 * number % (whole.shape[1] - width)
    return whole[top : top + height, left : left + width]


def silhouette(height: int, width: int, right: int = 0) -> np.ndarray:
    """bool [height, width]: the horse, in the middle, moved to the right by so many pixels."""
    horse = Image.fromarray(~stored("horse")).resize(
        (width * 3 // 5, height * 3 // 5), Image.Resampling.NEAREST
    )
    canvas = Image.new("1", (width, height))
    canvas.paste(horse, (width // 5 + right, height // 5))
    return np.asarray(canvas)


def votes(bird: Bird) -> np.ndarray:
    """bool [5, height, width]: what each of five annotators marked."""
    return np.stack([silhouette(bird.height, bird.width, right) for right in (-2, -1, 0, 1, 3)])


def picture(number: int) -> np.ndarray:
    """uint8 [height, width, 3] or, of the grey one, [height, width]; they count from 1, as in CUB."""
    bird = BIRDS[number - 1]
    pixels = photograph(number, bird.height, bird.width)
    return pixels[..., 1] if number == GREY else pixels


def edges(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what is marked."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_cub(data_dir: Path) -> Path:
    """`data_dir/cub` with 12 pictures of three species; one box reaches a pixel out, as in the original."""
    root = data_dir / "cub"
    lines: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    lines |= {"bounding_boxes": [], "classes": [f"{i} {name}" for i, name in enumerate(SPECIES, 1)]}
    for i, bird in enumerate(BIRDS, 1):
        save(root / "CUB_200_2011/images" / bird.name, picture(i), quality=95)
        share = votes(bird).sum(0) * 51
        save((root / "segmentations" / bird.name).with_suffix(".png"), share.astype(np.uint8))
        top, left, bottom, right = edges(share >= 153)
        if i == 1:
            right = bird.width + 1
        lines["images"].append(f"{i} {bird.name}")
        lines["image_class_labels"].append(f"{i} {bird.species + 1}")
        lines["train_test_split"].append(f"{i} {int(bird.in_training)}")
        lines["bounding_boxes"].append(f"{i} {left}.0 {top}.0 {right - left}.0 {bottom - top}.0")
    for name, table in lines.items():
        (root / f"CUB_200_2011/{name}.txt").write_text("\n".join(table) + "\n")
    return root


def write_waterbirds(data_dir: Path) -> Path:
    """`data_dir/waterbirds`: the same birds pasted on grass (land) and gravel (water)."""
    root = data_dir / "waterbirds/waterbird_complete95_forest2water2"
    rows = []
    for i, bird in enumerate(BIRDS, 1):
        opacity = votes(bird).mean(0)[..., None]
        water = i % 2
        place = stored("gravel" if water else "grass")[: bird.height, : bird.width, None]
        colours = np.asarray(Image.fromarray(picture(i)).convert("RGB"))
        pixels = colours * opacity + place * (1 - opacity)
        save(root / bird.name, pixels.round().astype(np.uint8), quality=95)
        split = (1 if i % 3 == 0 else 0) if bird.in_training else 2
        y = int(SPECIES[bird.species] in WATERBIRDS)
        rows.append(
            (i, bird.name, y, split, water, ("/b/bamboo_forest/0044.jpg", "/o/ocean/0012.jpg")[water])
        )
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("img_id", "img_filename", "y", "split", "place", "place_filename"), *rows])
    return root


def polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO's polygons, x and y in turn, around what is marked."""
    contours = measure.find_contours(np.pad(mask, 1).astype(float), 0.5)
    return [(contour[:, ::-1] - 0.5).round(2).ravel().tolist() for contour in contours if len(contour) > 8]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's plain run lengths: down the columns, in turn unmarked and marked, unmarked first."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return {"counts": counts if counts[-1] else counts[:-1], "size": list(mask.shape)}


# Categories (COCO's ids) and the objects of each picture: a category, or "crowd", "thin" (a box without
# height, of which the original has two) or "run lengths".
CATEGORIES = {1: "person", 17: "cat", 18: "dog", 89: "hair drier"}
OBJECTS: dict[str, list[list[tuple[int, str]]]] = {
    "train": [
        [(17, "polygons")],
        [],
        [(18, "polygons")],
        [(1, "crowd")],
        [(17, "polygons"), (18, "polygons")],
        [(18, "run lengths")],
        [(1, "polygons"), (1, "crowd")],
        [(89, "polygons")],
        [(1, "thin")],
        [(17, "polygons")],
        [(1, "polygons")],
    ],
    "val": [[(1, "polygons")], [(17, "polygons")], [(17, "polygons"), (17, "polygons")], [(1, "polygons")]],
}


def annotation(number: int, picture: int, category: int, kind: str, mask: np.ndarray) -> dict[str, Any]:
    top, left, bottom, right = edges(mask)
    box, segmentation = [left, top, right - left, bottom - top], polygons(mask)
    if kind in ("crowd", "run lengths"):
        segmentation = run_lengths(mask)
    if kind == "thin":
        box, segmentation = (
            [9.98, 18.56, 5.54, 0.0],
            [[9.98, 18.56, 15.52, 18.56, 15.52, 18.56, 11.09, 18.56]],
        )
    return {
        "segmentation": segmentation,
        "area": float(mask.sum()),
        "iscrowd": int(kind == "crowd"),
        "image_id": picture,
        "bbox": box,
        "category_id": category,
        "id": number,
    }


def write_coco(data_dir: Path, year: int = 2017) -> Path:
    """`data_dir/coco`: 15 pictures, of which 8 show one object of a class with two pictures or more."""
    root = data_dir / "coco"
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, pictures in OBJECTS.items():
        images, annotations = [], []
        for i, objects in enumerate(pictures):
            picture, height, width = 1000 * len(part) + 7 * i, 70 + 3 * i, 90 - 2 * i
            name = f"COCO_{part}2014_{picture:012}.jpg" if year == 2014 else f"{picture:012}.jpg"
            pixels = photograph(i if part == "train" else 50 + i, height, width)
            save(root / f"{part}{year}" / name, pixels[..., 1] if i == 2 else pixels, quality=95)
            images.append({"license": 3, "file_name": name, "height": height, "width": width, "id": picture})
            for j, (category, kind) in enumerate(objects):
                mask = silhouette(height, width, 4 * j)
                annotations.append(annotation(100 * picture + j, picture, category, kind, mask))
        whole = {
            "info": {"description": "COCO 2017 Dataset", "year": 2017},
            "licenses": [
                {"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution"}
            ],
            "images": images,
            "annotations": sorted(annotations, key=lambda entry: entry["category_id"]),
            "categories": [
                {"supercategory": "any", "id": id, "name": name} for id, name in CATEGORIES.items()
            ],
        }
        (root / f"annotations/instances_{part}{year}.json").write_text(json.dumps(whole))
    return root
