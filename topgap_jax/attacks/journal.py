"""An evaluation on disk: one JSON line per finished attempt and the adversarial images, so that it can go on.

evaluation.json    what was evaluated: settings, and hashes of images, labels and parameters
outcomes.jsonl     append-only; a line per example, attack and attempt
NAME.npy           float32 [B,H,W,C], what the attack NAME made of each image
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from topgap_jax.attacks.base import Examples, Progress
from topgap_jax.attacks.threat_models import distances

LINE_FIELDS = ("queries", "success", "predictions", "loss")


class Journal:
    """The folder of one evaluation.

    Args:
      directory: made if missing.
      logits_fn, examples: what is attacked.
      settings: of the evaluation, ready for JSON.

    Raises:
      ValueError: the folder holds an evaluation of something else; the message says of what.
    """

    def __init__(
        self, directory: str | Path, logits_fn: Partial, examples: Examples, settings: Mapping[str, Any]
    ):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        described = dict(settings) | {
            "images": fingerprint(examples.images),
            "labels": fingerprint(examples.labels),
            "parameters": fingerprint(logits_fn),
        }
        described = json.loads(json.dumps(described))
        path = self.directory / "evaluation.json"
        if path.exists():
            _check_same(path, described)
        else:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(described, indent=2))
            temporary.replace(path)
        self.lines = _read_lines(self.directory / "outcomes.jsonl")
        self.row_of = {int(index): row for row, index in enumerate(examples.indices)}
        self.shape = examples.images.shape

    def log(self, attack: str, examples: Examples, norm: str) -> "AttackLog":
        """The part of one attack on some of the examples."""
        return AttackLog(self, attack, examples, norm)


class AttackLog:
    """What one attack did: read back after a restart, and appended to."""

    def __init__(self, journal: Journal, attack: str, examples: Examples, norm: str):
        self.attack, self.norm, self.examples = attack, norm, examples
        self.lines = [line for line in journal.lines if line["attack"] == attack]
        self.path = journal.directory / "outcomes.jsonl"
        self.rows = np.array(
            [journal.row_of[int(index)] for index in examples.indices]
        )  # in the file of images
        images = journal.directory / f"{attack}.npy"
        mode: Any = "r+" if images.exists() else "w+"
        self.images = np.lib.format.open_memmap(images, mode=mode, dtype=np.float32, shape=journal.shape)

    def restore(self, outcome: Progress) -> np.ndarray:
        """Fills in what was found before; int32 [B], the attempts made so far."""
        made = np.zeros(len(self.examples.labels), np.int32)
        row_of = {int(index): row for row, index in enumerate(self.examples.indices)}
        for line in self.lines:
            if (row := row_of.get(line["example"])) is None:
                continue
            made[row] = line["attempt"] + 1
            for field in LINE_FIELDS:
                # No loss: nothing was found; JSON has no infinity.
                np.asarray(getattr(outcome, field))[row] = -np.inf if line[field] is None else line[field]
        np.asarray(outcome.images)[made > 0] = self.images[self.rows[made > 0]]
        return made

    def append(self, rows: np.ndarray, attempts: np.ndarray, outcome: Progress) -> None:
        """Writes finished attempts [n]: the images first, so that a line never lacks its image."""
        images = np.asarray(outcome.images)[rows]
        self.images[self.rows[rows]] = images
        distance = distances(images - np.asarray(self.examples.images)[rows], self.norm)
        known = {field: np.asarray(getattr(outcome, field))[rows].tolist() for field in LINE_FIELDS}
        known |= {"example": np.asarray(self.examples.indices)[rows].tolist(), "attempt": attempts.tolist()}
        known |= {"distance": distance.tolist()}
        known["loss"] = [loss if np.isfinite(loss) else None for loss in known["loss"]]
        lines = [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]
        with self.path.open("a") as file:
            file.writelines(json.dumps({"attack": self.attack, **line}) + "\n" for line in lines)


def fingerprint(tree: Any) -> str:
    """Sixteen hexadecimal digits of the arrays in a pytree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array: Any = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _check_same(path: Path, described: Mapping[str, Any]) -> None:
    before = json.loads(path.read_text())
    changed = [
        f"{name}: {described.get(name)}, there {before.get(name)}"
        for name in sorted(described.keys() | before.keys())
        if described.get(name) != before.get(name)
    ]
    if changed:
        raise ValueError(f"{path} is of another evaluation ({'; '.join(changed)}); choose another folder")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that a killed process left half written is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
