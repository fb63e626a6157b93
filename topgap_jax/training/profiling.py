"""A profiler's trace of a few training steps, on demand."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from topgap_jax.training.distributed import is_first

SETTLING = 5  # steps after a start that are not traced: the first compiles, the next fill the queues


class Trace:
    """Traces steps of the first process with `jax.profiler`, in TensorBoard's layout; none with `steps=0`.

    Args:
      directory: of the run; the trace goes into its folder `profile`.
      steps: how many to trace.
      start: the step that the run goes on from; the first traced one is `SETTLING` later.
    """

    def __init__(self, directory: Path, steps: int, start: int):
        self._directory = directory / "profile"
        self._first, self._last = start + SETTLING + 1, start + SETTLING + steps * is_first()
        self._running = False

    def before(self, step: int) -> AbstractContextManager[Any]:
        """Around a step; the trace starts with the first one that is due."""
        if step == self._first <= self._last:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # of Python calls: many times the size
            jax.profiler.start_trace(str(self._directory), profiler_options=options)
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, results: Any) -> None:
        """Ends the trace with the last step that is due, once the devices have computed its results."""
        if self._running and step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that still runs, as at the end of the training, and says where it lies."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(
                f"Profile from step {self._first} in {self._directory}: drop the *.trace.json.gz on "
                f"https://ui.perfetto.dev, or pip install xprof && xprof --logdir={self._directory}"
            )
