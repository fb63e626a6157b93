"""Attacks by name, as configurations and the command line take them; the paper's among them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from topgap_jax.attacks.apgd import apgd
from topgap_jax.attacks.autoattack import auto_attack
from topgap_jax.attacks.gradient import fgsm, pgd
from topgap_jax.attacks.square import square


class Preset(NamedTuple):
    """An attack with its settings: `attack(logits_fn, images, labels, eps=..., norm=...)`."""

    title: str
    strength: str  # "cheap", such as the paper's recipes, or "strong"
    attack: Callable[..., Any]


# The paper's recipe is Foolbox's: steps of eps/30 and the last iterate, so that 20 steps reach two thirds of
# the ball (sections 4.3 and E.1). Its APGD has 20 iterations (section 4.3).
PRESETS: Mapping[str, Preset] = {
    "paper_fgsm": Preset("FGSM", "cheap", fgsm),
    "paper_pgd20": Preset("PGD-20 (paper recipe)", "cheap", partial(pgd, steps=20, recipe="paper")),
    "paper_pgd40": Preset("PGD-40 (paper recipe)", "cheap", partial(pgd, steps=40, recipe="paper")),
    "paper_pgd50": Preset("PGD-50 (paper recipe)", "cheap", partial(pgd, steps=50, recipe="paper")),
    "pgd50": Preset("PGD-50 (strong recipe)", "strong", partial(pgd, steps=50, recipe="strong", restarts=2)),
    "apgd20": Preset("APGD-20", "strong", partial(apgd, loss="ce", steps=20)),
    "apgd": Preset("APGD-100", "strong", partial(apgd, loss="ce")),
    "apgd_dlr": Preset("APGD-100 (DLR)", "strong", partial(apgd, loss="dlr")),
    "square": Preset("Square (5000 queries)", "strong", square),
    "auto_attack": Preset("AutoAttack", "strong", auto_attack),
}
