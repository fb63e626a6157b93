"""Compiled programs kept on disk, so that a restart does not compile them again."""

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

CACHE = Path("~/.cache/topgap_jax/xla")
SHORTEST = 0.1  # seconds of compilation that are worth a file


def use_compilation_cache(where: str) -> str | None:
    """Turns JAX's persistent cache on or off for this process.

    "auto" keeps programs for GPU and TPU in `~/.cache/topgap_jax/xla`. Not for CPU: those are machine code
    for the very processor that compiled them, and the next start may be on another. A folder that JAX was
    told already, as by the environment variable `JAX_COMPILATION_CACHE_DIR`, goes before "auto".

    Args:
      where: "auto", "off", or a folder, which also works on CPU; an address such as gs://BUCKET/FOLDER too.

    Returns:
      The folder or address, or None without a cache.

    Raises:
      OSError: the folder cannot be made.
    """
    told = getattr(jax.config, "jax_compilation_cache_dir", None)
    name = _folder(where, told)
    if name is not None:
        if "://" not in name:
            Path(name).mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    if name != told:
        jax.config.update("jax_compilation_cache_dir", name)
        compilation_cache.reset_cache()  # JAX may have found none already
    return name


def _folder(where: str, told: str | None) -> str | None:
    if where == "off":
        return None
    if where != "auto":
        return where if "://" in where else str(Path(where).expanduser())
    if told is not None or jax.default_backend() == "cpu":
        return told
    return str(CACHE.expanduser())
