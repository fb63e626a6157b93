import os

# Before JAX starts: tests see one device, whatever the caller's environment says; those that want eight start
# a process of their own.
os.environ.pop("XLA_FLAGS", None)
