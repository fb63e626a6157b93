import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

import topgap_jax as tg
from topgap_jax.cli import main
from topgap_jax.training.config import ConfigError, as_json, resolve
from topgap_jax.training.explaining import Explainer, ExplainSettings, Unreadable, find_pictures

NAMES = np.array(["cat", "coffee", "nothing"])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run as training leaves it, with an untrained network."""
    directory = tmp_path_factory.mktemp("run")
    config = resolve({"data": {"source": "folder:pictures", "options": {"size": 32}}})
    (directory / "config.json").write_text(as_json(config))
    tg.save_model(tg.create_model("resnet_narrow", 3, k=4), directory / "model.safetensors")
    evaluation = {"image_shape": [32, 32, 3], "cam": {"global_threshold": 0.3}}
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    np.savez(directory / "examples.npz", class_names=NAMES)
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for name, pixels in (("cat.jpg", data.chelsea()), ("more/cup.png", data.coffee())):
        Image.fromarray(pixels).resize((60, 50)).save(folder / name)
    (folder / "more" / "cut.png").write_bytes((folder / "more" / "cup.png").read_bytes()[:300])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def explain(workdir):
    return Explainer(workdir, ExplainSettings(batch_size=2))


def test_it_is_the_networks_answer(explain, workdir, pictures):
    path = pictures / "cat.jpg"
    (found,) = explain([path])
    model = tg.load_model(workdir / "model.safetensors")
    out = model(found.image[None])
    assert found.label == out.logits.argmax() and found.image.shape == (32, 32, 3)
    np.testing.assert_allclose(found.probabilities.sum(), 1, rtol=1e-5)
    heat = tg.heatmap(out.cam, out.logits.argmax(-1), (32, 32))[0]
    np.testing.assert_allclose(found.heat, heat, atol=1e-4)
    assert explain.threshold == 0.3


def test_batches_and_broken_files_change_nothing(explain, pictures):
    paths = list(find_pictures([pictures]))
    assert [path.name for path in paths] == ["cat.jpg", "cup.png", "cut.png"]
    together = {found.path.name: found for found in explain([*paths, paths[0]])}
    assert isinstance(together["cut.png"], Unreadable) and "cut.png" in together["cut.png"].problem
    (alone,) = explain([pictures / "more" / "cup.png"])
    np.testing.assert_allclose(together["cup.png"].heat, alone.heat, atol=1e-4)


def test_a_class_can_be_chosen(workdir, pictures):
    chosen = Explainer(workdir, ExplainSettings(class_name="nothing", batch_size=2))
    (found,) = chosen([pictures / "cat.jpg"])
    assert found.label == 2


def test_the_pixel_size_follows_the_scaling(explain, tmp_path):
    path = tmp_path / "cells.tif"
    pixels = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    tifffile.imwrite(path, pixels, imagej=False, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
    (found,) = explain([path])
    assert found.pixel_size == pytest.approx(1.0)  # half a micrometre, shown at half the size


def test_pictures_are_framed_as_in_the_evaluation(workdir, pictures, tmp_path):
    """Scaled to the short side of 40, of which the middle 32 are shown; not scaled to 32 at once."""
    for path in workdir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = {"source": "folder:x", "eval_transforms": ("resize_short:40", "center_crop:32")}
    (tmp_path / "config.json").write_text(as_json(resolve({"data": data})))
    image, framing = Explainer(tmp_path, ExplainSettings()).decoder.decode(pictures / "cat.jpg")
    assert image.shape == (32, 32, 3) and framing.scale == pytest.approx(50 / 40)
    plain = Explainer(workdir, ExplainSettings()).decoder.decode(pictures / "cat.jpg")[1]
    assert plain.scale == pytest.approx(50 / 32)


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"class_name": "dog"}, "no class 'dog'; there are: cat, coffee, nothing"),
            ({"threshold": 1.5}, r"threshold=1.5 must lie in \(0, 1\]"),
            ({"pixel_size": 0.0}, "pixel_size=0.0 is in micrometres and must be above 0"),
            ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ],
    )
    def test_settings(self, workdir, settings, message):
        with pytest.raises(ConfigError, match=message):
            Explainer(workdir, ExplainSettings(**settings))

    def test_no_run(self, tmp_path):
        with pytest.raises(ConfigError, match="holds no finished run"):
            Explainer(tmp_path, ExplainSettings())

    def test_no_pictures(self, tmp_path, pictures):
        with pytest.raises(ConfigError, match="nowhere does not exist"):
            find_pictures([tmp_path / "nowhere"])
        with pytest.raises(ConfigError, match="no pictures found"):
            find_pictures([tmp_path])
        with pytest.raises(ConfigError, match=r"notes\.txt is no picture"):
            find_pictures([pictures / "notes.txt"])
        with pytest.raises(ConfigError, match=r"would have the same result cup\.png"):
            find_pictures([pictures / "more", pictures / "more" / ".." / "more" / "cup.png"])


def read_lines(folder):
    found = map(json.loads, (folder / "explanations.jsonl").read_text().splitlines())
    return {line["place"]: line for line in found}


def test_the_command(workdir, pictures, tmp_path, capsys):
    arguments = ["explain", str(workdir), str(pictures), "--out", str(tmp_path), "--batch-size", "2"]
    main(arguments)
    printed = capsys.readouterr().out
    assert "2 explained, 1 left out" in printed and "cut.png" in printed
    lines = read_lines(tmp_path)
    assert set(lines) == {"cat.jpg", "more/cup.png", "more/cut.png"} and "problem" in lines["more/cut.png"]
    line = lines["more/cup.png"]
    with Image.open(tmp_path / "more" / "cup.png.heat.png") as stored:
        heat = np.asarray(stored) / 255
    with Image.open(tmp_path / "more" / "cup.png.overlay.png") as overlay:
        assert heat.shape == (32, 32) and overlay.width > 2 * 150
    assert line["lit_share"] == pytest.approx((heat >= 0.3).mean(), abs=0.02)
    assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)

    # Killed in mid-line it goes on; the broken picture is tried again.
    content = (tmp_path / "explanations.jsonl").read_text()
    first = content.splitlines()[0] + "\n"
    (tmp_path / "explanations.jsonl").write_text(first + '{"place": "more/cu')
    main(arguments)
    assert "1 explained, 1 left out, 1 were there" in capsys.readouterr().out
    assert sorted(read_lines(tmp_path)) == sorted(lines)

    with pytest.raises(SystemExit, match=r"other settings \(class\); name another folder"):
        main([*arguments, "--class", "cat"])
