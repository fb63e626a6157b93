"""A finished run and its twin for the report tests, without training.

Real digits pasted on real textures, heat maps from plain filters, and figures drawn from a seeded generator:
nothing in it was measured on a network.

`python tests/reports/conftest.py FOLDER` writes one to look at.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from skimage.transform import resize
from sklearn.datasets import load_digits

SIZE, DIGIT = 48, 24
FGSM = ("FGSM", {"steps": 1, "step_size": 8 / 255, "reach": 1.0})
PAPER = ("PGD-20 (paper recipe)", {"steps": 20, "step_size": 8 / 255 / 30, "reach": 20 / 30})
STRONG = ("PGD-40 (strong)", {"steps": 40, "step_size": 2 / 255, "restarts": 2, "reach": 10.0})


def pictures(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [N,48,48,3] in [0, 1], masks [N,48,48], labels [N]."""
    digits = load_digits()
    textures = [getattr(data, name)() for name in ("brick", "grass", "gravel", "coffee", "chelsea")]
    textures = [t[..., None].repeat(3, -1) if t.ndim == 2 else t for t in textures]
    rng = np.random.default_rng(0)
    images, masks = np.zeros((count, SIZE, SIZE, 3)), np.zeros((count, SIZE, SIZE), bool)
    for index in range(count):
        texture = textures[index % len(textures)]
        top, left = (int(rng.integers(0, length - 2 * SIZE)) for length in texture.shape[:2])
        images[index] = texture[top : top + 2 * SIZE : 2, left : left + 2 * SIZE : 2] / 255
        ink = resize(digits.images[index] / 16, (DIGIT, DIGIT), order=1)
        row, column = rng.integers(0, SIZE - DIGIT, 2)
        place = (index, slice(row, row + DIGIT), slice(column, column + DIGIT))
        images[place] = images[place] * (1 - ink[..., None]) + ink[..., None] * rng.uniform(0.7, 1, 3)
        masks[place] = ink > 0.4
    return images.astype(np.float32), masks, digits.target[:count]


def filter_heat(images: np.ndarray, sigma: float) -> np.ndarray:
    """Local contrast, blurred and scaled to [0, 1]: what stands in for a heat map."""
    grey = images.mean(-1)
    contrast = np.abs(grey - ndimage.median_filter(grey, size=(1, 15, 15)))
    heat = ndimage.gaussian_filter(contrast, (0, sigma, sigma))
    heat -= heat.min(axis=(1, 2), keepdims=True)
    return (heat / heat.max(axis=(1, 2), keepdims=True)).astype(np.float32)


def evaluation(title: str, robust: tuple[float, float, float], rng: np.random.Generator) -> dict:
    clean = round(float(rng.uniform(0.95, 0.98)), 4)
    accuracy = [
        {"split": "in_distribution", "value": clean, "count": 2000},
        {"split": "shifted", "value": clean - 0.04, "count": 2000},
        {"split": "shifted", "group": "worst", "value": clean - 0.15, "count": 180, "name": "7 on grass"},
    ]
    attacks = [
        {
            "name": name,
            "eps": 8 / 255,
            "norm": "linf",
            "robust_accuracy": value,
            "count": 256,
            "config": config,
            "prediction_consistency": value + 0.0117,
            "clean_accuracy": 0.957,
        }
        for (name, config), value in zip((FGSM, PAPER, STRONG), robust, strict=True)
    ]
    cam = {
        "sparsity": float(rng.uniform(0.05, 0.3)),
        "iou_oracle": 0.52,
        "iou_global": 0.44,
        "global_threshold": 0.35,
        "threshold_split": "validation",
        "energy_in_mask": float(rng.uniform(0.2, 0.6)),
        "pointing_game": 0.81,
        "count": 2000,
        "split": "in_distribution",
        "method": "CAM (built in)",
        "mask_coverage": 0.09,
        "standard_error": {
            "sparsity": 0.001,
            "iou_oracle": 0.003,
            "iou_global": 0.004,
            "energy_in_mask": 0.004,
        },
    }
    return {
        "title": title,
        "config_hash": "5e1f0c9a7b3d",
        "commit": "0123456789ab",
        "seed": 0,
        "date": "2026-01-01 12:00 UTC",
        "accuracy": accuracy,
        "attacks": attacks,
        "cam": cam,
        "machine": {"device": "cpu", "processor": "synthetic", "cores": 2, "jax": "0.0.0"},
        "parameters": int(rng.integers(300_000, 400_000)),
        "cam_shape": [24, 24],
        "image_shape": [SIZE, SIZE, 3],
        "step_milliseconds": float(rng.uniform(80, 90)),
        "training_seconds": float(rng.uniform(80, 90)),
        "k": 64,
    }


def metrics(rng: np.random.Generator, l1: float) -> list[dict]:
    lines, identity = [], {"config_hash": "5e1f0c9a7b3d", "commit": "0123456789ab", "seed": 0}
    for step in range(5, 1001, 5):
        epoch, noise = step / 125, rng.normal()
        entropy = 2.2 * np.exp(-epoch / 1.5) + 0.08 + 0.03 * noise
        figures = {"cross_entropy": entropy, "l1": l1 * epoch / 8, "loss": entropy + l1 * epoch / 8}
        figures["accuracy"] = float(np.clip(0.97 - 0.85 * np.exp(-epoch / 1.5) + 0.015 * noise, 0, 1))
        lines.append({"kind": "train", "step": step, "epoch": epoch, **figures, **identity})
        if step % 125 == 0:
            figures["cross_entropy"] = 2.2 * np.exp(-epoch / 1.5) + 0.12
            lines.append(
                {"kind": "eval", "split": "validation", "step": step, "epoch": epoch, **figures, **identity}
            )
    return lines


def write_run(
    directory: Path, title: str, seed: int, robust: tuple[float, float, float], sigma: float
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pool = "mean" if seed else "topk"
    config = {"title": title, "model": {"name": "resnet_narrow", "pool": pool, "k": 64}, "seed": 0}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "evaluation.json").write_text(json.dumps(evaluation(title, robust, rng)))
    lines = metrics(rng, l1=0.3 / (seed + 1))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    images, masks, labels = pictures(10)
    wrong = rng.random(len(labels)) < 0.25
    np.savez(
        directory / "examples.npz",
        images=images,
        masks=masks,
        labels=labels,
        predictions=np.where(wrong, (labels + 1) % 10, labels),
        probabilities=rng.uniform(0.4, 1, len(labels)),
        heat=filter_heat(images, sigma),
        class_names=np.array([str(digit) for digit in range(10)]),
        split=np.array(["in_distribution", "shifted"] * 5),
    )


def write_twins(workdir: Path) -> Path:
    write_run(workdir, "Top-GAP", 0, robust=(0.27, 0.36, 0.02), sigma=1.0)
    write_run(workdir / "twin", "plain GAP", 1, robust=(0.21, 0.15, 0.0), sigma=3.0)
    return workdir


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_twins(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def twins(finished: Path, tmp_path: Path) -> Path:
    """A run directory with a twin."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def single(twins: Path) -> Path:
    """A run directory without a twin."""
    shutil.rmtree(twins / "twin")
    return twins


if __name__ == "__main__":
    write_twins(Path(sys.argv[1]))
