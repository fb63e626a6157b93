"""What the text of an optimised HLO program says: its collectives, its memory traffic, its cycles."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8} | {
    f"{sign}{bits}": bits // 8 for sign in "su" for bits in (8, 16, 32, 64)
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move nothing, or what they move is counted where it starts.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "custom-call", "iota"}

COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\((.*)")
COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r" *(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")


class Tensor(NamedTuple):
    """One array, as it is on one device."""

    dtype: str  # XLA's name: "bf16", "f32", ...
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BYTES.get(self.dtype, 0)


class Collective(NamedTuple):
    """One instruction by which devices exchange arrays."""

    kind: str  # one of COLLECTIVES
    results: tuple[Tensor, ...]
    devices: int  # that take part in one group
    origin: str  # JAX's name of the operation it came from

    @property
    def nbytes(self) -> int:
        """Of the whole array on one device: before a reduction, after a gathering."""
        parts = self.devices if self.kind == "reduce-scatter" else 1
        return parts * sum(tensor.nbytes for tensor in self.results)

    @property
    def sent(self) -> float:
        """Bytes that each device sends, if the group passes pieces round a ring."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.nbytes
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * (self.devices - 1) / self.devices * self.nbytes


class Executed(NamedTuple):
    """One instruction of the program or of one of its loops."""

    kind: str  # "fusion", "convolution", ...
    origin: str  # JAX's name of the operation it came from
    times: int  # that it runs, in loops of known length
    memory_bytes: int  # that it reads from and writes to the device's main memory, each time
    cycles: int  # as the TPU's compiler estimates them, each time; 0 where it does not


def collectives(text: str) -> list[Collective]:
    """Every collective, in whatever computation: those of loops (once), of fusions, of asynchronous pairs."""
    return [_collective(*match.groups()) for match in map(COLLECTIVE.search, text.splitlines()) if match]


def executed(text: str) -> list[Executed]:
    """The instructions that run one after another. What is inside of a fusion counts as the fusion alone."""
    computations, entry = _computations(text)
    return list(_walk(computations, entry, 1))


def _collective(result: str, kind: str, start: str | None, rest: str) -> Collective:
    tensors = [_tensor(dtype, shape) for dtype, shape, _ in ARRAY.findall(result)]
    if start and kind == "collective-permute":
        tensors = tensors[1:2]  # operand, result, two counters
    elif start and kind != "all-reduce":
        tensors = tensors[len(tensors) // 2 :]  # operands, then results
    return Collective(kind, tuple(tensors), _group_size(rest), _origin(rest))


def _group_size(text: str) -> int:
    """Devices in one group, from any of the three notations of `replica_groups`; 2 for a permutation."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    return 2


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that runs."""
    computations, entry, lines = dict[str, list[str]](), "", list[str]()
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _walk(computations: dict[str, list[str]], name: str, times: int) -> Iterator[Executed]:
    results = dict[str, str]()
    for match in filter(None, map(INSTRUCTION.match, computations[name])):
        result, kind, rest = match[2], match[3], match[4]
        results[match[1]] = result
        if kind == "while":
            body, condition = (re.search(rf"{part}=%([\w.\-]+)", rest) for part in ("body", "condition"))
            assert body and condition
            yield from _walk(computations, body[1], times * _trips(computations[condition[1]]))
        elif kind not in FREE:
            operands = re.findall(r"%([\w.\-]+)", rest.partition("), ")[0])
            moved = (
                [result] if kind == "copy-start" else [result, *(results.get(each, "") for each in operands)]
            )
            cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
            memory = sum(map(_memory_bytes, moved))
            yield Executed(kind, _origin(rest), times, memory, int(cycles[1]) if cycles else 0)


def _trips(condition: list[str]) -> int:
    """How often a loop runs whose condition compares a counter from 0 with a constant."""
    limit = re.search(r" s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return int(limit[1]) if limit else 1


def _memory_bytes(result: str) -> int:
    """Of the arrays in the main memory: the layout of others has a memory space, such as S(1)."""
    arrays = ARRAY.findall(result)
    return sum(_tensor(dtype, shape).nbytes for dtype, shape, layout in arrays if "S(" not in layout)


def _tensor(dtype: str, shape: str) -> Tensor:
    return Tensor(dtype, tuple(map(int, filter(None, shape.split(",")))))


def _origin(text: str) -> str:
    name = re.search(r'op_name="([^"]*)"', text)
    return name[1] if name else ""
