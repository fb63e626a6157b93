"""The recipe cards for ImageNet, on a few pictures in its layout."""

import importlib.util
from pathlib import Path

import jax
import pytest
from flax import nnx

from data.published_sets import write_imagenet
from topgap_jax.training.config import resolve
from topgap_jax.training.loop import prepare

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"batch_size": 8, "epochs": 90}


def config_of(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_imagenet(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "parameters"),
    [
        ("imagenet_k256", "pyramid", 13_390_404),
        ("imagenet_baseline", "original", 11_178_564),
        ("imagenet_vgg11", "pyramid", 12_176_900),
    ],
)
def test_every_card_can_start(name, head, parameters, data_dir, tmp_path):
    config = config_of(name)
    with config.unlocked():
        config.data.options.data_dir = str(data_dir)
        config.train.update(SMALL)
        config.evaluation.batch_size = 8
    run = prepare(resolve(config), tmp_path)
    assert run.model.head_name == head
    assert run.sources["train"].num_classes == 4
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(run.model, nnx.Param))) == parameters
    assert run.model.cam_shape((224, 224, 3))[1:3] == ((7, 7) if head == "original" else (56, 56))
    assert run.sources["validation"].image_shape == (224, 224, 3)


@pytest.mark.parametrize("name", ["imagenet_k256", "imagenet_baseline", "imagenet_vgg11"])
def test_the_batch_is_128_pictures_on_each_of_16_chips(name):
    config = resolve(config_of(name))
    assert config.train.batch_size == 16 * 128
    assert config.model.dtype == "bfloat16"
    assert config.data.test == ("validation",)


def test_the_baseline_differs_in_the_method_alone():
    ours, baseline = (resolve(config_of(name)) for name in ("imagenet_k256", "imagenet_baseline"))
    for section in ("data", "optimizer", "train", "evaluation"):
        assert ours[section] == baseline[section]
    assert (baseline.model.pool, baseline.model.head, baseline.loss.l1) == ("mean", "original", 0.0)
