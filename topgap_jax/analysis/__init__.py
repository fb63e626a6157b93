"""Where does a network look? Class activation maps, receptive fields and their figures of merit."""

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
from topgap_jax.analysis.gradcam import (
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    recipro_cam,
    score_cam,
)
from topgap_jax.analysis.localization import area, area_fit, box_iou_curve, max_box_accuracy
from topgap_jax.analysis.perturbation import insertion_deletion

__all__ = [
    "area",
    "area_fit",
    "best_threshold",
    "box_iou_curve",
    "cam_metrics",
    "corner_and_center",
    "effective_area",
    "effective_receptive_field",
    "energy_in_mask",
    "erf_distance",
    "erf_grid",
    "grad_cam",
    "grad_cam_plus_plus",
    "heatmap",
    "hires_cam",
    "insertion_deletion",
    "iou",
    "iou_curve",
    "iou_oracle",
    "layer_cam",
    "maps_of",
    "max_box_accuracy",
    "mean_erf",
    "pointing_game",
    "recipro_cam",
    "resize_and_scale",
    "score_cam",
    "sparsity",
    "theoretical_field",
]
