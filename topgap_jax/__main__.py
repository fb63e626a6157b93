"""`python -m topgap_jax` is `topgap`."""

from topgap_jax.cli import main

main()
