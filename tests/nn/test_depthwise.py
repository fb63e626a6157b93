from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from topgap_jax.nn.conv import conv
from topgap_jax.nn.depthwise import depthwise

CHANNELS = 3


def reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def drawn(size, kernel, dtype=jnp.float32):
    """Maps `[2, *size, CHANNELS]` and a kernel `[*kernel, 1, CHANNELS]`."""
    of_maps, of_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(of_maps, (2, *size, CHANNELS), dtype)
    return x, jax.random.normal(of_kernel, (*kernel, 1, CHANNELS), dtype)


def assert_close(ours, expected, tolerance=1e-5):
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    ours, expected = (np.asarray(array, np.float32) for array in (ours, expected))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def value_and_gradients(convolution, x, kernel):
    """The result and the gradients of a loss that weights every position differently."""

    def loss(x, kernel):
        y = convolution(x, kernel)
        return jnp.sin(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape) + y).sum(), y

    gradients, y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)
    return y, *gradients


CASES = [
    # size, kernel, strides, padding
    *(((11, 8), (k, k), (s, s), ((k // 2, k // 2),) * 2) for k in (3, 5, 7) for s in (1, 2)),
    *(((11, 8), (k, k), (2, 2), "SAME") for k in (3, 5, 7)),
    ((12, 9), (3, 3), (2, 2), ((0, 1), (2, 0))),
    ((9, 13), (5, 3), (2, 3), ((1, 4), (0, 0))),
    ((8, 7), (3, 3), (2, 2), "VALID"),  # the last row is never seen
    ((5, 6), (3, 3), (1, 1), ((4, 3), (3, 5))),  # more zeros than the kernel is wide
    ((2, 1), (7, 7), (1, 1), "SAME"),  # a map smaller than the kernel
    ((1, 1), (3, 3), (2, 2), ((1, 1), (1, 1))),
]


@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), CASES)
def test_value_and_gradients_are_those_of_the_grouped_convolution(size, kernel, strides, padding):
    x, kernel = drawn(size, kernel)
    ours = value_and_gradients(partial(depthwise, strides=strides, padding=padding), x, kernel)
    theirs = value_and_gradients(partial(reference, strides=strides, padding=padding), x, kernel)
    for array, expected in zip(ours, theirs, strict=True):
        assert_close(array, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_is_summed_in_float32(stride):
    # 49 products per position: a sum in bfloat16 would be several last places away.
    x, kernel = drawn((11, 9), (7, 7), jnp.bfloat16)
    settings = {"strides": (stride, stride), "padding": "SAME"}
    exact = value_and_gradients(
        partial(reference, **settings), x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    y, *gradients = value_and_gradients(partial(depthwise, **settings), x, kernel)
    assert_close(y, exact[0].astype(jnp.bfloat16), 2**-8)
    # The cotangent itself is rounded to bfloat16 on its way here.
    for array, expected in zip(gradients, exact[1:], strict=True):
        assert_close(array, expected.astype(jnp.bfloat16), 2**-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_second_derivative(stride):
    x, kernel = drawn((5, 4), (3, 3))

    def penalty(convolution):
        """The squared norm of a gradient with respect to the maps, as gradient alignment has it."""

        def squared_norm(x, kernel):
            slope = jax.grad(lambda x: (convolution(x, kernel, (stride, stride), "SAME") ** 3).sum())(x)
            return jnp.square(slope).sum()

        return jax.jit(jax.grad(squared_norm, argnums=(0, 1)))(x, kernel)

    for array, expected in zip(penalty(depthwise), penalty(reference), strict=True):
        assert_close(array, expected)


def test_under_vmap():
    x, kernel = drawn((6, 5), (3, 3))
    kernels = jnp.stack([kernel, 2 * kernel])

    def each(convolution):
        return jax.jit(jax.vmap(lambda x, kernel: convolution(x[None], kernel, (1, 1), "SAME")))(x, kernels)

    assert_close(each(depthwise), each(reference))


def program(function, *args, platform):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "forward", "gradient"), [("cpu", 0, 0), ("tpu", 1, 2), ("cuda", 1, 2)])
def test_only_the_cpu_does_without_xlas_convolution(platform, forward, gradient):
    x, kernel = drawn((6, 5), (3, 3))
    convolve = partial(depthwise, strides=(2, 2), padding="SAME")
    gradients = jax.grad(lambda x, kernel: convolve(x, kernel).sum(), argnums=(0, 1))
    assert program(convolve, x, kernel, platform=platform).count("stablehlo.convolution(") == forward
    assert program(gradients, x, kernel, platform=platform).count("stablehlo.convolution(") == gradient


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel", "groups", "convolutions"),
    [
        (4, 4, 3, 4, 0),
        (4, 4, 3, 2, 1),
        (4, 8, 3, 4, 1),  # two kernels per channel
        (4, 4, 1, 1, 1),
        (1, 1, 3, 1, 1),
    ],
)
def test_conv_takes_it_where_every_channel_has_one_kernel_of_its_own(
    in_channels, out_channels, kernel, groups, convolutions
):
    layer = conv(in_channels, out_channels, kernel, groups=groups, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 5, 4, in_channels))
    assert program(layer, x, platform="cpu").count("stablehlo.convolution(") == convolutions


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [None, "SAME"])
def test_conv_passes_stride_padding_bias_and_dtype_on(stride, padding):
    layer = conv(
        CHANNELS,
        CHANNELS,
        5,
        stride,
        groups=CHANNELS,
        bias=True,
        padding=padding,
        dtype=jnp.bfloat16,
        rngs=nnx.Rngs(0),
    )
    layer.bias[...] = np.arange(3, dtype=np.float32)
    x, _ = drawn((8, 11), (5, 5))
    sides = ((2, 2), (2, 2)) if padding is None else padding
    kernel = layer.kernel[...]
    assert kernel.dtype == jnp.float32

    @jax.jit
    def expected(x, kernel):
        return (reference(x, kernel, (stride, stride), sides) + jnp.arange(3.0)).astype(jnp.bfloat16)

    assert_close(jax.jit(layer)(x), expected(x, kernel), 2**-6)
