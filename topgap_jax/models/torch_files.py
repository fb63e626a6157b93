"""PyTorch's checkpoint files (`.pth`, `.pt`, `.bin`) without PyTorch and without running what they hold.

A pickle is a program: `pickle.load` lets it call any function that can be imported. `_unpickle` interprets
the opcodes that `torch.save` writes and can call nothing but the table `_GLOBALS`, so a file can describe
tensors and plain containers only. Weights are then read for the chosen state dict alone, each storage once.
"""

import io
import math
import mmap
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # where training scripts put the state dict

_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_BFLOAT16 = np.dtype(jnp.bfloat16)
_CONVERT = (
    "If you trust the file, load it with PyTorch and write its state dict with safetensors.torch.save_file: "
    "safetensors files are read as well."
)


class TorchFileError(ValueError):
    """A file that `read_torch_file` cannot read, or refuses to."""


@dataclass(frozen=True)
class Storage:
    """What a file announces: `numel` elements under a key."""

    key: str
    dtype: np.dtype
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage as the file describes it, not yet checked; offset and stride in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a file of `torch.save`, in the file's order.

    Both formats are read: the zip archive of PyTorch 1.6 and later, and the older stream of pickles. A state
    dict under one of the keys `WRAPPERS` is unwrapped; the prefix "module." of `DataParallel` is removed.

    Args:
      path: the file.

    Returns:
      One array per key, read-only; tensors that share memory in the file do so here. Dtypes are the file's,
      but bfloat16, which NumPy does not have, becomes float32 (exactly).

    Raises:
      TorchFileError: a `ValueError`. The file is damaged, cut short or of another kind, asks for anything but
        tensors and plain containers, or holds no state dict or several.
      OSError: the file cannot be opened.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, Path(path).stat().st_size)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from None
    # What zipfile, pickletools, NumPy and the pickle machine below raise on malformed input.
    except (
        ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, EOFError,
        struct.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise TorchFileError(f"{path} is damaged or only half a file ({str(error)[:200]})") from error


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    head = file.read(512)
    if head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(file) as archive:
            return _read_zip(archive, size)
    if _LEGACY_MAGIC in head[:32]:
        return _read_legacy(file, size)
    if head[257:262] == b"ustar":
        raise TorchFileError(f"this is the tar format of the first PyTorch releases. {_CONVERT}")
    raise TorchFileError("this is not a file of torch.save" if size else "the file is empty")


def _read_zip(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """`NAME/data.pkl` describes the tensors, `NAME/data/KEY` holds a storage."""
    members = {member.filename: member for member in archive.infolist()}
    if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in members):
        raise TorchFileError(f"this is a TorchScript archive, a program. {_CONVERT}")
    pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise TorchFileError(f"this zip archive is not of torch.save: it has {len(pickles)} files */data.pkl")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise TorchFileError("the archive is compressed, as torch.save never does; unpack it and store it")
    sizes = [max(member.file_size, member.compress_size) for member in archive.infolist()]
    if sum(sizes) > size or any(member.header_offset < 0 for member in members.values()):
        raise TorchFileError("damaged: the archive announces more bytes than the file has")

    folder = pickles[0].removesuffix("data.pkl")
    tensors = _state_dict(_unpickle(io.BytesIO(archive.read(pickles[0])), {}))
    byteorder = archive.read(folder + "byteorder").decode() if folder + "byteorder" in members else "little"
    if byteorder not in ("little", "big"):
        raise TorchFileError(f"unknown byte order {byteorder[:20]!r}")
    arrays = {}
    for storage in dict.fromkeys(tensor.storage for tensor in tensors.values()):
        arrays[storage.key] = _array(storage, archive.read(f"{folder}data/{storage.key}"), byteorder)
    return {name: _view(name, tensor, arrays[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Pickles of magic number, version, system, checkpoint and storage keys; then count and bytes of each."""
    storages: dict[str, Storage] = {}
    # Mapped, because a plain file reserves memory for whatever length a string announces.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        _magic, version, _system = (_unpickle(stream, {}) for _ in range(3))
        if version != 1001:
            raise TorchFileError("an unknown version of the format")
        tensors = _state_dict(_unpickle(stream, storages))
        keys = _unpickle(stream, {})
        file.seek(stream.tell())

    wanted = {tensor.storage.key for tensor in tensors.values()}
    arrays: dict[str, np.ndarray] = {}
    for storage in [storages[_plain(key)] for key in keys]:
        (numel,) = struct.unpack("<q", file.read(8))
        nbytes = numel * storage.dtype.itemsize
        if numel != storage.numel or file.tell() + nbytes > size:
            raise ValueError(f"storage {storage.key} has not the announced {storage.numel} elements")
        if storage.key in wanted and storage.key not in arrays:
            arrays[storage.key] = _array(storage, file.read(nbytes), "little")
        else:
            file.seek(nbytes, io.SEEK_CUR)
    return {name: _view(name, tensor, arrays[tensor.storage.key]) for name, tensor in tensors.items()}


def _array(storage: Storage, data: bytes, byteorder: str) -> np.ndarray:
    """A storage as a vector over its bytes, not a copy of them."""
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} has not the announced {storage.numel} elements")
    array = np.frombuffer(data, storage.dtype)
    if byteorder != sys.byteorder:
        array = array.byteswap()
    if storage.dtype == _BFLOAT16:
        array = array.astype(np.float32)
    array.flags.writeable = False
    return array


def _view(name: str, tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """The tensor's elements, once it is sure that they lie inside the storage."""
    size, stride, width = tensor.size, tensor.stride, storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((tensor.offset, *size, *stride)) < 0 or (0 not in size and last >= storage.size):
        raise TorchFileError(f"{name[:100]!r} reaches outside its storage of {storage.size} elements")
    if math.prod(size) > storage.size:
        # A few bytes in the file would ask for any amount of memory as soon as the array is copied.
        raise TorchFileError(f"{name[:100]!r} is an expanded tensor: save its .contiguous() form")
    if 0 in size:
        return np.empty(size, storage.dtype)
    return np.ndarray(size, storage.dtype, storage, tensor.offset * width, [step * width for step in stride])


def _state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """The state dict of a checkpoint: its entry under one of `WRAPPERS`, or else the whole."""
    if not isinstance(checkpoint, dict):
        raise TorchFileError(f"holds an object of type {type(checkpoint).__name__}, not a state dict")
    wrappers = [name for name in WRAPPERS if _holds_tensors(checkpoint.get(name))]
    if len(wrappers) > 1:
        raise TorchFileError(f"holds several state dicts: {', '.join(wrappers)}; save the one that is meant")
    state = checkpoint[wrappers[0]] if wrappers else checkpoint
    if not _holds_tensors(state):
        others = [str(name)[:40] for name, entry in checkpoint.items() if _holds_tensors(entry)][:10]
        found = f" (but under {', '.join(others)})" if others else ""
        raise TorchFileError(f"holds no tensors, neither directly nor under {', '.join(WRAPPERS)}{found}")
    for name, entry in state.items():
        if not isinstance(name, str) or not isinstance(entry, Tensor):
            kind = type(entry).__name__
            raise TorchFileError(
                f"entry {str(name)[:100]!r} of the state dict is of type {kind}, not a tensor"
            )
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _holds_tensors(entry: Any) -> bool:
    return isinstance(entry, dict) and any(isinstance(value, Tensor) for value in entry.values())


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Python 3 fills it later; Python 2 hands over a list of pairs."""
    entries = {_plain(key): value for key, value in pairs}
    if pairs:
        pairs.clear()  # a pickle can name the same list many times, and copies of it would add up
    return entries


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = 0, hooks: Any = 0, metadata: Any = None
) -> Tensor:
    """Gradient and hooks do not matter here; metadata marks conjugate and negative views."""
    if metadata:
        raise TorchFileError(
            "a tensor is a conjugate or negative view: save its .resolve_conj().resolve_neg()"
        )
    if not isinstance(storage, Storage) or max(len(size), len(stride)) > 64:  # NumPy's limit
        raise ValueError("a tensor of an unknown form")
    if not all(type(number) is int for number in (offset, *size, *stride)):
        raise ValueError("a tensor whose shape is not made of integers")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _first(value: Any, _grad: Any = 0, _hooks: Any = 0, _state: Any = 0) -> Any:
    return value


# All that a file may name. Nothing is imported for it, and what a file sets on an entry (BUILD) is dropped.
_GLOBALS: dict[str, Callable[..., Any] | np.dtype] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip


def _unpickle(stream: Any, storages: dict[str, Storage]) -> Any:
    """Interprets the next pickle of a stream and notes the storages that it announces.

    On the stack lie literals, tuples, lists, dicts, `Storage`, `Tensor` and entries of `_GLOBALS`, never
    anything else: of these only the functions of that table can be called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(count: int | None = None) -> list[Any]:
        """The topmost `count` items, or all down to the last mark."""
        start = marks.pop() if count is None else len(stack) - count
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(popped()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(popped(int(opcode.name[-1]))))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND" | "APPENDS":
                items = popped(1 if opcode.name == "APPEND" else None)
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = popped(2 if opcode.name == "SETITEM" else None)
                stack[-1].update(zip(map(_plain, items[::2]), items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(_global(".".join(popped(2))))
            case "REDUCE" | "NEWOBJ":
                function, arguments = popped(2)
                stack.append(function(*arguments))
            case "BUILD":
                popped(1)
            case "BINPERSID":
                storage = _announced(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"two announcements of storage {storage.key}")
                stack.append(storage)
            case "STOP":
                return stack.pop()
            case name:
                what = f"the pickle opcode {name} ({str(argument)[:100]})"
                raise TorchFileError(f"uses {what}, as torch.save never does. {_CONVERT}")
    raise EOFError("a pickle without an end")


def _global(name: str) -> Callable[..., Any] | np.dtype:
    if name not in _GLOBALS:
        what = "which is no tensor and no plain container; this reader never runs code of a file"
        raise TorchFileError(f"asks for {name[:100]!r}, {what}. {_CONVERT}")
    return _GLOBALS[name]


def _announced(identity: Any) -> Storage:
    """The persistent id of a storage; the older format adds None, or a view of another storage (refused)."""
    match identity:
        case ("storage", np.dtype() as dtype, str() as key, str(), int() as numel, *view):
            if numel >= 0 and (not view or view[0] is None):
                return Storage(key, dtype, numel)
    raise ValueError("a storage of an unknown form")


def _plain(key: Any) -> Any:
    """A key that can be hashed safely: a tuple could be nested so deeply that hashing it ends the process."""
    if not isinstance(key, str | bytes | int | float | None):
        raise TypeError(f"a {type(key).__name__} as a key")
    return key
