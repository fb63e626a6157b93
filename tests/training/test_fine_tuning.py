import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import topgap_jax as tg
from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training.config import resolve
from topgap_jax.training.fine_tuning import frozen_mask, head_distances, scale_by_depth
from topgap_jax.training.loop import make_batches, make_programs, prepare
from topgap_jax.training.mesh import put_batch
from topgap_jax.training.state import split_model

SMALL = {
    "data": {"options": {"num_images": 96, "size": 24, "object_size": 14}},
    "train": {"batch_size": 16, "epochs": 1},
}


def one_step(tmp_path, model=None, **optimizer):
    """The state before and after one step of training."""
    config = SMALL | {
        "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16} | (model or {}),
        "optimizer": {"learning_rate": 0.1, "schedule": "constant", "warmup_fraction": 0.0} | optimizer,
    }
    run = prepare(resolve(config), tmp_path)
    state, step, _ = make_programs(run)
    before = jax.device_get(state)
    after, metrics = step(state, put_batch(run.mesh, next(make_batches(run))))
    return before, jax.device_get(after), metrics


def changed(before, after):
    """The paths of the arrays that differ."""
    names = jax.tree_util.tree_leaves_with_path(before)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, old), new in zip(names, jax.tree.leaves(after), strict=True)
        if not np.array_equal(old, new)
    }


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_only_the_pyramid_is_trained(tmp_path, name, accumulate):
    before, after, _ = one_step(
        tmp_path,
        {"frozen_batch_norm": True},
        name=name,
        freeze=("backbone",),
        accumulate=accumulate,
        weight_decay=0.1,
    )
    moved = changed(before.params, after.params)
    assert all(path.startswith("head.") for path in moved)
    assert bool(moved) == (accumulate == 1)
    assert not changed(before.model_state, after.model_state)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(before.opt_state))
    assert sizes < 3 * sum(leaf.size for leaf in jax.tree.leaves(before.params["head"])) + 100


def test_a_pattern_freezes_what_its_path_begins_with(tmp_path):
    before, after, _ = one_step(tmp_path, freeze=(r"backbone\.(conv1|bn1|stages\.0)", "head.classifier"))
    moved = changed(before.params, after.params)
    assert any(path.startswith("backbone.stages.1") for path in moved)
    assert any(path.startswith("head.laterals") for path in moved)
    frozen = ("backbone.conv1", "backbone.bn1", "backbone.stages.0", "head.classifier")
    assert not any(path.startswith(frozen) for path in moved)
    assert changed(before.model_state, after.model_state)  # statistics are not parameters


def test_frozen_parameters_have_no_gradient(tmp_path):
    _, _, everything = one_step(tmp_path)
    _, _, head = one_step(tmp_path, freeze=("backbone",))
    assert 0 < head["gradient_norm"] < everything["gradient_norm"]


def test_frozen_batch_norm_keeps_its_statistics_and_parameters(tmp_path):
    before, after, _ = one_step(tmp_path, {"frozen_batch_norm": True})
    moved = changed(before.params, after.params)
    assert "backbone.conv1.kernel" in moved
    assert not any(path.endswith(".scale") for path in moved)
    assert not changed(before.model_state, after.model_state)


def test_frozen_batch_norm_trains_as_it_evaluates():
    model = tg.create_model("resnet_narrow", 5, k=9, frozen_batch_norm=True)
    images = jax.random.uniform(jax.random.key(0), (2, 24, 24, 3))
    np.testing.assert_array_equal(model(images, train=True).logits, model(images).logits)


@pytest.mark.parametrize("name", tg.list_models())
def test_every_network_is_ordered_from_stem_to_head(name):
    model = nnx.eval_shape(lambda: tg.create_model(name, 5, head="original"))
    _, params, _ = split_model(model)
    distances = {
        jax.tree_util.keystr(path, simple=True, separator="."): distance
        for path, distance in jax.tree_util.tree_leaves_with_path(head_distances(params))
    }
    blocks = sum(len(stage) for stage in model.backbone.stages)
    assert {distance for path, distance in distances.items() if path.startswith("head.")} == {0}
    inside = {path: distance for path, distance in distances.items() if ".stages." in path}
    assert min(inside.values()) == 1 and max(inside.values()) == blocks
    first = min(path for path in inside if path.startswith("backbone.stages.0.0."))
    assert inside[first] == blocks
    outside = {path: value for path, value in distances.items() if "." in path and path not in inside}
    assert {value for path, value in outside.items() if path.startswith("backbone.final_norm")} <= {1}
    assert blocks >= 3


def test_learning_rates_fall_towards_the_stem():
    ones = {
        "backbone": {
            "conv1": {"kernel": jnp.ones(1)},
            "stages": {0: {0: {"a": jnp.ones(1)}, 1: {"a": jnp.ones(1)}}, 1: {0: {"a": jnp.ones(1)}}},
            "final_norm": {"scale": jnp.ones(1)},
        },
        "head": {"kernel": jnp.ones(1)},
    }
    transform = scale_by_depth(0.5)
    scaled, _ = transform.update(ones, transform.init(ones), ones)
    assert scaled["head"]["kernel"] == 1
    assert scaled["backbone"]["final_norm"]["scale"] == 0.5
    assert scaled["backbone"]["stages"][1][0]["a"] == 0.5
    assert scaled["backbone"]["stages"][0][1]["a"] == 0.25
    assert scaled["backbone"]["stages"][0][0]["a"] == 0.125
    assert scaled["backbone"]["conv1"]["kernel"] == 0.0625


@pytest.mark.slow
def test_layer_decay_scales_the_step(tmp_path):
    plain = {"name": "sgd", "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    before, after, _ = one_step(tmp_path, **plain)
    _, decayed, _ = one_step(tmp_path, **plain, layer_decay=0.5)
    whole = jax.tree.map(lambda new, old: new - old, after.params, before.params)
    scaled = jax.tree.map(lambda new, old: new - old, decayed.params, before.params)
    np.testing.assert_allclose(
        scaled["backbone"]["conv1"]["kernel"], whole["backbone"]["conv1"]["kernel"] / 16, atol=1e-6
    )
    np.testing.assert_array_equal(
        scaled["head"]["classifier"]["kernel"], whole["head"]["classifier"]["kernel"]
    )


def test_no_pattern_freezes_nothing():
    params = {"backbone": {"kernel": jnp.ones(2)}, "head": {"bias": jnp.ones(1)}}
    assert not any(jax.tree.leaves(frozen_mask(params, ())))
    assert optax.tree.sum(jax.tree.map(int, frozen_mask(params, ("head",)))) == 1


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"freeze": ("backbon$",)}, r"'backbon\$' matches no parameter; paths look like backbone\.bn1"),
        ({"freeze": ("head(",)}, r"'head\(' is not a regular expression"),
        ({"freeze": ("backbone", "head")}, "freezes every parameter"),
        ({"layer_decay": 0.0}, r"layer_decay=0.0 is outside \(0, 1\]"),
        ({"layer_decay": 1.1}, r"layer_decay=1.1 is outside \(0, 1\]"),
    ],
)
def test_bad_settings(tmp_path, optimizer, message):
    config = SMALL | {"model": {"name": "resnet_narrow", "k": 12}, "optimizer": optimizer}
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
