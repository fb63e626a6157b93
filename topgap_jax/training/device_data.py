"""Pictures on the devices: 8-bit to float, and small training sets that lie there as a whole."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from topgap_jax.data.sources import Example, Source
from topgap_jax.training.mesh import batch_sharding, replicated

Batch = dict[str, jax.Array]
Fetch = Callable[[int, Batch], Batch]
DeviceTransform = Callable[[jax.Array, jax.Array, float], jax.Array]

AUGMENTATION = 2**31 - 2  # folded into the step's key, as `mixing.MIXING`
CHOICES = ("auto", "always", "never")


def as_float(images: jax.Array) -> jax.Array:
    """uint8 to float32 in [0, 1], to the bit NumPy's `images / 255`; float images pass."""
    if images.dtype != jnp.uint8:
        return images
    # XLA divides by a constant through its rounded inverse. x / 255 is x (2^-8 + 2^-16 + 2^-24 + ...): three
    # terms fit a float32 exactly, so that adding the rest rounds once.
    whole = (images.astype(jnp.int32) * (2**16 + 2**8 + 1)).astype(jnp.float32)
    return whole * 2.0**-24 + images.astype(jnp.float32) * (2.0**-24 / 255)


def pad_crop(key: jax.Array, image: jax.Array, padding: float = 4) -> jax.Array:
    """`transforms.pad_crop` for one picture `[H, W, C]`: other draws, the same distribution."""
    size = int(padding)
    around = jnp.pad(image, ((size, size), (size, size), (0, 0)), mode="reflect")
    down, right = jax.random.randint(key, (2,), 0, 2 * size + 1)
    return jax.lax.dynamic_slice(around, (down, right, 0), image.shape)


def horizontal_flip(key: jax.Array, image: jax.Array, probability: float = 0.5) -> jax.Array:
    """`transforms.horizontal_flip` for one picture `[H, W, C]`."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


DEVICE_TRANSFORMS: dict[str, DeviceTransform] = {"pad_crop": pad_crop, "horizontal_flip": horizontal_flip}


def lies_on_device(config: Any, source: Source) -> bool:
    """Whether the training pictures lie on the devices, as `config` (the field `data`) wants it.

    Raises:
      ValueError: `data.on_device` is "always" where that cannot be, or none of its choices.
    """
    if config.on_device not in CHOICES:
        raise ValueError(f"unknown data.on_device {config.on_device!r}; there are: {', '.join(CHOICES)}")
    obstacles = _obstacles(config.augment, source)
    if config.on_device == "always":
        if obstacles:
            raise ValueError(f"data.on_device='always' cannot be: {'; '.join(obstacles)}")
        return True
    if config.on_device == "never" or obstacles or jax.default_backend() == "cpu":
        return False
    images = getattr(source, "images", None)  # last: a part of an array is a copy
    return isinstance(images, np.ndarray) and images.nbytes <= config.on_device_limit


def put_images(mesh: Mesh, source: Source) -> jax.Array:
    """Every picture `[N, H, W, C]`, whole on each device: a batch is then picked without communication."""
    images = getattr(source, "images", None)
    if images is None:
        images = np.stack([source[index]["image"] for index in range(len(source))])
    return jax.make_array_from_process_local_data(replicated(mesh), images, images.shape)


def make_fetch(mesh: Mesh, images: jax.Array, *, seed: int, augment: Sequence[str]) -> Fetch:
    """Compiles `(step, batch of Indexed examples) -> batch of augmented pictures`, split over the devices."""
    transforms = [_device_transform(entry) for entry in augment]

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        for part, transform in enumerate(transforms):
            image = transform(jax.random.fold_in(key, part), image)
        return image

    @partial(jax.jit, out_shardings=batch_sharding(mesh))
    def fetch(images: jax.Array, step: int, batch: Batch) -> Batch:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), AUGMENTATION)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch["image"])))
        return batch | {"image": jax.vmap(one)(keys, images[batch["image"]])}

    return partial(fetch, images)


class Indexed:
    """A source whose `image` is the example's index: what the host sends where pictures lie on the device."""

    def __init__(self, source: Source):
        self.num_classes, self.class_names = source.num_classes, source.class_names
        self.labels = source.labels
        self.image_shape: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": np.int32(index), "label": self.labels[index]}


def _obstacles(augment: Sequence[str], source: Source) -> list[str]:
    names = [entry.partition(":")[0] for entry in augment]
    there = ", ".join(DEVICE_TRANSFORMS)
    found = [
        f"data.augment has {name!r}, and on the device there are {there}"
        for name in names
        if name not in DEVICE_TRANSFORMS
    ]
    return found + ["the training pictures differ in size"] * (source.image_shape is None)


def _device_transform(entry: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    name, _, argument = entry.partition(":")
    transform = DEVICE_TRANSFORMS[name]
    return lambda key, image: transform(key, image, *([float(argument)] if argument else []))
