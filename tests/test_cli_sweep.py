"""`topgap sweep` as it is typed."""

import json

import pytest

from topgap_jax.cli import main
from topgap_jax.cli.arguments import integers, read_config
from topgap_jax.training import sweep as rooms
from topgap_jax.training.distributed import started_tasks

FILE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "model": {"name": "resnet_narrow", "k": 12},
        "train": {"epochs": 4},
        "data": {"test": ("in_distribution",)},
    })
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def asked(monkeypatch):
    """What `sweep` was asked to do; it refuses."""
    found = {}

    def sweep(config, workdir, ks, **options):
        found.update(config=config.to_dict(), workdir=workdir, ks=ks, **options)
        raise rooms.ConfigError("enough")

    monkeypatch.setattr(rooms, "sweep", sweep)
    return found


def test_fields_of_the_configuration_are_changed_as_in_main(asked, config, tmp_path):
    with pytest.raises(SystemExit, match="Error: enough"):
        main(
            [
                "sweep",
                f"--config={config}",
                f"--workdir={tmp_path / 'sweep'}",
                "--k=64,128",
                "--seeds=0,1,2",
                "--together=2",
                "--config.train.epochs=3",
                "--config.optimizer.name=adamw",  # the file leaves this one out
                "--config.data.test=('a', 'b')",
            ]
        )
    assert (asked["ks"], asked["seeds"], asked["together"]) == ((64, 128), (0, 1, 2), 2)
    assert asked["config"]["train"] == {"epochs": 3} and asked["config"]["model"]["k"] == 12
    assert asked["config"]["optimizer"] == {"name": "adamw"}
    assert asked["config"]["data"]["test"] == ("a", "b")


def test_mistakes_end_in_one_line(config, tmp_path, capsys):
    arguments = ["sweep", f"--config={config}", f"--workdir={tmp_path / 'sweep'}"]
    for wrong, message in (
        (["--k=4,x"], "argument --k: '4,x' is not a list of integers such as 64,128,256"),
        (["--k=4", "--epochs=3"], "unrecognized arguments: --epochs=3"),
        ([], "the following arguments are required: --k"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
        assert message in capsys.readouterr().err
    for wrong, message in (
        (["--k=4,4"], "Error: k lists 4 more than once"),
        (["--k=4", "--config.train.epoch=3"], "Error: unknown config field 'train.epoch'; there are: train"),
        (["--k=4", "--config.train.epochs=three"], "Error: .*three"),
        (["--k=4", "--config.model.pool=mean"], "no k to sweep over"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*arguments, *wrong])
    with pytest.raises(SystemExit, match=r"Error: there is no configuration file .*nowhere\.py"):
        main(["sweep", f"--config={tmp_path / 'nowhere.py'}", "--workdir=x", "--k=4"])
    assert not (tmp_path / "sweep").exists()


def test_tasks_of_a_scheduler_would_all_train_the_same(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    arguments = ["sweep", f"--config={config}", f"--workdir={tmp_path / 'sweep'}", "--k=4"]
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    with pytest.raises(SystemExit, match="a sweep runs in one process; there are 8"):
        main(arguments)
    assert not (tmp_path / "sweep").exists()
    assert started_tasks() == 8
    monkeypatch.delenv("SLURM_STEP_NODELIST")  # a batch script of such an allocation is one process
    assert started_tasks() == 1


def test_other_commands_take_no_fields(capsys):
    with pytest.raises(SystemExit):
        main(["erf", "runs/none", "--config.train.epochs=3"])
    assert "unrecognized arguments: --config.train.epochs=3" in capsys.readouterr().err


def test_values():
    assert integers("64, 128") == (64, 128) and integers("") == ()


def test_a_configuration_is_read_as_it_is(config):
    assert json.loads(read_config(str(config)).to_json_best_effort())["train"] == {"epochs": 4}
