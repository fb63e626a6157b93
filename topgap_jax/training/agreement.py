"""What the hosts of a run must agree on before its first step: one message on every host says who differs."""

import json
import logging
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from topgap_jax.data.sources import Source
from topgap_jax.training import distributed
from topgap_jax.training.config import as_json, flat
from topgap_jax.training.metrics import commit

logger = logging.getLogger(__name__)

CLOCK_SECONDS = 60  # of difference that are worth a warning
PER_HOST = ("compilation_cache", "data.workers", "profile")  # fields that hosts may set as they like


def program(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the hosts run the same program: configuration, commit and versions."""
    fields = flat(json.loads(as_json(config)))
    return {
        "config": {name: value for name, value in fields.items() if name not in PER_HOST},
        "commit": commit(),
        "topgap-jax": version("topgap-jax"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
    }


def started(directory: Path, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Where a run goes on, and the number and labels of the examples of every split."""
    saved = [int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit()]
    return {
        "last checkpoint": max(saved, default=None),
        "examples": {name: len(source) for name, source in sources.items()},
        "labels (CRC-32)": {name: _digest(source.labels) for name, source in sources.items()},
    }


@contextmanager
def together() -> Iterator[None]:
    """Around what every process does for itself: a mistake found by one is raised on all.

    Raises:
      ValueError: on any process there was a ValueError, TypeError or OSError; the message says which.
    """
    mistake: Exception | None = None
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if jax.process_count() == 1:
            raise
        mistake = error
    found = distributed.gather("" if mistake is None else str(mistake) or type(mistake).__name__)
    if any(found):
        raise ValueError(told(found)) from mistake


def told(found: Sequence[str]) -> str:
    """One message from those of all processes; empty where a process has none."""
    if len(set(found)) == 1:
        return found[0]
    return "; ".join(f"host {host}: {text}" for host, text in enumerate(found) if text)


def agree(facts: Mapping[str, Any]) -> None:
    """Compares what must be the same everywhere.

    Args:
      facts: names and values that JSON can hold; sections may be nested.

    Raises:
      ValueError: on every process, with the fields that differ and the hosts that have which value.
    """
    every = [json.loads(text) for text in distributed.gather(json.dumps(facts))]
    if different := disagreements(every):
        raise ValueError(f"the hosts differ: {'; '.join(different)}; give all of them the same")


def disagreements(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """`field is A on host 0, B on hosts 1, 2` for each field in which the processes' facts differ."""
    fields = [flat(dict(facts)) for facts in every]
    found = []
    for field in sorted(set().union(*fields)):
        hosts: dict[str, list[str]] = {}
        for host, facts in enumerate(fields):
            hosts.setdefault(json.dumps(facts.get(field)), []).append(str(host))
        if len(hosts) > 1:
            sides = (f"{value} on {_named(those)}" for value, those in hosts.items())
            found.append(f"{field} is {' and '.join(sides)}")
    return found


def compare_clocks() -> None:
    """Warns of clocks that differ. Results do not depend on them; logs and access to buckets do."""
    distributed.gather("")  # a common moment
    times = [float(text) for text in distributed.gather(str(time.time()))]
    if (spread := max(times) - min(times)) > CLOCK_SECONDS:
        behind, ahead = times.index(min(times)), times.index(max(times))
        logger.warning("the clock of host %d is %.0f s behind that of host %d", behind, spread, ahead)


def check_shared(directory: Path) -> None:
    """Makes sure that all processes see the same folder.

    Raises:
      ValueError: on every process, with the hosts that see another one.
    """
    if jax.process_count() == 1:
        return
    marker = directory / f".seen-by-all-{distributed.as_first_sees(uuid.uuid4().hex)}"
    with together():
        if distributed.is_first():
            marker.touch()
    try:
        with together():
            if not marker.exists():
                raise ValueError(
                    f"workdir {str(directory)!r} is not the folder that host 0 has under this name: name one "
                    "that all hosts share, such as an NFS folder"
                )
    finally:
        if distributed.is_first():
            marker.unlink()


def _named(hosts: Sequence[str]) -> str:
    return f"host{'s' * (len(hosts) > 1)} {', '.join(hosts)}"


def _digest(labels: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(labels, np.int64).tobytes())
