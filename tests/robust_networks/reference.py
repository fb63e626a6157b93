"""The reference AutoAttack in PyTorch: torchattacks, or the folder of fra31/auto-attack in AUTOATTACK."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
SINGLE = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
BATCH_SIZE = 250  # fra31/auto-attack's

Attack = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Build = Callable[..., Attack]  # (name, model, *, eps, targets, queries, seed)


class Outcome(NamedTuple):
    """What is left after each attack, "clean" first, and the seconds that it took."""

    robust: np.ndarray  # bool [B], after all of them
    robust_accuracy: dict[str, float]
    seconds: dict[str, float]


def sources() -> dict[str, Build]:
    """The reference implementations that are there, the original first."""
    found: dict[str, Build] = {}
    if folder := os.environ.get("AUTOATTACK"):
        # In front: the script that asks may bear the package's name.
        sys.path[:0] = [] if folder in sys.path else [folder]
        found["auto-attack"] = auto_attack
    return found | {"torchattacks": torchattacks}


def torchattacks(
    name: str, model: torch.nn.Module, *, eps: float, targets: int = 9, queries: int = 5000, seed: int = 0
) -> Attack:
    """One attack of torchattacks, with the paper's settings: its own defaults are weaker (10 steps)."""
    from torchattacks import APGD, APGDT, FAB, Square

    settings: dict[str, Any] = {"norm": "Linf", "eps": eps, "seed": seed}
    build: dict[str, Callable[[], Attack]] = {
        "apgd-ce": lambda: APGD(model, steps=100, loss="ce", **settings),
        "apgd-dlr": lambda: APGD(model, steps=100, loss="dlr", **settings),
        "apgd-t": lambda: APGDT(model, steps=100, n_classes=targets + 1, **settings),
        "fab-t": lambda: FAB(model, steps=100, multi_targeted=True, n_classes=targets + 1, **settings),
        "square": lambda: Square(model, n_queries=queries, resc_schedule=False, **settings),
    }
    return build[name]()


def auto_attack(
    name: str, model: torch.nn.Module, *, eps: float, targets: int = 9, queries: int = 5000, seed: int = 0
) -> Attack:
    """One attack of fra31/auto-attack, as its standard version sets it."""
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from autoattack.fab_pt import FABAttack_PT
    from autoattack.square import SquareAttack

    settings: dict[str, Any] = {"norm": "Linf", "eps": eps, "seed": seed, "device": "cpu"}
    build: dict[str, Callable[[], Any]] = {
        "apgd-ce": lambda: APGDAttack(model, loss="ce", **settings),
        "apgd-dlr": lambda: APGDAttack(model, loss="dlr", **settings),
        "apgd-t": lambda: APGDAttack_targeted(model, n_target_classes=targets, **settings),
        "fab-t": lambda: FABAttack_PT(model, targeted=True, n_target_classes=targets, **settings),
        "square": lambda: SquareAttack(model, n_queries=queries, resc_schedule=False, **settings),
    }
    return build[name]().perturb


def run(
    build: Build,
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    attacks: tuple[str, ...] = STANDARD,
    **settings: int,
) -> Outcome:
    """The attacks one after the other, each on what the ones before left, as the standard version does."""
    robust = predictions(model, images) == labels
    accuracy, seconds = {"clean": robust.float().mean().item()}, {}
    for name in attacks:
        if not robust.any():
            break
        attack, start = build(name, model, eps=eps, **settings), time.perf_counter()
        for rows in robust.nonzero()[:, 0].split(BATCH_SIZE):
            adversarial = attack(images[rows], labels[rows])
            inside = (adversarial - images[rows]).abs().max() <= eps + 1e-6
            assert inside and adversarial.min() >= 0 and adversarial.max() <= 1, name
            robust[rows] = predictions(model, adversarial) == labels[rows]
        seconds[name] = time.perf_counter() - start
        accuracy[name] = robust.float().mean().item()
    return Outcome(robust.numpy(), accuracy, seconds)


@torch.no_grad()
def predictions(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images).argmax(1)
