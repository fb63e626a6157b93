"""The training step, compiled for TPUs that are not there.

`libtpu` (a Python package) contains the TPU's compiler. It describes a slice of chips and compiles for it on
any machine; only to run the program a TPU is needed.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

from topgap_jax.models import Classifier, create_model
from topgap_jax.training.mesh import batch_sharding, make_mesh
from topgap_jax.training.state import TrainState, create_state, make_optimizer, split_model
from topgap_jax.training.step import make_train_step

# Without them libtpu asks Google's cloud which machine this is, many times, before it gives up.
NOT_ON_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
STEPS = 1000  # of the learning rate's schedule; the program has the same size for any number


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """The chips of a TPU slice such as "v5e:4x4", described without having them.

    Raises:
      ImportError: `libtpu` is not installed.
    """
    for name, value in NOT_ON_A_TPU.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError("compiling for TPUs needs the package libtpu: pip install libtpu") from error
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def abstract_model(config: Any, num_classes: int, channels: int = 3) -> Classifier:
    """The model of a configuration, with shapes instead of arrays."""
    make = partial(create_model, num_classes=num_classes, in_channels=channels, seed=config.seed)
    return nnx.eval_shape(lambda: make(**config.model))


def compile_train_step(
    config: Any, devices: Sequence[jax.Device], *, num_classes: int, image_shape: tuple[int, int, int]
) -> jax.stages.Compiled:
    """The step that `loop.train` runs, compiled for `devices`, which need not exist.

    Args:
      config: a resolved configuration. `train.batch_size` counts the images on all devices.
      devices: see `tpu_devices`.
      num_classes, image_shape: of the training pictures, which travel as bytes `[B, H, W, C]`.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    graphdef, params, model_state = split_model(abstract_model(config, num_classes, image_shape[-1]))
    optimizer = make_optimizer(config.optimizer, STEPS)
    state: TrainState = jax.eval_shape(
        partial(create_state, optimizer=optimizer, ema=config.optimizer.ema_decay > 0), params, model_state
    )
    size = config.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, *image_shape), jnp.uint8, sharding=batch_sharding(mesh)),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=batch_sharding(mesh)),
    }
    step: Any = make_train_step(graphdef, optimizer, config, mesh, state)
    return step.lower(state, batch).compile()


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on one device: arguments, results, temporary arrays, the program, and their total.

    Results that lie in the buffers of arguments ("aliased") count once.
    """
    analysis: Any = compiled.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
    return parts | {"total": sum(parts.values())}
