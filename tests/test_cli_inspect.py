"""`topgap data inspect` as it is typed."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.cli import main
from topgap_jax.cli.inspect_command import option
from topgap_jax.data.arrays import ArraySource


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Grey tiles of 48 pixels of stained tissue with masks; an object covers a ninth of each."""
    tissue = data.immunohistochemistry()[..., 0]
    mask = np.zeros((48, 48), bool)
    mask[16:32, 20:36] = True
    for index in range(30):
        place = f"{'train' if index < 20 else 'test'}/{('gland', 'stroma')[index % 2]}/{index}.png"
        top, left = 48 * (index // 6), 48 * (index % 6)
        save(tmp_path / place, tissue[top : top + 48, left : left + 48])
        save(tmp_path / "masks" / place, mask)
    return tmp_path


def inspect(capsys, *arguments):
    """What is printed, with runs of spaces and line ends as one space."""
    main(["data", "inspect", *map(str, arguments)])
    return " ".join(capsys.readouterr().out.split())


def test_a_folder_is_described_and_k_suggested(capsys, folder):
    out = inspect(capsys, f"folder:{folder}", "--option", "channels=1", "--option", "pixel_size=0.25")
    assert "2 classes train test" in out and "pictures 20 10" in out
    assert "class train test ───" in out and "gland 10 5" in out
    assert "masks, empty 20, 0 10, 0" in out and "covered, % 11.1 11.1 11.1" in out
    assert "diameter, px 18.1 18.1 18.1" in out and "diameter, um 4.51 4.51 4.51" in out
    assert "12 x 12 positions" in out and "--config.model.k=16" in out  # 144 / 9
    assert "Nothing that was looked at speaks against training on this." in out


def test_the_stride_of_the_cam_and_the_size_of_the_pictures_set_k(capsys, folder):
    assert "--config.model.k=4" in inspect(
        capsys, f"folder:{folder}", "--option=channels=1", "--cam-stride", 8, "--splits", "train"
    )
    assert "--config.model.k=64" in inspect(
        capsys, f"folder:{folder}", "--option=channels=1", "--option=size=96", "--splits=train"
    )


def test_json_holds_everything(capsys, folder, tmp_path):
    (folder / "train" / "gland" / "0.png").write_bytes(b"")
    save(folder / "test" / "gland" / "copy.png", np.asarray(Image.open(folder / "train" / "gland" / "2.png")))
    save(folder / "masks" / "test" / "gland" / "copy.png", np.zeros((48, 48), bool))
    path = tmp_path / "out" / "found.json"
    out = inspect(capsys, f"folder:{folder}", "--option=channels=1", "--json", path)
    found = json.loads(path.read_text())
    assert [split["split"] for split in found["splits"]] == ["train", "test"]
    assert found["splits"][0]["classes"] == {"gland": 10, "stroma": 10}
    assert found["suggested_k"]["k"] == {"q25": 16, "median": 16, "q75": 16}
    assert [duplicate["splits"] for duplicate in found["duplicates"]] == [["train", "test"]]
    assert [finding["warning"] for finding in found["findings"]] == [True, True, False]
    assert "WARNING train: 1 problems in 20 pictures" in out
    assert "WARNING The same pixels in several splits, once" in out
    assert "Note test: 1 of 11 masks are empty" in out


def test_the_sheet_has_a_row_per_class_and_skips_what_cannot_be_read(capsys, folder, tmp_path):
    (folder / "train" / "gland" / "0.png").write_bytes(b"")
    path = tmp_path / "sheet.png"
    out = inspect(capsys, f"folder:{folder}", "--option=channels=1", "--sheet", path)
    assert f"Contact sheet: {path}" in out.replace("\n", "")
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert sheet.shape[0] == 62 + 2 * 116 + 16
    # The outline of the first mask: a white line around the square, with a dark rim.
    tile = sheet[62 : 62 + 112]
    assert (tile == 255).all(-1).any() and (tile == 20).all(-1).any()


def test_many_classes_are_shortened_in_the_table_and_paged_on_the_sheet(capsys, tmp_path):
    tissue = data.immunohistochemistry()
    images = np.stack([tissue[9 * i : 9 * i + 16, 7 * i : 7 * i + 16] for i in range(52)])
    names = [f"species number {i} with quite a long name indeed" for i in range(52)]
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(52), class_names=np.array(names))
    out = inspect(capsys, f"npz:{tmp_path}", "--sheet", tmp_path / "sheet.png")
    assert "The 15 largest and the 15 smallest classes of train; --json has all." in out
    pages = [tmp_path / name for name in ("sheet.png", "sheet-2.png", "sheet-3.png")]
    shapes = [np.asarray(Image.open(page)).shape for page in pages]
    assert [height for height, *_ in shapes] == [62 + rows * 116 + 16 for rows in (25, 25, 2)]
    assert len({width for _, width, _ in shapes}) == 1


def test_groups_are_counted(capsys, tmp_path):
    out = inspect(capsys, "embedded", "--option", "num_images=200", "--splits=train,shifted", "--examples=20")
    assert "group train shifted" in out and "7 on its own" in out
    assert "group, in" not in out  # each group has one class
    images = np.stack([data.immunohistochemistry()[i : i + 16, i : i + 16] for i in range(0, 480, 40)])
    labels, groups = np.arange(12) % 2, np.arange(12) // 2 % 2
    np.savez(tmp_path / "train.npz", images=images, labels=labels, groups=groups)
    out = inspect(capsys, f"npz:{tmp_path}")
    assert "group train ─" in out and "group, in train 0 1 ─" in out.replace("── ", "─ ")
    assert "0 3 3 1 3 3" in out


def test_boxes_suggest_k_too(capsys, monkeypatch):
    class Boxed(ArraySource):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"box": np.array([0, 0, 32, 32], np.float32)}

    images = np.stack([data.immunohistochemistry()[i : i + 64, i : i + 64] for i in range(0, 400, 40)])
    source = Boxed(images, np.arange(10) % 2, ["a", "b"])
    monkeypatch.setattr("topgap_jax.data.sources.load_source", lambda *_, **__: source)
    out = inspect(capsys, "embedded", "--splits", "train")
    assert "boxes 10" in out and "in the box, % 25 25 25" in out
    assert "--config.model.k=64" in out and "An ellipse fills 79% of its box" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded", "--splits", "dev"], "the embedded set has no split 'dev'; there are train, validation"),
        (["embedded", "--option", "width=3"], "embedded takes no option 'width'; there are num_images"),
        (["folder:nowhere"], "nowhere is no folder"),
        (["imagenet22k"], "no data set 'imagenet22k'; there are embedded"),
        (["embedded", "--cam-stride", "0"], "--cam-stride must be at least 1"),
        (["embedded", "--examples", "-1"], "--examples at least 0"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["data", "inspect", *arguments])


def test_options_are_read_as_python_or_as_text(capsys):
    assert option("size=224") == ("size", 224)
    assert option("size=(32, 48)") == ("size", (32, 48))
    assert option("window=(0, 4095)") == ("window", (0, 4095))
    assert option("pages=max") == ("pages", "max")
    assert option("data_dir=/data/sets") == ("data_dir", "/data/sets")
    with pytest.raises(SystemExit):
        main(["data", "inspect", "embedded", "--option", "224"])
    assert "'224' is not NAME=VALUE, such as size=224" in capsys.readouterr().err
