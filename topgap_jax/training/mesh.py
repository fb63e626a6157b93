"""Devices and shardings: the one place that says what lies where."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SHARD_FROM = 2**14  # parameters with fewer elements are replicated under `fsdp`


def make_mesh(data: int = -1, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, or those given, as a mesh with the axes "data" and "fsdp".

    The batch's p-th part lies on the devices of process p; `jax.make_mesh` mixes the hosts of a TPU slice.

    Raises:
      ValueError: `data * fsdp` is not the number of devices, or one of them is below 1.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or (data < 1 and data != -1):
        raise ValueError(f"mesh data={data} x fsdp={fsdp}: at least 1 each, or data=-1 for all devices")
    if data == -1:
        data = max(len(devices) // fsdp, 1)
    if data * fsdp != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} needs {data * fsdp} devices; there are {len(devices)}"
        )
    by_process = sorted(devices, key=lambda device: (device.process_index, device.id))
    auto = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.reshape(by_process, (data, fsdp)), ("data", "fsdp"), axis_types=auto)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """One sharding per leaf: large arrays are split over "fsdp" along their largest axis that divides."""

    def one(leaf: Any) -> NamedSharding:
        size = mesh.shape["fsdp"]
        divisible = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
        if size == 1 or leaf.size < SHARD_FROM or not divisible:
            return replicated(mesh)
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(one, state)


def check_batch_size(mesh: Mesh, field: str, batch_size: int) -> None:
    """Raises a ValueError that names `field` if the batch cannot be split over devices and processes."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        lower, upper = batch_size // devices * devices, (batch_size // devices + 1) * devices
        raise ValueError(
            f"{field}={batch_size} cannot be split over {devices} devices: "
            f"choose a multiple, such as {lower or upper} or {upper}"
        )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's part of a batch becomes a global array."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
