import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import topgap_jax as tg
from topgap_jax.analysis.gradcam import grad_cam
from topgap_jax.nn.pooling import topk_mean_reference


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (2, 32, 48, 3))


@pytest.mark.parametrize("name", tg.list_models())
def test_every_backbone_returns_the_maps_that_it_declares(name):
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    model = nnx.eval_shape(lambda: tg.create_model(name, 7, k=3))
    graphdef, state = nnx.split(model)
    out = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, images)
    assert out.logits.shape == (2, 7) and out.logits.dtype == jnp.float32
    assert out.cam.shape == (*out.features[0].shape[:3], 7)
    for info, features in zip(model.backbone.feature_info, out.features, strict=True):
        assert features.shape == (2, 64 // info.stride, 96 // info.stride, info.channels)


def test_logits_are_the_pooled_cam(images):
    for head in ("pyramid", "last"):
        out = tg.create_model("resnet_narrow", 5, head=head, pool="topk", k=7)(images)
        np.testing.assert_allclose(out.logits, topk_mean_reference(out.cam, 7), atol=1e-5)
        out = tg.create_model("resnet_narrow", 5, head=head, pool="mean")(images)
        np.testing.assert_allclose(out.logits, out.cam.mean((1, 2)), atol=1e-5)


def test_original_head_is_gap_and_a_linear_layer(images):
    model = tg.create_model("resnet_narrow", 5, head="original")
    model.head.classifier.bias[...] = jnp.arange(5.0)
    out = model(images)
    np.testing.assert_allclose(
        out.logits,
        out.features[-1].mean((1, 2)) @ model.head.classifier.kernel[...] + jnp.arange(5.0),
        atol=1e-5,
    )
    np.testing.assert_allclose(out.logits, out.cam.mean((1, 2)) + jnp.arange(5.0), atol=1e-5)


def test_the_positive_cam_of_the_original_head_is_grad_cam(images):
    model = tg.create_model("resnet_narrow", 5, head="original")
    out, labels = model(images), jnp.array([1, 4])
    maps = grad_cam(lambda features: model.head(features)[0], out.features[-1], labels)
    positions = out.cam.shape[1] * out.cam.shape[2]
    ours = jax.nn.relu(jnp.take_along_axis(out.cam, labels[:, None, None, None], -1)[..., 0])
    np.testing.assert_allclose(ours, maps * positions, atol=1e-5)


def test_another_k_compiles_nothing(images):
    graphdef, state = nnx.split(tg.create_model("resnet_narrow", 5, k=7))
    forward = jax.jit(chex.assert_max_traces(lambda state, x: nnx.merge(graphdef, state)(x), n=1))
    for k in (1, 7, 50):
        state["k"].set_value(jnp.int32(k))
        out = forward(state, images)
        np.testing.assert_allclose(out.logits, topk_mean_reference(out.cam, k), atol=1e-5)


def test_same_seed_same_parameters():
    ours, again, other = (nnx.state(tg.create_model("resnet_narrow", 5, seed=seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, ours, again)
    assert not np.array_equal(
        ours["head"]["classifier"]["kernel"][...], other["head"]["classifier"]["kernel"][...]
    )


def test_normalisation_happens_inside(images):
    plain = tg.create_model("resnet_narrow", 5, mean=(0, 0, 0), std=(1, 1, 1), k=9)
    default = tg.create_model("resnet_narrow", 5, k=9)
    scaled = (images - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(default(images).logits, plain(scaled).logits, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    model = tg.create_model("resnet_narrow", 5, in_channels=channels, k=9)
    assert model(jnp.zeros((1, 24, 24, channels))).logits.shape == (1, 5)


def test_bfloat16_is_close_to_float32(images):
    half = tg.create_model("resnet_narrow", 5, dtype="bfloat16", k=9)
    full = tg.create_model("resnet_narrow", 5, k=9)
    assert half(images).cam.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))
    scale = jnp.abs(full(images).logits).max()
    np.testing.assert_allclose(half(images).logits / scale, full(images).logits / scale, atol=0.05)


def test_training_updates_the_statistics_and_evaluation_does_not(images):
    model = tg.create_model("preact_resnet18", 5, k=9)
    before = np.array(model.backbone.final_norm.mean[...])
    model(images)
    np.testing.assert_array_equal(model.backbone.final_norm.mean[...], before)
    model(images, train=True)
    assert not np.array_equal(model.backbone.final_norm.mean[...], before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet19"}, r"unknown model 'resnet19'; there are: .*resnet18"),
        ({"head": "fpn"}, "unknown head 'fpn'; there are: pyramid, last, original"),
        ({"pool": "max"}, "unknown pool 'max'; there are: topk, mean"),
        ({"dtype": "float16"}, "unknown dtype 'float16'; there are: float32, bfloat16, float64"),
        ({"head": "original", "pool": "topk"}, 'pools by "mean", not by "topk"'),
        ({"dtype": "float64"}, "needs jax.config.update"),
        ({"num_classes": 1}, "num_classes=1 is too small: at least 2"),
        ({"k": 0}, "k=0 is too small: at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 is outside \[0, 1\)"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\) has 1 values for 3 image channels"),
        ({"drop_path": 1.5}, r"drop_path=1.5 is outside \[0, 1\)"),
        ({"block_dropout": 0.1}, "block_dropout=0.1: resnet_narrow was published without it"),
        ({"pretrained": "imagenet"}, "'imagenet' is neither a file of weights .* nor hf:OWNER/NAME"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        tg.create_model(**{"name": "resnet_narrow", "num_classes": 5} | settings)


def test_bad_images():
    model = tg.create_model("resnet_narrow", 5, k=9)
    with pytest.raises(ValueError, match=r"float in .*not uint8: divide"):
        model(jnp.zeros((1, 24, 24, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"shape \[B, H, W, 3\], not \[24, 24, 3\]"):
        model(jnp.zeros((24, 24, 3)))
    with pytest.raises(ValueError, match="k=9 does not fit the CAM of 1x2 positions"):
        model(jnp.zeros((1, 4, 8, 3)))
