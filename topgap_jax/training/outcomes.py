"""Which pictures networks got right, on disk: a JSON line per network and corruption, to go on from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Cell = tuple[str, int]  # corruption and severity


class OutcomeJournal:
    """What was measured already: which pictures each network got right, a JSON line per cell.

    Args:
      path: of the file; lines of other evaluations stay in it and are left alone.
      described: settings and data, ready for JSON; they tell one evaluation from another.
      count: of the pictures, N.
    """

    def __init__(self, path: Path, described: Mapping[str, Any], count: int):
        self._path, self._count = path, count
        self._evaluation = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        self._found: dict[tuple[str, str, int], str] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # a killed process left half a line
            path.write_bytes(whole)
        for line in map(json.loads, whole.splitlines()):
            if line["evaluation"] == self._evaluation:  # of other settings or data: left alone
                self._found[line["network"], line["corruption"], line["severity"]] = line["correct"]

    def read(self, network: str, cell: Cell) -> np.ndarray | None:
        """Bool [N], which pictures the network (its fingerprint) got right; None if not yet known."""
        if (text := self._found.get((network, *cell))) is None:
            return None
        bits = np.frombuffer(bytes.fromhex(text), np.uint8)
        return np.unpackbits(bits, count=self._count).astype(bool)

    def append(self, network: str, title: str, cell: Cell, correct: np.ndarray) -> None:
        """Adds a line."""
        line = {
            "evaluation": self._evaluation,
            "network": network,
            "title": title,
            "corruption": cell[0],
            "severity": cell[1],
            "accuracy": float(correct.mean()),
            "correct": np.packbits(correct).tobytes().hex(),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
