"""What the compiled steps compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.losses import top_gap_loss
from topgap_jax.models import create_model
from topgap_jax.training.config import resolve
from topgap_jax.training.mesh import make_mesh
from topgap_jax.training.mixing import MIXING, mix
from topgap_jax.training.state import create_state, make_optimizer, split_model
from topgap_jax.training.step import make_eval_step, make_train_step

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1], np.int32)
FLOATS = IMAGES.astype(np.float32) / np.float32(255)


def one_step(model, images, loss=None, **data):
    config = resolve({"seed": 3, "data": data, "loss": loss or {"l1": 0.5, "label_smoothing": 0.1}})
    graphdef, params, model_state = split_model(model)
    optimizer = make_optimizer(config.optimizer, 10)
    state = create_state(*jax.tree.map(jnp.copy, (params, model_state)), optimizer, ema=False)
    step = make_train_step(graphdef, optimizer, config, make_mesh(), state)
    return step(state, {"image": images, "label": LABELS})


@pytest.fixture(scope="module")
def model():
    return create_model("resnet_narrow", num_classes=3, k=6, pyramid_channels=16)


def test_bytes_train_and_evaluate_to_the_bit_like_the_floats_of_the_host(model):
    (state, metrics), (other, same) = one_step(model, IMAGES), one_step(model, FLOATS)
    jax.tree.map(np.testing.assert_array_equal, (state, metrics), (other, same))
    graphdef, params, model_state = split_model(model)
    step = make_eval_step(graphdef, make_mesh())
    ours, others = (step(params, model_state, {"image": i, "label": LABELS}) for i in (IMAGES, FLOATS))
    jax.tree.map(np.testing.assert_array_equal, ours, others)


def test_the_step_mixes_pictures_and_losses(model):
    """Against the parts, put together by hand."""
    state, metrics = one_step(model, IMAGES, mixup=0.4)
    assert int(state.step) == 1
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), MIXING)
    images, others, share = mix(key, FLOATS, LABELS, mixup=0.4)
    graphdef, variables = nnx.split(model)
    out = jax.jit(lambda variables: nnx.merge(graphdef, variables)(images, train=True))(variables)
    first, second = (
        top_gap_loss(out.logits, out.cam, y, l1=0.5, label_smoothing=0.1) for y in (LABELS, others)
    )
    entropy = share * first["cross_entropy"] + (1 - share) * second["cross_entropy"]
    assert float(metrics["cross_entropy"]) == pytest.approx(float(entropy.mean()), rel=1e-4)
    assert float(metrics["l1"]) == pytest.approx(float(first["l1"].mean()), rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(float((entropy + 0.5 * first["l1"]).mean()), rel=1e-4)
    dominant = LABELS if share >= 0.5 else others
    assert float(metrics["accuracy"]) == float((out.logits.argmax(-1) == dominant).mean())


@pytest.mark.slow
def test_the_step_penalises_what_the_configuration_names(model):
    """The activations of all maps and the logits, in training; the same l1 in evaluation."""
    loss = {"l1": 1e-3, "l1_of": "all", "logit_squeezing": 0.2}
    _, metrics = one_step(model, FLOATS, loss=loss)
    graphdef, variables = nnx.split(model)
    out = jax.jit(lambda variables: nnx.merge(graphdef, variables)(FLOATS, train=True))(variables)
    l1 = sum(np.abs(x).sum((1, 2, 3)) for x in out.features).mean()
    squared = np.square(out.logits).sum(1).mean()
    assert float(metrics["l1"]) == pytest.approx(l1, rel=1e-4)
    assert float(metrics["logit_squeezing"]) == pytest.approx(squared, rel=1e-4)
    total = float(metrics["cross_entropy"]) + 1e-3 * l1 + 0.2 * squared
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-4)

    _, params, model_state = split_model(model)
    result = make_eval_step(graphdef, make_mesh(), l1_of="all")(
        params, model_state, {"image": IMAGES, "label": LABELS}
    )
    out = jax.jit(lambda variables: nnx.merge(graphdef, variables)(FLOATS))(variables)
    np.testing.assert_allclose(result["l1"], sum(np.abs(x).sum((1, 2, 3)) for x in out.features), rtol=1e-4)
