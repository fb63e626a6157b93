"""`topgap data prepare` from the command line."""

import numpy as np
import pytest

from data.published_sets import tar_of, write_cifar10
from topgap_jax.cli import main
from topgap_jax.data.published.archives import DATA_SETS, DataSet
from topgap_jax.data.sources import load_source


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with an archive of a small CIFAR-10, which is declared to be the published one."""
    write_cifar10(tmp_path / "original")
    original = tmp_path / "original" / "cifar10" / "cifar-10-batches-bin"
    files = {f"cifar-10-batches-bin/{path.name}": path.read_bytes() for path in original.iterdir()}
    own = tmp_path / "own"
    own.mkdir()
    (own / "cifar-10-binary.tar.gz").write_bytes(tar_of(files, "w:gz"))
    archive = DATA_SETS["cifar10"].archives[0]._replace(checksum="", exact=False)
    monkeypatch.setitem(DATA_SETS, "cifar10", DataSet("CIFAR-10", (archive,)))
    return own


def test_prepare_makes_a_source_readable(own, tmp_path, capsys):
    data_dir = str(tmp_path / "data")
    with pytest.raises(ValueError, match=f"run: topgap data prepare cifar10 --data-dir {data_dir}$"):
        load_source("cifar10", "train", data_dir=data_dir)
    main(["data", "prepare", "cifar10", "--data-dir", data_dir, "--archives", str(own)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"cifar10 is prepared in {data_dir}/cifar10" and len(printed) == 3
    source = load_source("cifar10", "train", data_dir=data_dir)
    assert len(source) == 20 and np.ptp(source[0]["image"]) > 0
    main(["data", "prepare", "cifar10", "--data-dir", data_dir])
    assert capsys.readouterr().out == f"cifar10 is prepared in {data_dir}/cifar10\n"


def test_without_a_name_everything_is_listed(own, tmp_path, capsys):
    main(["data", "prepare", "cifar10", "--data-dir", str(tmp_path), "--archives", str(own)])
    capsys.readouterr()
    main(["data", "prepare", "--data-dir", str(tmp_path)])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {*DATA_SETS, "tfds:NAME"}
    assert f"in {tmp_path}/cifar10" in lines["cifar10"] and "0.2 GB" in lines["cifar10"]
    assert "not prepared" in lines["coco"] and "20.4 GB" in lines["coco"]
    assert "https://image-net.org/download.php" in lines["imagenet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nix"], "Error: no data set 'nix' to prepare; there are cifar10, "),
        (["imagenet"], "Error: imagenet can be had only from https://image-net.org/download.php, after"),
        (["cub", "--only", "faces"], "Error: cub has no archive 'faces'; there are CUB_200_2011.tgz, "),
        (["cub", "--archives", "nowhere"], "Error: --archives nowhere is no folder"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "prepare", *arguments, "--data-dir", str(tmp_path)])
    assert str(stopped.value).startswith(message) and "\n" not in str(stopped.value)
