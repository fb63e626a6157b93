"""k-winners-take-all and FLC pooling in the backbones: where they stand, and that such networks work."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

import topgap_jax as tg
from topgap_jax.models.weights import METADATA
from topgap_jax.nn.kwta import KWTA

CAPABLE = [
    name
    for name in tg.list_models()
    if re.match(r"(cifar_|preact_)?resnet|wide_resnet", name) and not re.search("34|101|152", name)
]
BOTH = {"activation": "kwta:0.2", "downsampling": "flc"}
EVERY_CAPABLE = pytest.mark.parametrize("name", CAPABLE)


def shapes_only(name, **settings):
    return nnx.eval_shape(lambda: tg.create_model(name, 7, k=3, **settings))


def program(name, **settings):
    """The backbone's computation for images of 64x48, as text."""
    graphdef, state = nnx.split(shapes_only(name, **settings))
    images = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.dtype(settings.get("dtype", "float32")))
    forward = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state).backbone(x))
    return str(forward(state, images))


@EVERY_CAPABLE
def test_parameters_and_maps_keep_their_names_and_shapes(name):
    images = jax.ShapeDtypeStruct((2, 61, 46, 3), jnp.float32)
    plain, ours = (nnx.split(shapes_only(name, **settings)) for settings in ({}, BOTH))
    assert jax.tree.structure(plain[1]) == jax.tree.structure(ours[1])
    assert [leaf.shape for leaf in jax.tree.leaves(plain[1])] == [
        leaf.shape for leaf in jax.tree.leaves(ours[1])
    ]
    maps = [
        jax.eval_shape(
            lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state)(x).features, state, images
        )
        for graphdef, state in (plain, ours)
    ]
    assert maps[0] == maps[1]


@EVERY_CAPABLE
def test_winners_replace_relu_in_every_block_and_nowhere_else(name):
    blocks = sum(len(stage) for stage in shapes_only(name).backbone.stages)
    per_block = 3 if name.endswith("50") else 2
    winners, relu = r"jit\[\s*name=among_largest", r"custom_jvp_call\[\s*name=relu"
    plain, ours = program(name), program(name, activation="kwta:0.1")
    assert len(re.findall(relu, plain)) == per_block * blocks + 1
    assert len(re.findall(relu, ours)) == 1  # the stem's, or the one after the last block
    assert len(re.findall(winners, ours)) == per_block * blocks


@EVERY_CAPABLE
def test_with_flc_pooling_nothing_is_strided(name):
    strides = re.findall(r"window_strides=\((\d+), (\d+)\)", program(name))
    assert ("2", "2") in strides
    ours = program(name, downsampling="flc")
    assert set(re.findall(r"window_strides=\((\d+), (\d+)\)", ours)) == {("1", "1")}
    assert "reduce_window" not in ours and "dot_general" in ours


@pytest.mark.parametrize("name", ["vgg11_bn", "convnext_tiny", "efficientnet_b0", "ra_wide_resnet70_16"])
@pytest.mark.parametrize("settings", [{"activation": "kwta:0.1"}, {"downsampling": "flc"}])
def test_networks_that_cannot_be_built_with_them(name, settings):
    ((label, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"^{name} cannot be .*{label}='{value}'.*these can: .*resnet18"):
        tg.create_model(name, 5, **settings)


@pytest.mark.parametrize("activation", ["kwta", "kwta:0", "kwta:1.5", "kwta:ten", "kwta:nan", "gelu", ""])
def test_activations_that_do_not_exist(activation):
    with pytest.raises(
        ValueError, match=f"unknown activation '{activation}'; there are: relu, and kwta:SHARE"
    ):
        tg.create_model("preact_resnet_narrow", 5, activation=activation)


def test_downsamplings_that_do_not_exist():
    with pytest.raises(ValueError, match="unknown downsampling 'blur'; there are: strided, flc"):
        tg.create_model("preact_resnet_narrow", 5, downsampling="blur")


@pytest.mark.slow
def test_saved_and_loaded(tmp_path):
    model = tg.create_model("preact_resnet_narrow", 5, head="original", in_channels=1, **BOTH)
    tg.save_model(model, tmp_path / "model.safetensors")
    again = tg.load_model(tmp_path / "model.safetensors")
    assert again.settings == model.settings
    assert again.backbone.stages[0][0].activation == KWTA(0.2)
    images = jax.random.uniform(jax.random.key(0), (2, 12, 12, 1))
    np.testing.assert_array_equal(model(images).logits, again(images).logits)


def test_a_file_from_before_these_settings(tmp_path):
    path, settings = tmp_path / "model.safetensors", {}
    model = tg.create_model("preact_resnet_narrow", 5, head="original", in_channels=1)
    tg.save_model(model, path)
    settings = dict(model.settings) | {"k": 256}
    del settings["activation"], settings["downsampling"]
    save_file(load_file(path), path, metadata={METADATA: json.dumps(settings)})
    assert tg.load_model(path).settings == model.settings


def test_weights_of_the_usual_network_can_be_loaded(tmp_path):
    usual = tg.create_model("preact_resnet_narrow", 5, head="original", seed=3)
    tg.save_model(usual, tmp_path / "usual.safetensors")
    ours = tg.create_model(
        "preact_resnet_narrow", 5, head="original", pretrained=tmp_path / "usual.safetensors", **BOTH
    )
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours, nnx.Param), nnx.state(usual, nnx.Param))
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    assert not np.allclose(ours(images).logits, usual(images).logits)


def test_convolutions_are_in_bfloat16_and_pooling_in_float32():
    ours = program("preact_resnet_narrow", dtype="bfloat16", **BOTH)
    results = re.findall(r"(\w+)\[[\d,]*\] = (conv_general_dilated|dot_general)\b", ours)
    assert set(results) == {("bf16", "conv_general_dilated"), ("f32", "dot_general")}


def test_the_narrow_network():
    model = shapes_only("preact_resnet_narrow", head="original", in_channels=1)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 77_367
    assert shapes_only("preact_resnet_narrow", in_channels=1).cam_shape((28, 28, 1)) == (1, 14, 14, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"activation": "kwta:0.1"}, {"downsampling": "flc"}, BOTH],
    ids=["usual", "kwta", "flc", "both"],
)
def test_learns_digits(settings):
    pixels, labels = load_digits(return_X_y=True)
    images = np.kron(pixels.reshape(-1, 8, 8, 1) / 16, np.ones((1, 2, 2, 1))).astype(np.float32)
    model = tg.create_model(
        "preact_resnet_narrow", 10, head="original", in_channels=1, mean=(0.3,), std=(0.4,), **settings
    )
    graphdef, params, rest = (
        nnx.to_pure_dict(part) if i else part for i, part in enumerate(nnx.split(model, nnx.Param, ...))
    )
    optimizer = optax.adam(3e-3)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, rest, opt_state, images, labels):
        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            logits = model(images, train=True).logits
            rest_after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest_after

        gradients, rest_after = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), rest_after, opt_state

    for epoch in range(4):
        order = np.random.default_rng(epoch).permutation(1400).reshape(-1, 70)
        for chosen in order:
            params, rest, opt_state = step(params, rest, opt_state, images[chosen], labels[chosen])
    trained = nnx.merge(graphdef, params, rest)
    logits = jax.jit(lambda x: trained(x).logits)(images[1400:])
    assert (logits.argmax(-1) == labels[1400:]).mean() > 0.85
