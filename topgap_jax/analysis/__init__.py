"""Where does a network look? Class activation maps, Grad-CAM and their figures of merit."""

from topgap_jax.analysis.cam import (
    best_threshold,
    cam_metrics,
    energy_in_mask,
    heatmap,
    iou,
    iou_curve,
    iou_oracle,
    pointing_game,
    resize_and_scale,
    sparsity,
)
from topgap_jax.analysis.erf import (
    corner_and_center,
    effective_area,
    effective_receptive_field,
    erf_distance,
    erf_grid,
    maps_of,
    mean_erf,
    theoretical_field,
)
from topgap_jax.analysis.gradcam import grad_cam

__all__ = [
    "best_threshold",
    "cam_metrics",
    "corner_and_center",
    "effective_area",
    "effective_receptive_field",
    "energy_in_mask",
    "erf_distance",
    "erf_grid",
    "grad_cam",
    "heatmap",
    "iou",
    "iou_curve",
    "iou_oracle",
    "maps_of",
    "mean_erf",
    "pointing_game",
    "resize_and_scale",
    "sparsity",
    "theoretical_field",
]
