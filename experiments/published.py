"""Every figure of every table of the paper, as it is printed there.

`TABLES["4"].rows["Top-GAP (ours)", "PRN18"]["PGD20"]` is `Figure(0.517)`. Accuracies are shares in [0, 1].
EN: EfficientNet-B0, CN: ConvNeXt-tiny, RN: ResNet-18, VG: VGG11-BN, PRN18: PreAct-ResNet-18, RN50: ResNet-50.
"""

from typing import NamedTuple

Row = tuple[str, ...]


class Figure(NamedTuple):
    """A printed number."""

    value: float
    sd: float | None = None  # the paper's "±"


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    keys: tuple[str, ...]  # what the names of a row say
    columns: tuple[str, ...]
    rows: dict[Row, dict[str, Figure]]  # a figure that the paper leaves out ("-") is not there
    unit: str = "share"  # or "fraction", "parameters" (millions)
    runs: str = "not stated"  # what a mean or a standard deviation is taken over
    notes: tuple[str, ...] = ()


def _table(
    title: str,
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    rows: dict[Row, tuple[float | tuple[float, float] | None, ...]],
    unit: str = "share",
    runs: str = "not stated",
    notes: tuple[str, ...] = (),
) -> Table:
    """Rows as they are printed, from left to right; a pair is a value with its standard deviation."""
    filled = {
        row: {
            column: Figure(*cell) if isinstance(cell, tuple) else Figure(cell)
            for column, cell in zip(columns, cells, strict=True)
            if cell is not None
        }
        for row, cells in rows.items()
    }
    return Table(title, keys, columns, filled, unit, runs, notes)


DATASET = ("data set", "network")
FOLDS = "5 folds of a stratified cross-validation (section 4)"
SAME_PREDICTION = (
    "FGSM and PGD count pictures whose prediction stays what it was (section 4.3): prediction consistency, "
    "which is at least the robust accuracy."
)
ORDERS = "The paper reports the best k for each figure, not one k for a row (section 4.3)."

TABLES = {
    "1": _table(
        "Number of parameters",
        ("network",),
        ("unmodified", "ours"),
        {
            ("VGG11-BN",): (132.87, 12.43),
            ("EfficientNet-B0",): (4.08, 4.75),
            ("DenseNet-121",): (7.98, 8.03),
        },
        unit="parameters",
        runs="exact",
        notes=(
            "VGG11-BN is reached with 1000 classes, both columns of EfficientNet-B0 with 53.",
            "DenseNet-121: the rule that gives the other rows does not reach 8.03 million (docs/models.md).",
        ),
    ),
    "2": _table(
        "ERF distance",
        DATASET,
        ("standard", "ours"),
        {
            ("COCO", "EN"): (0.108, 0.447),
            ("COCO", "CN"): (0.072, 0.288),
            ("COCO", "RN"): (0.273, 0.399),
            ("Oxford", "EN"): (0.013, 0.383),
            ("Oxford", "RN"): (0.060, 0.443),
            ("CUB", "EN"): (-0.033, 0.480),
            ("CUB", "CN"): (-0.034, 0.242),
            ("CUB", "RN"): (0.092, 0.529),
        },
        unit="fraction",
        notes=("The differences of tables A1 and A2, up to rounding.",),
    ),
    "3": _table(
        "Robustness and accuracy at higher resolution",
        DATASET,
        ("FGSM", "FGSM (ours)", "PGD", "PGD (ours)", "clean", "clean (ours)"),
        {
            ("COCO", "EN"): (0.07, 0.3063, 0.0, 0.1098, (0.801, 0.009), (0.803, 0.006)),
            ("COCO", "CN"): (0.51, 0.678, 0.301, 0.463, (0.939, 0.006), (0.940, 0.005)),
            ("COCO", "RN"): (0.288, 0.394, 0.08, 0.142, (0.853, 0.004), (0.868, 0.005)),
            ("Wood", "EN"): (0.0, 0.277, 0.0, 0.085, (0.672, 0.037), (0.681, 0.041)),
            ("Wood", "CN"): (0.0, 0.404, 0.0, 0.01, (0.721, 0.030), (0.724, 0.033)),
            ("Oxford", "EN"): (0.037, 0.107, 0.0, 0.0, (0.854, 0.008), (0.863, 0.010)),
            ("Oxford", "RN"): (0.104, 0.281, 0.016, 0.104, (0.861, 0.007), (0.862, 0.007)),
            ("CUB", "EN"): (0.04, 0.147, 0.0, 0.04, (0.76, 0.01), (0.77, 0.005)),
            ("CUB", "RN"): (0.06, 0.212, 0.0, 0.111, (0.69, 0.014), (0.685, 0.006)),
            ("CUB", "CN"): (0.134, 0.314, 0.03, 0.158, (0.862, 0.007), (0.854, 0.005)),
            ("ImageNet", "VG"): (0.029, 0.217, 0.0, 0.01, 0.704, 0.699),
            ("ImageNet", "RN"): (0.065, 0.256, 0.0, 0.059, 0.698, 0.697),
        },
        runs=f"{FOLDS}; ImageNet: one run",
        notes=("Linf, 1/255; PGD with 40 steps.", SAME_PREDICTION, ORDERS),
    ),
    "4": _table(
        "CIFAR-10",
        ("method", "network"),
        ("PGD20", "PGD50", "clean"),
        {
            ("Baseline", "PRN18"): (0.0, 0.0, 0.945),
            ("Top-GAP (ours)", "PRN18"): (0.517, 0.313, 0.951),
            ("FGSM-AT", "PRN18"): (None, 0.476, 0.81),
            ("SAT", "RN50"): (0.552, None, 0.849),
        },
        notes=(
            "Linf, 8/255.",
            SAME_PREDICTION,
            "FGSM-AT's 0.476 was most likely copied from Andriushchenko and Flammarion (2020): PGD with 50 "
            "steps and 10 restarts, which counts true labels, not the attack of the rows above it.",
        ),
    ),
    "5": _table(
        "CUB with ResNet-18",
        ("method",),
        ("clean",),
        {
            ("k-WTA",): ((0.439, 0.011),),
            ("FLC Pooling",): ((0.525, 0.022),),
            ("Top-GAP (ours)",): ((0.685, 0.006),),
        },
        runs=FOLDS,
    ),
    "6": _table(
        "Accuracy under distribution shift",
        ("from", "to", "network"),
        ("standard", "ours"),
        {
            ("CUB", "Waterbirds", "EN"): (0.521, 0.564),
            ("CUB", "Waterbirds", "CN"): (0.722, 0.737),
            ("CUB", "Waterbirds", "RN"): (0.468, 0.52),
            ("ImageNet", "Sketch", "VG"): (0.179, 0.20),
            ("ImageNet", "Sketch", "RN"): (0.206, 0.236),
            ("ImageNet", "ImageNet-C", "VG"): (0.494, 0.498),
            ("ImageNet", "ImageNet-C", "RN"): (0.513, 0.535),
        },
        notes=("ImageNet-C: severity 1, mean over the corruptions.",),
    ),
    "7": _table(
        "Ablation on COCO with EfficientNet-B0",
        ("FPN", "l1", "Top-GAP"),
        ("accuracy", "FGSM"),
        {
            ("no", "no", "no"): (0.801, 0.07),
            ("no", "no", "yes"): (0.681, 0.0),
            ("no", "yes", "no"): (0.799, 0.297),
            ("no", "yes", "yes"): (0.796, 0.263),
            ("yes", "no", "no"): (0.796, 0.082),
            ("yes", "no", "yes"): (0.532, 0.054),
            ("yes", "yes", "no"): (0.790, 0.305),
            ("yes", "yes", "yes"): (0.803, 0.306),
        },
        notes=("k = 256 of 56x56 with the FPN, 4 of 7x7 without.", SAME_PREDICTION),
    ),
    "A1": _table(
        "ERF of the center",
        DATASET,
        ("standard", "ours"),
        {
            ("COCO", "EN"): (0.534, 0.54),
            ("COCO", "CN"): (0.47, 0.439),
            ("COCO", "RN"): (0.595, 0.571),
            ("Oxford", "EN"): (0.087, 0.51),
            ("Oxford", "RN"): (0.104, 0.542),
            ("CUB", "EN"): (0.489, 0.493),
            ("CUB", "CN"): (0.477, 0.398),
            ("CUB", "RN"): (0.538, 0.534),
            ("Average", "-"): (0.412, 0.503),
        },
        unit="fraction",
        notes=(
            "Gradients were z-normalised, not said over what; one map alone cannot have a mean |z| of 0.005.",
        ),
    ),
    "A2": _table(
        "ERF of the corner",
        DATASET,
        ("standard", "ours"),
        {
            ("COCO", "EN"): (0.426, 0.093),
            ("COCO", "CN"): (0.398, 0.151),
            ("COCO", "RN"): (0.322, 0.172),
            ("Oxford", "EN"): (0.074, 0.127),
            ("Oxford", "RN"): (0.044, 0.099),
            ("CUB", "EN"): (0.522, 0.013),
            ("CUB", "CN"): (0.511, 0.156),
            ("CUB", "RN"): (0.446, 0.005),
            ("Average", "-"): (0.343, 0.102),
        },
        unit="fraction",
    ),
    "A3": _table(
        "Sparsity of the map",
        DATASET,
        ("standard", "ours"),
        {
            ("COCO", "EN"): (0.179, 0.064),
            ("COCO", "CN"): (0.251, 0.151),
            ("COCO", "RN"): (0.173, 0.194),
            ("Wood", "EN"): (0.190, 0.032),
            ("Wood", "CN"): (0.110, 0.046),
            ("Oxford", "EN"): (0.154, 0.072),
            ("Oxford", "RN"): (0.151, 0.064),
            ("CUB", "EN"): (0.235, 0.05),
            ("CUB", "CN"): (0.164, 0.096),
            ("CUB", "RN"): (0.121, 0.056),
            ("ImageNet", "VG"): (0.279, 0.064),
            ("ImageNet", "RN"): (0.387, 0.123),
        },
        unit="fraction",
        notes=("Grad-CAM for the standard networks; ours is the lowest over the values of k.",),
    ),
    "A4": _table(
        "Overlap of the map with human annotation (IoU)",
        DATASET,
        ("standard", "ours"),
        {
            ("COCO", "EN"): (0.309, 0.348),
            ("COCO", "CN"): (0.103, 0.361),
            ("COCO", "RN"): (0.371, 0.391),
            ("CUB", "EN"): (0.323, 0.414),
            ("CUB", "CN"): (0.125, 0.389),
            ("CUB", "RN"): (0.268, 0.435),
        },
        unit="fraction",
        notes=("The threshold is not given. Grad-CAM for the standard networks.",),
    ),
    "A5": _table(
        "Networks on CIFAR-10, hyper-parameters chosen for robust accuracy",
        ("network",),
        ("PGD20", "PGD50", "clean"),
        {
            ("PreAct-ResNet18",): ((0.5484, 0.0135), (0.3528, 0.0277), (0.9493, 0.0013)),
            ("ResNet18",): ((0.5407, 0.033), (0.3361, 0.0516), (0.9501, 0.0009)),
            ("ResNet34",): ((0.4254, 0.08), (0.2989, 0.1181), (0.9513, 0.0023)),
            ("ResNet50",): ((0.4815, 0.0299), (0.336, 0.0462), (0.9515, 0.0023)),
            ("WideResNet40-4",): ((0.4156, 0.0092), (0.2811, 0.0253), (0.9462, 0.0002)),
        },
        runs="5 seeds",
        notes=("Linf, 8/255.", SAME_PREDICTION),
    ),
    "A6": _table(
        "With adversarial training, CIFAR-10",
        ("network",),
        ("PGD20", "PGD50", "clean"),
        {
            ("RaWideResNet-70-16",): (0.8494, 0.7462, 0.9372),
            ("RaWideResNet-70-16 + ours",): (0.8463, 0.7168, 0.953),
        },
        notes=(
            "Linf, 8/255.",
            SAME_PREDICTION,
            "The paper says 50,000 test pictures; CIFAR-10 has 10,000, and 50,000 for training.",
            "RobustBench lists the unmodified network with 93.27% clean and 71.1% under AutoAttack.",
        ),
    ),
    "A7": _table(
        "Kinds of l1 regularisation: ERF and accuracy, CUB with ResNet-18",
        ("l1 of", "lambda"),
        ("ERF center", "ERF corner", "accuracy"),
        {
            ("last", "1.0"): (0.514, 0.002, 0.63),
            ("last", "0.1"): (0.536, 0.113, 0.69),
            ("all", "1e-5"): (0.488, 0.416, 0.69),
            ("all", "1e-3"): (0.335, 0.26, 0.19),
            ("ours", "1.0"): (0.534, 0.005, 0.69),
        },
        unit="fraction",
    ),
    "A8": _table(
        "Kinds of l1 regularisation: sparsity of the map and accuracy, CUB with ResNet-18",
        ("l1 of", "lambda"),
        ("sparsity", "accuracy"),
        {
            ("last", "1.0"): (0.141, 0.63),
            ("last", "0.1"): (0.152, 0.69),
            ("all", "1e-5"): (0.119, 0.69),
            ("all", "1e-3"): (0.389, 0.19),
            ("ours, k = 128", "1.0"): (0.057, 0.66),
            ("ours, k = 256", "1.0"): (0.072, 0.67),
            ("ours, k = 512", "1.0"): (0.126, 0.68),
            ("ours, k = 1024", "1.0"): (0.174, 0.69),
            ("ours, k = 2048", "1.0"): (0.193, 0.68),
        },
        unit="fraction",
    ),
    "A9": _table(
        "Kinds of l1 regularisation: robustness, CUB with ResNet-18",
        ("l1 of", "lambda"),
        ("PGD40", "FGSM"),
        {
            ("last", "1.0"): (0.06, 0.15),
            ("last", "0.1"): (0.03, 0.11),
            ("all", "1e-5"): (0.0, 0.06),
            ("all", "1e-3"): (0.0, 0.03),
            ("ours", "1.0"): (0.11, 0.21),
        },
        notes=(SAME_PREDICTION,),
    ),
}

# Section 4.3, in the text beside table 4: Top-GAP on PreAct-ResNet-18, CIFAR-10, 8/255.
IN_THE_TEXT = {"Square": Figure(0.3426), "APGD20": Figure(0.07), "AutoAttack": Figure(0.0)}
