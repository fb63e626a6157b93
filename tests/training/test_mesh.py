import pytest

from topgap_jax.training.mesh import make_mesh


class Chip:
    """What `make_mesh` asks of a device."""

    def __init__(self, id: int, process_index: int):
        self.id, self.process_index = id, process_index


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_the_parts_of_a_batch_lie_in_the_order_of_the_processes(fsdp):
    """A TPU slice lists its chips by their place, whichever host they belong to."""
    chips = [Chip(index, host) for index, host in enumerate([0, 0, 1, 1, 0, 0, 1, 1])]
    mesh = make_mesh(fsdp=fsdp, devices=chips)
    assert mesh.devices.shape == (8 // fsdp, fsdp)
    assert [chip.process_index for chip in mesh.devices.flat] == [0, 0, 0, 0, 1, 1, 1, 1]
