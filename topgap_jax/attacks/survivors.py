"""Runs an attack over all examples, in batches of those that still have something to do."""

import dataclasses
import functools
from collections import deque
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from topgap_jax.attacks import checks
from topgap_jax.attacks.base import (
    Attack,
    AttackResult,
    Examples,
    Progress,
    attack_result,
    select,
    start_progress,
)
from topgap_jax.attacks.journal import AttackLog
from topgap_jax.attacks.networks import LAST_PASS, LogitsFn, at_pass, place, replicate, smallest_bucket

EMPTY = -1  # a slot of the batch where no example sits


def steps_per_call() -> int:
    """How many steps of an attack run on the device between two looks from the host.

    On the CPU, XLA takes a slower path for convolutions inside a loop or a conditional (a PGD step on 64
    images of 32x32 took 5 times longer inside `lax.fori_loop`), so every step is a call of its own. Elsewhere
    several steps per call save launches and transfers; how many is not measured yet.
    """
    return 1 if jax.default_backend() == "cpu" else 4


@functools.partial(jax.jit, static_argnames="steps", donate_argnames="state")
def _advance(attack: Attack, logits_fn: LogitsFn, examples: Examples, state: Any, steps: int) -> Any:
    def step(state: Any) -> Any:
        network = at_pass(logits_fn, examples.indices, examples.attempts, state.progress.queries)
        return select(state.progress.done, state, attack.step(network, examples, state))

    def busy(carry: tuple[jax.Array, Any]) -> jax.Array:
        return (carry[0] < steps) & ~carry[1].progress.done.all()

    if steps == 1:
        return step(state)
    return lax.while_loop(busy, lambda carry: (carry[0] + 1, step(carry[1])), (jnp.int32(0), state))[1]


_select = jax.jit(select)


@jax.jit
def _take(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


class Slots(NamedTuple):
    """Who sits where in the batch; NumPy arrays that change in place."""

    examples: np.ndarray  # int [b], rows of the data, or EMPTY
    attempts: np.ndarray  # int32 [b]

    @property
    def taken(self) -> np.ndarray:
        return self.examples != EMPTY


def attack_survivors(
    attack: Attack,
    logits_fn: Partial,
    examples: Examples,
    *,
    attempts: int = 1,
    all_attempts: bool = False,
    batch_size: int = 64,
    log: AttackLog | None = None,
) -> Progress:
    """Runs an attack over all examples, in batches of those that still have something to do.

    An example leaves its slot when its attempt is done, and a waiting one takes it. A survivor waits for its
    next attempt behind all others. When nobody waits, the batch shrinks along `buckets`. What happens to an
    example does not depend on who else is in the batch. It is the same to the bit in another bucket if XLA
    rounds alike in both; on the CPU it was seen to, from 4 examples on. The batch is spread over the local
    devices.

    Args:
      attack: see `Attack`.
      logits_fn: see the function `logits_fn`.
      examples: all of them, on the host; `targets` [B] or [B,attempts].
      attempts: per example, at least 1.
      all_attempts: a success ends the attempt only; the default is that it ends them all.
      batch_size: most examples in one pass through the network.
      log: where finished attempts are written, and read from after a restart of the process.

    Returns:
      On the host, for every example its best attempt: successes first, then by the loss.

    Raises:
      ValueError: the network returned NaN.
    """
    outcome = jax.tree.map(np.array, start_progress(examples))
    made = np.zeros(len(examples.labels), np.int32) if log is None else log.restore(outcome)
    unfinished = (made == 0) | ((made < attempts) & (all_attempts | ~outcome.success))
    waiting = deque((int(row), int(made[row])) for row in np.flatnonzero(unfinished))
    size = smallest_bucket(len(waiting), batch_size)
    slots = Slots(np.full(size, EMPTY), np.zeros(size, np.int32))
    logits_fn = replicate(logits_fn)
    batch: Any = None
    state: Any = None
    while waiting or slots.taken.any():
        fresh = _fill(slots, waiting)
        if fresh.any():
            batch = place(_gather(examples, slots))
            started = attack.init(batch)
            # Always a new buffer: the state is donated, and `init` may hand out the batch's own arrays.
            state = _select(fresh, started, started if state is None else state)
        state = _advance(attack, logits_fn, batch, state, steps=steps_per_call())
        checks.check_numbers(np.asarray(state.progress.loss)[slots.taken], slots.examples[slots.taken])
        done = np.asarray(state.progress.done) & slots.taken
        if done.any():
            network = at_pass(logits_fn, batch.indices, batch.attempts, LAST_PASS)
            _harvest(outcome, attack.conclude(network, batch, state), slots, done)
            if log is not None:
                log.append(slots.examples[done], slots.attempts[done], outcome)
            again = done & (all_attempts | ~outcome.success[slots.examples]) & (slots.attempts + 1 < attempts)
            waiting.extend(zip(slots.examples[again], slots.attempts[again] + 1, strict=True))
            slots.examples[done] = EMPTY
            if not waiting:
                slots, batch, state = _shrink(slots, batch, state, batch_size)
    return outcome


def run(
    name: str,
    attack: Any,
    logits_fn: Partial,
    examples: Examples,
    *,
    norm: str,
    attempts: int = 1,
    all_attempts: bool = False,
    batch_size: int = 64,
    log: AttackLog | None = None,
    **settings: Any,
) -> AttackResult:
    """`attack_survivors`, and its outcome as the user gets it.

    The result's `config` has the name, all fields of the attack (a dataclass), and `settings`.
    """
    outcome = attack_survivors(
        attack,
        logits_fn,
        examples,
        attempts=attempts,
        all_attempts=all_attempts,
        batch_size=batch_size,
        log=log,
    )
    config = {"attack": name, "norm": norm, **settings, "batch_size": batch_size}
    for field in dataclasses.fields(attack):
        config.setdefault(field.name, as_json(getattr(attack, field.name)))
    return attack_result(outcome, examples, norm, config)


def as_json(value: Any) -> Any:
    """A setting as JSON can hold it: keys and arrays as lists, other objects by their name."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str | tuple | list | dict):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _fill(slots: Slots, waiting: deque[tuple[int, int]]) -> np.ndarray:
    """Seats waiting examples in free slots; true [b] where one sat down."""
    fresh = np.zeros(len(slots.examples), bool)
    for slot in np.flatnonzero(~slots.taken)[: len(waiting)]:
        slots.examples[slot], slots.attempts[slot] = waiting.popleft()
        fresh[slot] = True
    return fresh


def _gather(examples: Examples, slots: Slots) -> Examples:
    """The batch; an empty slot holds some example whose result nobody reads."""
    rows = np.maximum(slots.examples, 0)
    batch = jax.tree.map(lambda field: field[rows], examples)
    if batch.targets.ndim == 2:
        batch = batch._replace(targets=batch.targets[np.arange(len(rows)), slots.attempts])
    return batch._replace(attempts=slots.attempts.copy())


def _harvest(outcome: Any, progress: Progress, slots: Slots, done: np.ndarray) -> None:
    """Writes the attempts that are done into the outcome."""
    rows, first = slots.examples[done], slots.attempts[done] == 0
    found: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[done], progress)
    checks.check_numbers(found.loss, rows)
    higher = (found.success == outcome.success[rows]) & (found.loss > outcome.loss[rows])
    better = first | (found.success & ~outcome.success[rows]) | higher
    outcome.queries[rows] += found.queries
    found = found._replace(queries=outcome.queries[rows])
    for kept, new in zip(outcome, found, strict=True):
        kept[rows[better]] = new[better]


def _shrink(slots: Slots, batch: Examples, state: Any, batch_size: int) -> tuple[Slots, Examples, Any]:
    """Moves the survivors into the smallest bucket that holds them, everywhere to the same seats.

    Only where it is a quarter of the present one: another bucket is another compilation.
    """
    size = smallest_bucket(int(slots.taken.sum()), batch_size)
    if 4 * size > len(slots.examples) or not slots.taken.any():
        return slots, batch, state
    rows = np.argsort(~slots.taken, kind="stable")[:size]
    return Slots(*(field[rows] for field in slots)), *place(_take((batch, state), rows))
