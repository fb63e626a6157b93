import json

import numpy as np
import pytest

import topgap_jax as tg
from topgap_jax import analysis
from topgap_jax.cli import main
from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.training.config import ConfigError, as_json, resolve
from topgap_jax.training.receptive_fields import measure_fields

OPTIONS = {"num_images": 6, "size": 40}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run as training leaves it, with an untrained network."""
    directory = tmp_path_factory.mktemp("run")
    config = {"model": {"name": "resnet_narrow", "k": 9}, "data": {"options": OPTIONS, "test": ("shifted",)}}
    (directory / "config.json").write_text(as_json(resolve(config)))
    tg.save_model(tg.create_model("resnet_narrow", 10, k=9), directory / "model.safetensors")
    (directory / "evaluation.json").write_text(
        json.dumps({"image_shape": [40, 40, 3], "cam": {"sparsity": 0.25}})
    )
    return directory


def test_it_measures_the_runs_network_and_pictures(workdir):
    figures, fields = measure_fields(workdir, examples=5, batch_size=3)
    source = TexturedDigits("shifted", **OPTIONS)
    images = np.stack([source[i]["image"] for i in range(5)]).astype(np.float32) / np.float32(255)
    maps = analysis.maps_of(tg.load_model(workdir / "model.safetensors"))
    expected = analysis.erf_distance(maps, [images])
    assert figures["erf"]["distance"] == pytest.approx(expected.distance, rel=1e-3)
    assert (
        figures["erf"]["images"] == 5 and figures["split"] == "shifted" and figures["cam_shape"] == [10, 10]
    )
    np.testing.assert_allclose(
        fields, analysis.mean_erf(maps, [images], [(4, 4), (0, 0)]), rtol=1e-3, atol=1e-9
    )
    top, left, bottom, right = figures["last_map_field"]
    assert 0 <= top < bottom <= 40 and 0 <= left < right <= 40


def test_the_command_writes_table_and_figure(workdir, tmp_path, capsys):
    main(["erf", str(workdir), "--out", str(tmp_path), "--examples", "2"])
    printed = capsys.readouterr().out
    (result,) = json.loads((tmp_path / "erf.json").read_text())
    assert f"| {result['erf']['center']:.3f} |" in printed and "| Top-GAP, k = 9 | 10x10 |" in printed
    assert (tmp_path / "erf.png").stat().st_size > 5000 and (tmp_path / "erf.pdf").exists()


def test_mistakes(workdir, tmp_path):
    with pytest.raises(ConfigError, match="holds no finished run"):
        measure_fields(tmp_path)
    with pytest.raises(ConfigError, match="examples=0 and batch_size=32 must be at least 1"):
        measure_fields(workdir, examples=0)
    with pytest.raises(ConfigError, match="no split 'elsewhere'"):
        measure_fields(workdir, split="elsewhere")
