"""The training step, compiled for TPU v5e without a TPU: needs libtpu, `make tpu-check`."""

import importlib.util
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from topgap_jax.nn.pooling import topk_mean
from topgap_jax.training.ahead_of_time import abstract_model, compile_train_step, memory, tpu_devices
from topgap_jax.training.config import resolve
from topgap_jax.training.hlo import collectives, executed
from topgap_jax.training.mesh import batch_sharding, make_mesh, replicated

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="libtpu is not installed: see docs/tpu.md")

SIZE, CLASSES = 32, 10


def small(**mesh):
    return resolve(
        {
            "model": {"name": "resnet_narrow", "k": 12, "dtype": "bfloat16"},
            "train": {"batch_size": 64},
            "mesh": mesh,
        }
    )


def compiled(config, topology="2x4", size=SIZE):
    devices = tpu_devices(f"v5e:{topology}")
    return compile_train_step(config, devices, num_classes=CLASSES, image_shape=(size, size, 3))


def largest_parameter(config):
    return max(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: abstract_model(config, CLASSES))))


def largest_array(found):
    return max(math.prod(tensor.shape) for collective in found for tensor in collective.results)


@pytest.mark.skipif(HAS_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_it_says_what_is_missing():
    with pytest.raises(ImportError, match="pip install libtpu"):
        tpu_devices("v5e:4x4")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("topology", "chips"), [("2x4", 8), ("4x4", 16), ("16x16", 256)])
def test_slices_can_be_described(topology, chips):
    devices = tpu_devices(f"v5e:{topology}")
    assert len(devices) == chips
    mesh = make_mesh(fsdp=4, devices=devices)
    assert mesh.shape == {"data": chips // 4, "fsdp": 4}
    hosts = [device.process_index for device in mesh.devices.flat]
    assert hosts == sorted(hosts)  # or a host's part of the batch would lie on others


@pytest.mark.slow
@needs_compiler
def test_data_parallel_chips_only_reduce():
    config = small()
    program = compiled(config)
    found = collectives(program.as_text())
    assert {each.kind for each in found} == {"all-reduce"}
    assert {each.devices for each in found} == {8}
    assert largest_array(found) <= largest_parameter(config)
    assert memory(program)["total"] < 16e9


@pytest.mark.slow
@needs_compiler
def test_sharded_parameters_are_gathered_and_the_cam_is_not():
    config = small(data=4, fsdp=2)
    program = compiled(config)
    found = collectives(program.as_text())
    assert "all-gather" in {each.kind for each in found}
    assert largest_array(found) <= largest_parameter(config)


@pytest.mark.slow
@needs_compiler
def test_remat_takes_less_memory():
    model = {"name": "resnet34", "head": "original", "pool": "mean", "dtype": "bfloat16"}
    configs = (
        resolve({"model": model | {"remat": remat}, "train": {"batch_size": 1024}}) for remat in (False, True)
    )
    kept, computed_again = (memory(compiled(config, size=224))["temporary"] for config in configs)
    assert computed_again < 0.8 * kept


@pytest.mark.slow
@needs_compiler
def test_pooling_asks_no_other_chip():
    mesh = make_mesh(devices=tpu_devices("v5e:4x4"))
    cam = jax.ShapeDtypeStruct((128, 16, 16, 20), jnp.bfloat16, sharding=batch_sharding(mesh))
    k = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    program = jax.jit(partial(topk_mean), out_shardings=batch_sharding(mesh)).lower(cam, k).compile()
    assert not collectives(program.as_text())
    loops = {each.times for each in executed(program.as_text())}
    assert loops == {1, 8}  # two of 16 bits at a time
    assert memory(program)["temporary"] < cam.size * 2 / 16  # nothing of the size of the CAM is written


@pytest.mark.slow
@needs_compiler
def test_a_gathering_would_be_found():
    mesh = make_mesh(devices=tpu_devices("v5e:2x4"))
    cam = jax.ShapeDtypeStruct((64, 8, 8, 10), jnp.bfloat16, sharding=batch_sharding(mesh))
    everything = jax.jit(lambda cam: cam * 2, out_shardings=replicated(mesh)).lower(cam).compile()
    assert "all-gather" in {each.kind for each in collectives(everything.as_text())}
