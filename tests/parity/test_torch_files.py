"""The reader of .pth files against torch.load, on files that torch writes: keys, dtypes, shapes and bits."""

import numpy as np
import pytest

from topgap_jax.models.torch_files import TorchFileError, read_torch_file

torch = pytest.importorskip("torch")

FORMATS = {"zip": True, "legacy": False}
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    def write(checkpoint, **options):
        path = tmp_path / "weights.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=FORMATS[request.param], **options)
        return path

    return write


def same_bits(path, unwrap=lambda checkpoint: checkpoint, rename=lambda name: name):
    """What we read is what torch.load reads (bfloat16 widened, which is exact)."""
    ours, theirs = read_torch_file(path), unwrap(torch.load(path, weights_only=True))
    assert list(ours) == [rename(name) for name in theirs]
    for array, tensor in zip(ours.values(), theirs.values(), strict=True):
        tensor = tensor.detach()
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert array.dtype == expected.dtype and array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()
    return ours


def values(dtype):
    """[5, 7], over the whole range of an integer type; infinities and NaN among the floats."""
    generator = torch.Generator().manual_seed(0)
    if dtype in INTEGERS:
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max, (5, 7), generator=generator, dtype=dtype)
    numbers = torch.randn(5, 7, generator=generator, dtype=torch.complex128)
    numbers = numbers if dtype.is_complex else numbers.real * 1e3
    numbers[0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    return numbers.to(dtype)


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Linear(8, 5)
    )


def test_every_dtype(save):
    dtypes = {str(dtype): values(dtype) for dtype in (*NUMBERS, *INTEGERS)}
    same_bits(save(dtypes | {"torch.bool": values(torch.float32) > 0}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
def test_views(save, dtype):
    whole = values(dtype)
    ours = same_bits(
        save(
            {
                "whole": whole,
                "transposed": whole.T,
                "slice": whole[1:4, ::2],
                "permuted": whole[:, :6].reshape(5, 2, 3).permute(2, 0, 1),
                "shared": whole[2],
                "scalar": whole[3, 3],
                "empty": whole[:0],
                "no axes but one": torch.zeros(0, dtype=dtype),
                "channels last": torch.ones(2, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last),
                "diagonal": whole.diagonal(),
            }
        )
    )
    assert np.shares_memory(ours["whole"], ours["shared"])


def test_state_dict_of_a_module(save):
    network = small_network()
    assert len(same_bits(save(network.state_dict()))) == 9
    assert len(same_bits(save(network.state_dict(keep_vars=True)))) == 9  # Parameters
    same_bits(save({"state_dict": network.half().state_dict()}), lambda checkpoint: checkpoint["state_dict"])


def test_parameters_with_attributes(save):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.note = {"tag": 1}
    same_bits(save({"p": parameter, "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False)}))


def test_training_checkpoint_of_data_parallel(save):
    network = torch.nn.DataParallel(small_network())
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3, 4, 10)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    path = save(
        {
            "epoch": 7,
            "arch": "small",
            "net": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "best_acc1": torch.tensor(76.1),
            "shapes": [network.module[0].weight.shape, None, {"nested": (1, 2.5, "text")}],
        }
    )
    same_bits(path, lambda checkpoint: checkpoint["net"], lambda name: name.removeprefix("module."))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(save, protocol):
    network = small_network()
    path = save(network.state_dict(), pickle_protocol=protocol)
    ours = read_torch_file(path)
    for name, tensor in network.state_dict().items():
        assert ours[name].tobytes() == tensor.numpy().tobytes()


def test_a_storage_that_is_larger_than_its_tensor(save):
    same_bits(save({"row": torch.arange(1000.0).reshape(10, 100)[3]}))


def test_expanded_tensors_are_refused(save):
    with pytest.raises(TorchFileError, match="'w' is an expanded tensor"):
        read_torch_file(save({"w": torch.ones(1).expand(1000, 1000)}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (small_network, "torch.nn.modules.container.Sequential"),
        (lambda: {"w": torch.eye(3).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
        (
            lambda: {"w": torch.zeros(3, dtype=torch.uint16)},
            "torch.storage.UntypedStorage|_rebuild_tensor_v3",
        ),
        (lambda: {"w": torch.zeros(3, dtype=torch.complex64).conj()}, "conjugate"),
        (lambda: {"w": torch.ones(2), "device": torch.device("cpu")}, "torch.device"),
        (lambda: {"w": np.ones(2)}, "numpy"),
    ],
)
def test_what_is_no_plain_tensor_is_refused(save, make, message):
    with pytest.raises(TorchFileError, match=message):
        read_torch_file(save(make()))


def test_torchscript_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(TorchFileError, match="TorchScript"):
        read_torch_file(tmp_path / "net.pt")
