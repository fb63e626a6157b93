"""What the diagnostics look at: some examples, what the evaluation found on them, and PGD's trajectories."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from topgap_jax.attacks.base import Examples
from topgap_jax.attacks.trajectories import NAMES, Trajectory, ascend, random_images

PASS, WARN, INFO, SKIPPED = "PASS", "WARN", "INFO", "SKIPPED"

# These look at logits or predictions only, and so cannot be fooled by a masked gradient.
BLACK_BOX = ("square", "boundary", "hard-label", "hsja", "noise", "transfer")
STRONG_STEP, STRONG_STEPS = 1 / 4, 20  # step size as a share of eps: crosses the ball 2.5 times
STEP_DIVISORS = (30, 10, 4, 1)  # the curve's step sizes are eps over these; eps/30 is the paper's
PAPER_DIVISOR = 30
TARGETS = 3  # the likeliest other classes, for the targeted loss


class Diagnostic(NamedTuple):
    """One finding."""

    number: int  # 1..18
    name: str
    status: str  # "PASS", "WARN", "INFO" (no verdict) or "SKIPPED" (the sentence says why)
    figures: dict[str, Any]  # ready for JSON
    sentence: str


class Outcome(NamedTuple):
    """What one attack of the evaluation did; NumPy arrays."""

    success: np.ndarray  # bool [B], the label is missed
    predictions: np.ndarray | None  # int32 [B], where they are known
    config: Mapping[str, Any] | None


def outcomes(attacks: Mapping[str, Any], labels: np.ndarray) -> dict[str, Outcome]:
    """Results of attacks, predictions (integers) or successes (bool) [B]; an ensemble also in its parts.

    Raises:
      ValueError: one does not have an entry per label.
    """
    found: dict[str, Outcome] = {}
    for name, result in attacks.items():
        if hasattr(result, "success"):
            whole = Outcome(np.asarray(result.success), np.asarray(result.predictions), result.config)
        else:
            array = np.asarray(result)
            success = array if array.dtype == bool else array != labels
            whole = Outcome(success, None if array.dtype == bool else array, None)
        if whole.success.shape != labels.shape:
            raise ValueError(f"attacks[{name!r}] has {whole.success.shape} entries for {len(labels)} labels")
        found[name] = whole
        stages = (whole.config or {}).get("stages", ())  # also those that fooled nobody
        for part in sorted({*getattr(result, "fooled_by", ()), *stages} - {"", "clean"}):
            found[f"{name}: {part}"] = Outcome(np.asarray(result.fooled_by) == part, None, None)
    return found


def is_part(name: str) -> bool:
    """Whether an outcome is the share of one attack in an ensemble."""
    return ": " in name


def is_white_box(name: str, given: Mapping[str, Outcome]) -> bool:
    """Whether all successes are those of gradients; of an ensemble, only its parts can be."""
    has_parts = any(other.startswith(f"{name}: ") for other in given)
    return not has_parts and not any(word in name.lower() for word in BLACK_BOX)


@dataclasses.dataclass
class Case:
    """The network under suspicion with some examples; trajectories are computed when first looked at."""

    network: Partial
    examples: Examples  # [n], on the host
    logits: np.ndarray  # [n,K], of the clean images
    given: Mapping[str, Outcome]  # of the evaluation, on these n examples
    eps: float
    norm: str
    steps: tuple[int, ...]
    batch_size: int
    key: jax.Array

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.examples.labels)
        self.clean = self.logits.argmax(-1).astype(np.int32)
        self.right = self.clean == self.labels
        self.found = ~self.right  # by any attack of ours so far; grows

    def accuracy(self, fooled: np.ndarray) -> float:
        """Robust accuracy: right on the clean image, and not fooled."""
        return float((self.right & ~fooled).mean())

    def part(self, rows: np.ndarray) -> Examples:
        """Some of the examples."""
        return jax.tree.map(lambda field: np.asarray(field)[rows], self.examples)

    def ascend(self, rows: np.ndarray | None = None, **settings: Any) -> Trajectory:
        """PGD with the strong settings, unless told otherwise, on some of the examples (default: all)."""
        rows = np.arange(len(self.labels)) if rows is None else rows
        eps = settings.setdefault("eps", self.eps)
        defaults = dict(
            step_size=STRONG_STEP * eps, steps=STRONG_STEPS, batch_size=self.batch_size, key=self.key
        )
        examples = settings.pop("examples", None) or self.part(rows)
        trajectory = ascend(self.network, examples, norm=self.norm, **(defaults | settings))
        if eps <= self.eps:
            self.found[rows] |= trajectory.fooled(self.labels[rows])
        return trajectory

    @functools.cached_property
    def curves(self) -> dict[int, Trajectory]:
        """The longest PGD at each step size; with the paper's, everyone takes all steps."""
        return {
            divisor: self.ascend(
                step_size=self.eps / divisor, steps=self.steps[-1], until_fooled=divisor != PAPER_DIVISOR
            )
            for divisor in STEP_DIVISORS
        }

    @functools.cached_property
    def swapped(self) -> dict[str, np.ndarray]:
        """Who is fooled by the strong PGD with each loss, bool [n]."""
        fooled = {name: self.ascend(loss=name).fooled(self.labels) for name in NAMES if name != "targeted"}
        others = self.logits.copy()
        others[np.arange(len(others)), self.labels] = -np.inf
        ranked = np.argsort(-others, axis=-1, kind="stable")[:, : min(TARGETS, others.shape[1] - 1)]
        reached = ~self.right
        for targets in ranked.T.astype(np.int32):
            rows = np.flatnonzero(~reached)
            examples: Any = self.part(rows)._replace(targets=targets[rows])
            if len(rows):
                found = self.ascend(rows, loss="targeted", examples=examples).fooled(self.labels[rows])
                reached[rows] |= found
        return fooled | {"targeted": reached}

    @functools.cached_property
    def white_box(self) -> np.ndarray:
        """Who is wrong all along or fooled by gradients, ours or the evaluation's, bool [n]."""
        fooled = ~self.right
        for name, outcome in self.given.items():
            if is_white_box(name, self.given):
                fooled = fooled | outcome.success
        for trajectory in self.curves.values():
            fooled = fooled | trajectory.fooled(self.labels)
        return fooled | np.any(list(self.swapped.values()), axis=0)

    @property
    def standing(self) -> np.ndarray:
        """Rows that no attack with gradients fools."""
        return np.flatnonzero(~self.white_box)

    def noise(self, rows: np.ndarray, samples: int) -> Iterator[np.ndarray]:
        """Random images from the ball around some of the examples, [b,H,W,C] each time."""
        for number in range(samples):
            yield random_images(
                self.part(rows),
                eps=self.eps,
                norm=self.norm,
                number=number,
                key=self.key,
                batch_size=self.batch_size,
            )


def verdict(warn: bool | np.bool_) -> str:
    """WARN or PASS."""
    return WARN if warn else PASS
