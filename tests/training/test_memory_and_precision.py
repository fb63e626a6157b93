"""What lets a network that is too large for a device train on it: bfloat16, accumulation, remat, fsdp."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.models import create_model
from topgap_jax.training.config import resolve
from topgap_jax.training.mesh import make_mesh
from topgap_jax.training.state import create_state, make_optimizer, split_model
from topgap_jax.training.step import make_train_step
from training.processes import ROOT

rng = np.random.default_rng(0)
BATCH = {"image": rng.random((8, 24, 24, 3), np.float32), "label": np.arange(8, dtype=np.int32) % 3}


def program(batches=10, optimizer=(), **model):
    """A state and the compiled step of a small network."""
    rates = {"learning_rate": 0.05, "schedule": "constant", "warmup_fraction": 0.0}
    config = resolve({"loss": {"l1": 0.5}, "optimizer": rates | dict(optimizer)})
    network = create_model("resnet_narrow", num_classes=3, k=6, pyramid_channels=16, **model)
    graphdef, params, model_state = split_model(network)
    transformation = make_optimizer(config.optimizer, batches)
    state = create_state(*jax.tree.map(jnp.copy, (params, model_state)), transformation, ema=True)
    return state, make_train_step(graphdef, transformation, config, make_mesh(), state)


def equations(jaxpr):
    """Those of a program, and of the programs within."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.slow
def test_bfloat16_computes_and_float32_remembers():
    (half, step), (full, reference) = program(dtype="bfloat16"), program()
    traced = str(jax.make_jaxpr(step)(half, BATCH))
    convolutions = re.findall(r"(\w+)\[[\d,]*\] = conv_general_dilated\b", traced)
    assert len(convolutions) > 30  # forwards and backwards
    assert set(convolutions) == {"bf16"}
    half, figures = step(half, BATCH)
    full, expected = reference(full, BATCH)
    floats = [leaf for leaf in jax.tree.leaves(half) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > 100 and {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
    assert float(figures["loss"]) == pytest.approx(float(expected["loss"]), rel=0.02)
    assert float(figures["loss"]) != float(expected["loss"])
    for ours, theirs in zip(*map(jax.tree.leaves, (half.model_state, full.model_state)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_accumulated_batches_give_the_update_of_the_large_one_where_batch_norm_does_not_see_them(frozen):
    """Else BatchNorm normalises each small batch by itself, and its statistics move once for each."""
    large, step = program(frozen_batch_norm=frozen)
    large, expected = step(large, BATCH)
    small, step = program(frozen_batch_norm=frozen, optimizer={"accumulate": 2, "clip_norm": 0.0})
    before, losses = jax.device_get(small.params), []
    for part in (slice(0, 4), slice(4, 8)):
        jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(small.params))
        small, figures = step(small, {name: value[part] for name, value in BATCH.items()})
        losses.append(float(figures["loss"]))
    moved, wanted = (
        np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)])
        for pair in ((small.params, before), (large.params, before))
    )
    error = np.linalg.norm(moved - wanted) / np.linalg.norm(wanted)
    assert (error < 1e-4) == frozen, error
    assert (abs(np.mean(losses) - float(expected["loss"])) < 1e-5) == frozen


def kept_for_the_backward_pass(**model):
    """Bytes of what the gradient's program keeps of the forward pass, inputs and parameters included."""
    network = create_model("resnet_narrow", num_classes=3, k=6, pyramid_channels=16, **model)
    graphdef, params, model_state = split_model(network)

    def logits(params, images):
        return nnx.merge(graphdef, params, model_state)(images, train=True).logits

    images = jax.ShapeDtypeStruct((8, 96, 96, 3), jnp.float32)
    backward = jax.eval_shape(lambda *x: jax.vjp(logits, *x)[1], params, images)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.slow
def test_remat_keeps_less_for_the_same_step():
    """The compiler for the CPU undoes it; for a TPU's memory see test_ahead_of_time."""
    assert kept_for_the_backward_pass(remat=True) < 0.5 * kept_for_the_backward_pass()
    (state, step), (again, rematerialised) = program(), program(remat=True)
    (state, figures), (again, same) = step(state, BATCH), rematerialised(again, BATCH)
    assert float(figures["gradient_norm"]) == pytest.approx(float(same["gradient_norm"]), rel=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (again.params, state.params)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


ON_EIGHT_DEVICES = """
import json, sys
import jax
from topgap_jax.training.config import resolve
from topgap_jax.training.loop import make_batches, make_programs, prepare
from topgap_jax.training.mesh import put_batch

config, results = json.loads(sys.argv[1]), {}
for fsdp in (1, 4):
    run = prepare(resolve(config | {"mesh": {"data": -1, "fsdp": fsdp}}), "unused")
    state, step, _ = make_programs(run)
    losses = []
    for _, batch in zip(range(3), make_batches(run)):
        state, figures = step(state, put_batch(run.mesh, batch))
        losses.append(float(figures["loss"]))
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    shares = {name: leaf.addressable_shards[0].data.size / leaf.size for name, leaf in leaves}
    large = [name for name, leaf in leaves if leaf.size >= 2**14]
    results[fsdp] = {"losses": losses, "shares": shares, "large": large}
print(json.dumps(results))
"""


@pytest.mark.slow
def test_fsdp_splits_parameters_and_optimizer_and_computes_the_same():
    config = {
        "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16},
        "data": {"options": {"num_images": 96, "size": 24, "object_size": 14}},
        "optimizer": {"ema_decay": 0.9},
        "train": {"batch_size": 16},
    }
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES, json.dumps(config)],
        env=os.environ | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        check=True,
    ).stdout
    whole, split = json.loads(output).values()
    assert set(whole["shares"].values()) == {1.0}
    large = set(split["large"])
    assert {part for part in ("params", "opt_state", "ema") if any(f".{part}" in n for n in large)} == {
        "params",
        "opt_state",
        "ema",
    }
    assert {split["shares"][name] for name in large} == {0.25}
    np.testing.assert_allclose(split["losses"], whole["losses"], rtol=1e-4)
