"""From JPEG files to training batches: images per second, beside PyTorch's DataLoader.

    python benchmarks/input.py [--workers 1,2] [--batches 40] [--turns 3] [--json PATH]

Photographs of scikit-image and foolbox, cut to 500x375 (ImageNet's usual size) and written as JPEG into a
temporary folder, become batches of 32 normalised float32 pictures of 224 px: random resized crop, horizontal
flip, division by 255, mean and standard deviation.

topgap    FolderSource, transforms and Grain give bytes; the device (here the same processor) makes them
          floats, as in training. Worker processes, or threads in their place.
pytorch   DataLoader, Pillow, torchvision's v2 transforms on Pillow pictures; worker processes make floats.

images/s    wall clock, once the workers are running and the first batches have arrived.
per CPU s   images per second of processor time that the process and its workers took: what a core gives,
            whatever else runs on the machine.
ratio       over pytorch, of the medians.

N workers, with all else, run on N cores (where the system can pin them). The contenders take turns, each in a
process of its own. PyTorch takes part where torch and torchvision are installed.

`--json PATH` appends a line per number of workers.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

BATCH, CROP, SIZE, QUALITY = 32, 224, (500, 375), 90
COPIES = 24  # cuts of each photograph
WARM_UP = 12  # batches: more than wait in any queue
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTENDERS = ("topgap", "topgap, threads", "pytorch")


def write_pictures(folder: Path) -> int:
    """Cuts of the photographs as `folder/train/<number>/<name>.jpg`; how many."""
    rng = np.random.default_rng(0)
    places = [package_folder("skimage") / "data", package_folder("foolbox") / "data"]
    names = ("astronaut", "chelsea", "coffee", "hubble", "ihc", "motorcycle", "retina", "rocket", "imagenet")
    files = sorted(file for place in places for file in place.iterdir() if file.name.startswith(names))
    files = [file for file in files if file.suffix in (".png", ".jpg")]
    for number, file in enumerate(files):
        place = folder / "train" / f"{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as picture:
            for copy in range(COPIES):
                cut = ImageOps.fit(picture.convert("RGB"), SIZE, centering=tuple(rng.random(2)))
                cut.save(place / f"{file.stem}_{copy}.jpg", quality=QUALITY)
    return len(files) * COPIES


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the benchmark takes its pictures from {name}: pip install -r requirements-dev.txt")
    return Path(spec.origin).parent


def topgap(folder: Path, workers: int) -> Iterator[Any]:
    import jax

    from topgap_jax.data.augmentation.transforms import augmentation
    from topgap_jax.data.pipeline import train_batches
    from topgap_jax.data.sources import load_source
    from topgap_jax.training.device_data import as_float

    @jax.jit
    def normalise(images: jax.Array) -> jax.Array:
        return (as_float(images) - np.float32(MEAN)) / np.float32(DEVIATION)

    source = load_source(f"folder:{folder}", "train")
    transforms = augmentation([f"random_resized_crop:{CROP}", "horizontal_flip"])
    for batch in train_batches(source, batch_size=BATCH, seed=0, transforms=transforms, workers=workers):
        yield jax.block_until_ready(normalise(batch["image"]))


def pytorch(folder: Path, workers: int) -> Iterator[Any]:
    import torch

    # The torchvision wheel describes operators that a torch without CUDA does not have.
    register_fake = torch.library.register_fake
    torch.library.register_fake = lambda operator, *args, **settings: (
        (lambda function: function)
        if isinstance(operator, str) and operator.startswith("torchvision::")
        else register_fake(operator, *args, **settings)
    )
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    geometry = [v2.RandomResizedCrop(CROP), v2.RandomHorizontalFlip()]
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
    dataset = ImageFolder(str(folder / "train"), v2.Compose(geometry + to_float))
    endless = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
    for images, _ in torch.utils.data.DataLoader(dataset, BATCH, sampler=endless, num_workers=workers):
        yield images


def take_turn(contender: str, folder: Path, workers: int, number: int) -> dict[str, float]:
    """Images per second of wall clock and of processor time over `number` batches."""
    batches = {
        "topgap": lambda: topgap(folder, workers),
        "topgap, threads": lambda: topgap(folder, 0),
        "pytorch": lambda: pytorch(folder, workers),
    }[contender]()
    for _ in range(WARM_UP):
        next(batches)
    start, start_cpu = time.perf_counter(), processor_seconds()
    for _ in range(number):
        next(batches)
    seconds, cpu = time.perf_counter() - start, processor_seconds() - start_cpu
    batches.close()
    return {"wall": number * BATCH / seconds, "cpu": number * BATCH / cpu if cpu else float("nan")}


def processor_seconds() -> float:
    """Of this process and its children; 0 where the system has no /proc."""
    own, ticks = str(os.getpid()), 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # a process that has ended
            continue
        if own in (place.parent.name, fields[1]):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, workers: int, batches: int, turns: int) -> dict[str, dict[str, list[float]]]:
    """Per contender the figures of its turns, each taken by a process that runs on `workers` cores."""
    installed = all(importlib.util.find_spec(package) for package in ("torch", "torchvision"))
    contenders = CONTENDERS if installed else CONTENDERS[:1]
    figures: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in contenders}
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for _ in range(turns):
        for name in contenders:
            if before:
                os.sched_setaffinity(0, sorted(before)[:workers])
            command = [sys.executable, __file__, "--turn", name, "--folder", str(folder)]
            command += ["--workers", str(workers), "--batches", str(batches)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            for key, value in json.loads(result.stdout.splitlines()[-1]).items():
                figures[name][key].append(value)
            if before:
                os.sched_setaffinity(0, before)
    return figures


def machine() -> str:
    packages = [
        name
        for name in ("grain", "pillow", "torch", "torchvision")
        if importlib.util.find_spec({"pillow": "PIL"}.get(name, name))
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{platform.machine()}, {os.cpu_count()} cores, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,2", help="numbers of worker processes, separated by commas")
    parser.add_argument("--batches", type=int, default=40, help="measured in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        figures = take_turn(arguments.turn, arguments.folder, int(arguments.workers), arguments.batches)
        print(json.dumps(figures))
        return

    with tempfile.TemporaryDirectory() as temporary:
        number = write_pictures(Path(temporary))
        print(f"{machine()}; {number} JPEGs of {SIZE[0]}x{SIZE[1]}, batches of {BATCH}")
        print(f"{'workers':>7} | {'contender':15} | images/s | per CPU s | ratio, wall | ratio, CPU")
        for workers in map(int, arguments.workers.split(",")):
            figures = measure(Path(temporary), workers, arguments.batches, arguments.turns)
            medians = {
                name: {key: statistics.median(values) for key, values in found.items()}
                for name, found in figures.items()
            }
            for name, found in medians.items():
                reference = medians.get("pytorch", medians["topgap"])
                ratios = [found[key] / reference[key] for key in ("wall", "cpu")]
                print(
                    f"{workers:7} | {name:15} | {found['wall']:8.1f} | {found['cpu']:9.1f} | "
                    f"{ratios[0]:11.2f} | {ratios[1]:10.2f}",
                    flush=True,
                )
            if arguments.json:
                settings = {"machine": machine(), "workers": workers, "batch": BATCH, "pictures": number}
                row = {"settings": settings, "images_per_second": medians, "turns": figures}
                with arguments.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
