"""What it costs to share a training step among devices and processes.

    python benchmarks/scaling.py [--on 1x1,1x2,1x4,1x8,2x2,2x8] [--size 112] [--json PATH]

Runs the real train step on virtual devices of this machine's processor, in one process and in several that
talk over gloo; "2x8" is two processes with eight devices together. All share the same cores, so nothing can
become faster here. What this measures is the work that the sharded program has *besides* that of the program
for one device:

overhead     processor time of a step over N devices / that on one device in one process, same *global*
             batch. The convolutions are the same, so 1 means that sharding costs nothing. It counts the
             collectives (here copies in memory, between processes through a socket), what fsdp gathers,
             what each device does for itself (the optimiser's update of its copy, under data parallelism),
             and that a small batch per device fills the cores less well. Real devices do their own part at
             the same time; of this they pay the collectives and the small batches.
wall         the same by the clock: waiting for each other counts too, and so does what else the machine does.
per device   processor time with the same batch *per device*: N devices / (N x one device).
Top-GAP/GAP  processor time with Top-GAP / with GAP, all else the same.
collectives  operations between devices in the compiled program, and the bytes that each device sends for
             them, passed round a ring: properties of the program, not of the machine.

All programs stay loaded and take turns in shuffled order; a ratio compares times of the same turn, and the
table gives the median with the range. It says nothing of networks between hosts.

`--json PATH` appends a line per program.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
from train_step import Network, Seconds, Trainer, machine, now, ratio, timed

from topgap_jax.training.hlo import collectives
from topgap_jax.training.mesh import make_mesh

POOLS = {"topk": "Top-GAP", "mean": "GAP"}
LAYOUTS = ("data", "fsdp")


class Program(NamedTuple):
    """One compiled train step."""

    processes: int
    devices: int  # of all processes together
    layout: str  # "data": parallel over the batch; "fsdp": parameters and optimiser state are split as well
    pool: str
    batch: int  # of all devices together


class Worker:
    """A process of its own with its virtual devices, or several that form one cluster.

    It makes the programs one after another, and runs a step of one of them when told its number.
    """

    def __init__(self, programs: list[Program], network: Network):
        self.programs = programs
        processes, devices = programs[0][:2]
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
            "JAX_PLATFORMS": "cpu",
        }
        task = {"programs": programs, "network": network, "coordinator": f"localhost:{free_port()}"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", json.dumps(task | {"process": process})],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for process in range(processes)
        ]
        self.collectives: list[dict[str, list[float]]] = self._answers()[0]

    def seconds(self, program: int) -> Seconds:
        """Of one step of a program: the clock of the slowest process, the processor time of all."""
        for process in self._processes:
            print(program, file=process.stdin, flush=True)
        wall, processor = zip(*self._answers(), strict=True)
        return Seconds(max(wall), sum(processor))

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.stdin:
                process.stdin.close()  # which ends it; those of a cluster wait for each other
        for process in self._processes:
            process.wait()

    def _answers(self) -> list[Any]:
        lines = [process.stdout.readline() for process in self._processes if process.stdout]
        if not all(lines):
            raise SystemExit("a worker process ended early; its message stands above")
        return [json.loads(line) for line in lines]


def work(task: dict[str, Any]) -> None:
    """The worker's side."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # gloo writes there too
    programs = [Program(*program) for program in task["programs"]]
    if programs[0].processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(task["coordinator"], programs[0].processes, task["process"])
    trainers = []
    for program in programs:
        mesh = make_mesh(fsdp=program.devices if program.layout == "fsdp" else 1)
        trainer = Trainer(Network(*task["network"]), POOLS[program.pool], "float32", mesh, program.batch)
        trainer.step()  # the first step is slower
        trainers.append(trainer)
    print(json.dumps([count(trainer.program.as_text()) for trainer in trainers]), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(trainers[int(line)])), file=answers, flush=True)


def count(text: str) -> dict[str, list[float]]:
    """Number of each kind of collective in a compiled program, and the bytes that a device sends for them."""
    found: dict[str, list[float]] = {}
    for collective in collectives(text):
        number, sent = found.get(collective.kind, (0, 0.0))
        found[collective.kind] = [number + 1, sent + collective.sent]
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def programs_of(on: str, pools: list[str], batch: int, per_device: int) -> list[Program]:
    """What is measured in one place, such as "2x8": in two processes, on eight devices together."""
    processes, devices = map(int, on.split("x"))
    layouts = LAYOUTS if devices > 1 else LAYOUTS[:1]
    same_global = [Program(processes, devices, layout, pool, batch) for layout in layouts for pool in pools]
    same_per_device = Program(processes, devices, "data", pools[0], per_device * devices)
    return list(dict.fromkeys([*same_global, same_per_device]))


def take_turns(workers: list[Worker], repetitions: int) -> dict[Program, list[Seconds]]:
    """The times of each program in each turn; the order within a turn is shuffled."""
    everything = [(worker, number) for worker in workers for number in range(len(worker.programs))]
    seconds: dict[Program, list[Seconds]] = {worker.programs[number]: [] for worker, number in everything}
    order = random.Random(0)
    for _ in range(repetitions):
        for worker, number in order.sample(everything, len(everything)):
            seconds[worker.programs[number]].append(worker.seconds(number))
    return seconds


def overheads(seconds: dict[Program, list[Seconds]], per_device: int) -> dict[Program, dict[str, Any]]:
    """The ratios of each program, as median, lowest and highest over the turns."""
    rows: dict[Program, dict[str, Any]] = {}
    wall = {program: [time.wall for time in times] for program, times in seconds.items()}
    processor = {program: [time.processor for time in times] for program, times in seconds.items()}
    for program, times in processor.items():
        alone = program._replace(processes=1, devices=1, layout="data")
        one_share = alone._replace(batch=per_device)
        row = {}
        if alone in seconds:
            row["overhead"] = ratio(times, processor[alone])
            row["wall"] = ratio(wall[program], wall[alone])
        if program.batch == per_device * program.devices and one_share in seconds:
            row["per_device"] = ratio(times, [program.devices * time for time in processor[one_share]])
        if program.pool == "topk" and (plain := program._replace(pool="mean")) in seconds:
            row["topgap_over_gap"] = ratio(times, processor[plain])
        rows[program] = row
    return rows


def text(program: Program, times: list[Seconds], row: dict[str, Any], counted: dict[str, list[float]]) -> str:
    def cell(name: str) -> str:
        return "{:5.2f} ({:.2f}-{:.2f})".format(*row[name]) if name in row else ""

    operations = ", ".join(f"{number} {name} {sent / 1e6:.1f} MB" for name, (number, sent) in counted.items())
    wall, processor = (1000 * statistics.median(part) for part in zip(*times, strict=True))
    cells = [
        f"{program.processes:4} {program.devices:4} {program.layout:5} {POOLS[program.pool]:8}"
        f"{program.batch:6}{wall:8.0f}{processor:8.0f}",
        *(f"{cell(name):18}" for name in ("overhead", "wall", "per_device", "topgap_over_gap")),
        operations or "none",
    ]
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="1x1,1x2,1x4,1x8,2x2,2x8", help="processes x devices, the first 1x1")
    parser.add_argument("--pools", default="topk,mean", help="topk, mean or both")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16, help="of all devices together")
    parser.add_argument("--per-device", type=int, default=4, help="batch for the comparison per device")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return

    network = Network(arguments.model, arguments.classes, arguments.size, arguments.k)
    measured = (arguments.pools.split(","), arguments.batch_size, arguments.per_device)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(programs_of(place, *measured), network))
            for place in arguments.on.split(",")
        ]
        seconds = take_turns(workers, arguments.repetitions)
    counted = {p: c for worker in workers for p, c in zip(worker.programs, worker.collectives, strict=True)}
    rows = overheads(seconds, arguments.per_device)

    print(f"{network.name}, {network.size} px, {network.classes} classes, k={network.k}; {machine()}")
    print(
        f"{'proc':>4} {'dev':>4} {'':5} {'':8} {'batch':>5} {'ms':>7} {'CPU ms':>7} | {'overhead':18} | "
        f"{'wall':18} | {'per device':18} | {'Top-GAP/GAP':18} | collectives"
    )
    for program, times in seconds.items():
        print(text(program, times, rows[program], counted[program]))
    if arguments.json:
        header = {"machine": machine(), "time": now(), "network": network._asdict()}
        with arguments.json.open("a") as file:
            for program, times in seconds.items():
                figures = {"seconds": times, "collectives": counted[program], **rows[program]}
                file.write(json.dumps(header | program._asdict() | figures) + "\n")


if __name__ == "__main__":
    main()
