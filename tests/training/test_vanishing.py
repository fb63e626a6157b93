"""Pictures that are deleted while a network trains on them."""

import json
import shutil
import subprocess
import time

import pytest
from PIL import Image

from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.training import DataError, loop, train_and_evaluate
from training.processes import ROOT, command, finish, metrics, start

STEPS = 60


@pytest.fixture
def pictures(tmp_path):
    """Textured digits as files."""
    for split in ("train", "validation"):
        for index, example in enumerate(TexturedDigits(split, num_images=60, size=24, object_size=14)):
            path = tmp_path / "pictures" / split / str(example["label"]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(example["image"]).save(path)
    return tmp_path / "pictures"


def settings(pictures):
    return {
        "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16},
        "data": {"source": f"folder:{pictures}", "options": {"size": 24}},
        "optimizer": {"learning_rate": 0.05, "clip_norm": 1.0},
        "train": {"batch_size": 10, "epochs": 10, "log_every_steps": 1, "checkpoint_every_steps": 4},
        "evaluation": {"batch_size": 20},
    }


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_stops_with_its_checkpoints_and_goes_on(split, pictures, tmp_path, monkeypatch):
    class Deleting(loop.TrainingLog):
        def flush(self):
            super().flush()
            if self._step == 5:
                (pictures / split).rename(tmp_path / "away")

    monkeypatch.setattr(loop, "TrainingLog", Deleting)
    with pytest.raises(DataError, match=rf"{pictures / split}.*\.png.*; the checkpoints so far are kept"):
        train_and_evaluate(settings(pictures), tmp_path / "run")
    assert any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())
    monkeypatch.undo()

    (tmp_path / "away").rename(pictures / split)
    train_and_evaluate(settings(pictures), tmp_path / "run")
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_says_so_in_one_line(workers, pictures, tmp_path):
    config = settings(pictures)
    config["data"]["workers"] = workers
    (tmp_path / "run.py").write_text(
        f"import json, ml_collections\n\n"
        f"def get_config():\n    return ml_collections.ConfigDict(json.loads({json.dumps(config)!r}))\n"
    )
    process = subprocess.Popen(
        command(tmp_path / "run.py", tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 200
    while not any(line["step"] >= 5 for line in metrics(tmp_path / "run")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    shutil.move(pictures, tmp_path / "away")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    line, *others = errors.strip().splitlines()
    assert line.startswith(f"Error: {pictures}/") and line.endswith("a new start goes on from them")
    assert not others or (
        workers and "leaked shared_memory" in others[0]
    )  # Python's remark on Grain's workers
    shutil.move(tmp_path / "away", pictures)
    finish(start(tmp_path / "run.py", tmp_path / "run"))
    assert metrics(tmp_path / "run")[-1]["step"] == STEPS
