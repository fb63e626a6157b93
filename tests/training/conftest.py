import pytest

from training.processes import finish, start

# A run of 24 steps that takes seconds. The batch size divides by eight devices.
TINY = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "seed": 3,
        "model": {"name": "resnet_narrow", "pool": "topk", "k": 12, "pyramid_channels": 16, "dropout": 0.1},
        "loss": {"l1": 1.0},
        "data": {"source": "embedded", "options": {"num_images": 96, "size": 24, "object_size": 14}},
        "optimizer": {"learning_rate": 0.05, "clip_norm": 1.0, "ema_decay": 0.9},
        "train": {"batch_size": 16, "epochs": 4, "log_every_steps": 1, "checkpoint_every_steps": 4},
        "mesh": {"data": -1, "fsdp": 1},
        "evaluation": {"batch_size": 32},
    })
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of the configuration file."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def uninterrupted(tiny, tmp_path_factory):
    """Workdir of one whole run on one device."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(tiny, workdir))
    return workdir
