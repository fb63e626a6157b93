"""A folder of explanations: an overlay and a heat map per picture, and one JSON line each.

`explanations.jsonl` grows line by line, so that a command that was stopped goes on where it was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.reports.pictures import heat_picture, picture

TOP = 5  # classes with their probabilities in a line


class ExplanationFolder:
    """Writes explanations and knows which are there already.

    Args:
      folder: made if missing.
      identity: what the explanations depend on (run, class, threshold, ...); a folder holds those of one.

    Raises:
      ValueError: the folder holds explanations of another identity.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "settings.json"
        if settings.exists() and (found := json.loads(settings.read_text())) != dict(identity):
            differ = ", ".join(
                name for name in found.keys() | identity.keys() if found.get(name) != identity.get(name)
            )
            raise ValueError(f"{folder} holds explanations of other settings ({differ}); name another folder")
        settings.write_text(json.dumps(dict(identity), indent=2))
        self._lines = folder / "explanations.jsonl"
        self.done = self._read()

    def _read(self) -> set[str]:
        """Places that are finished; unfinished and unreadable lines are dropped, to be tried again."""
        kept = []
        if self._lines.exists():
            for line in self._lines.read_text().splitlines():
                try:
                    found = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if "problem" not in found:
                    kept.append(found)
        self._lines.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return {line["place"] for line in kept}

    def unreadable(self, place: Path, file: Path, problem: str) -> None:
        """Notes a picture that was left out."""
        self._append({"place": place.as_posix(), "file": str(file), "problem": problem})

    def add(
        self,
        place: Path,
        file: Path,
        image: np.ndarray,
        heat: np.ndarray,
        probabilities: np.ndarray,
        label: int,
        class_names: Sequence[str],
        threshold: float,
        pixel_size: float | None = None,
    ) -> dict[str, Any]:
        """Writes `<place>.overlay.png` (picture and map side by side), `<place>.heat.png` and a line.

        Args:
          place: relative to the folder.
          file: the picture.
          image: [H,W,C] in [0, 1].
          heat: [H,W] in [0, 1], of class `label`.
          probabilities: [K].
          label: the explained class.
          class_names: K names.
          threshold: a pixel is lit where heat >= threshold; the overlay outlines what is lit.
          pixel_size: edge of a pixel of `image` in micrometres.

        Returns:
          The line that was written.
        """
        lit = heat >= threshold
        target = self.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_side_by_side(image, heat, lit)).save(target.with_name(place.name + ".overlay.png"))
        grey = (heat * 255).round().astype(np.uint8)
        Image.fromarray(grey).save(target.with_name(place.name + ".heat.png"))
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        line: dict[str, Any] = {
            "place": place.as_posix(),
            "file": str(file),
            "prediction": class_names[int(best[0])],
            "probability": round(float(probabilities[best[0]]), 6),
            "probabilities": {class_names[int(i)]: round(float(probabilities[i]), 6) for i in best},
            "explained": class_names[label],
            "lit_share": round(float(lit.mean()), 6),
            "lit_pixels": int(lit.sum()),
            "box": _box(lit),
            "image_shape": list(image.shape),
        }
        if pixel_size is not None:
            line |= {
                "pixel_size_um": pixel_size,
                "area_um2": round(float(lit.sum()) * pixel_size**2, 6),
            }
        self._append(line)
        return line

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._lines.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _side_by_side(image: np.ndarray, heat: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """The picture, and beside it the heat map with the outline of what is lit."""
    left, right = picture(image), heat_picture(image, heat, lit)
    return np.concatenate([left, np.full((len(left), 4, 3), 255, np.uint8), right], axis=1)


def _box(lit: np.ndarray) -> list[int] | None:
    """Top, left, bottom, right of everything that is lit, edges in pixels."""
    if not lit.any():
        return None
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    return [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]
