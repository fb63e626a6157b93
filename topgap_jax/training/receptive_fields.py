"""Effective receptive fields of trained runs, beside what their evaluation says of their maps."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topgap_jax.analysis import (
    corner_and_center,
    effective_area,
    erf_distance,
    maps_of,
    mean_erf,
    theoretical_field,
)
from topgap_jax.data.pipeline import first_examples
from topgap_jax.training.config import ConfigError
from topgap_jax.training.metrics import identity
from topgap_jax.training.runs import open_run
from topgap_jax.training.splits import first_test, load_split

CAM_FIGURES = ("sparsity", "iou_global", "iou_oracle", "energy_in_mask", "pointing_game")


def measure_fields(
    directory: Path, *, examples: int = 128, split: str = "", normalize: str = "image", batch_size: int = 32
) -> tuple[dict[str, Any], np.ndarray]:
    """The receptive fields of the class activation map at its center and its corner.

    Args:
      directory: of a finished run.
      examples: the first so many pictures of the split.
      split: of the run's data; default: its first test split.
      normalize: "image" or "dataset", see `analysis.erf_distance`.
      batch_size: pictures per pass.

    Returns:
      Figures (`erf`, `effective_area`, `last_map_field`, `cam`, ...), and the mean fields [2,H,W] of center
      and corner.

    Source: paper, tables 2, A1 and A2.

    Raises:
      ConfigError: no finished run, or settings that do not fit it.
    """
    if examples < 1 or batch_size < 1:
        raise ConfigError(f"examples={examples} and batch_size={batch_size} must be at least 1")
    try:
        run = open_run(directory)
        split = split or first_test(run.config.data)
        images = first_examples(load_split(run.config.data, split), examples)["image"]
        maps = maps_of(run.model)
        _, height, width, _ = run.model.cam_shape(images.shape[1:])
        corner, center = corner_and_center((height, width))
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        figures = erf_distance(maps, batches, normalize=normalize)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    fields = mean_erf(maps, batches, [center, corner])
    last = maps_of(run.model, -1)
    last_shape = jax.eval_shape(last, jnp.asarray(images[:1])).shape[1:3]
    cam = run.evaluation.get("cam", {})
    return {
        "title": run.config.title,
        **identity(run.config),
        "pool": run.config.model.pool,
        "k": int(run.model.k[...]) if run.model.pool == "topk" else None,
        "cam_shape": [height, width],
        "image_shape": list(images.shape[1:]),
        "split": split,
        "normalize": normalize,
        "erf": figures._asdict(),
        "effective_area": float(effective_area(jnp.asarray(fields[0]))),
        # Of the backbone's last map: behind the pyramid's interpolation every pixel counts.
        "last_map_field": list(theoretical_field(last, images.shape[1:], corner_and_center(last_shape)[1])),
        "cam": {name: cam[name] for name in CAM_FIGURES if name in cam},
    }, fields
