import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from topgap_jax.nn import pooling
from topgap_jax.nn.pooling import gap, topk_mean, topk_mean_reference

SHAPE = (3, 7, 9, 5)  # not square, 63 positions: no multiple of the block length
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-14}


JITTED = jax.jit(topk_mean, static_argnums=2)


def normal(shape=SHAPE, dtype=jnp.float32, seed=0):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def distinct(shape=SHAPE, dtype=np.float32, seed=0):
    """Values without ties, of both signs, so that the reference's gradient is the only right one."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return jnp.asarray((order.reshape(shape) - order.size / 3) / 64, dtype)


def gradient(pool, x, k, **options):
    """Gradient of a sum whose terms all weigh differently."""
    y = pool(x, k, **options)
    weight = jnp.linspace(-1, 2, y.size).reshape(y.shape).astype(y.dtype)
    return jax.grad(lambda x: jnp.sum((weight * pool(x, k, **options)).astype(jnp.float32)))(x)


def assert_same(actual, expected, dtype="float32"):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    tolerance = TOLERANCE[str(dtype)]
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("k", [1, 2, 17, 62, 63])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_value(k, dtype):
    x = normal(dtype=dtype)
    assert_same(topk_mean(x, k), topk_mean_reference(x, k), dtype)


@pytest.mark.parametrize("k", [1, 17, 63])  # 63: all of them
def test_a_wider_result_keeps_what_bfloat16_rounds_off(k):
    x = normal(dtype="bfloat16")
    mean = jax.jit(partial(topk_mean, dtype=jnp.float32), static_argnums=1)(x, k)
    np.testing.assert_allclose(mean, topk_mean_reference(x.astype(jnp.float32), k), rtol=1e-6)
    np.testing.assert_array_equal(mean.astype(jnp.bfloat16), topk_mean(x, k))
    gradient = jax.grad(lambda x: topk_mean(x, k, dtype=jnp.float32).sum())(x)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.sum((1, 2), dtype=jnp.float32), 1, rtol=1e-2)


@pytest.mark.parametrize("k", [1, 2, 17, 62, 63])
def test_gradient(k):
    x = distinct()
    assert_same(gradient(topk_mean, x, k), gradient(topk_mean_reference, x, k))


SIDES = (1, 2, 4, 7, 8, 12, 14, 16, 20, 24, 28, 32, 48, 56, 64)
# 16 positions for every divisor of 224: the lengths at which one block of sums is all there is.
LENGTHS = tuple(16 * divisor for divisor in (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 112, 224))


@pytest.mark.parametrize("n", sorted({side * side for side in SIDES} | set(LENGTHS)))
def test_every_size_of_map(n):
    # A large mean: all values share their upper bytes, so that counts reach n.
    x = normal((2, n, 3)) + 5
    k = max(n // 4, 1)
    value, grad = jax.jit(jax.value_and_grad(lambda x: topk_mean(x, k, axis=1).sum()))(x)
    expected = topk_mean_reference(x, k, axis=1)
    np.testing.assert_allclose(value, expected.sum(), rtol=2e-6)
    np.testing.assert_array_equal((grad > 0).sum(1), k)


@pytest.mark.parametrize("k", [1, 17])
def test_float64(k):
    with jax.enable_x64(True):
        # Differences that float32 does not have.
        x = 1 + 1e-12 * distinct(dtype=np.float64)
        assert_same(topk_mean(x, k), topk_mean_reference(x, k), "float64")
        assert_same(gradient(topk_mean, x, k), gradient(topk_mean_reference, x, k), "float64")


def test_half_precision_is_summed_in_float32():
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    assert topk_mean(x, 4000) == 1 and gap(x) == 1  # a bfloat16 sum of ones stops at 256
    x = jnp.full((1, 64, 64, 1), 60000, jnp.float16)
    assert topk_mean(x, 4000) == 60000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_search_for_tpus_finds_the_same_value(dtype):
    """To the bit, and among ties, zeros of both signs, subnormal numbers, infinities and NaN."""
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 60000.0, np.inf, -np.inf, np.nan, -np.nan]
    values = np.where(
        rng.random((6, 100, 7)) < 0.3, rng.choice(special, (6, 100, 7)), rng.normal(0, 3, (6, 100, 7))
    )
    k = rng.integers(1, 101, (6, 1, 7))
    with jax.enable_x64(dtype == "float64"):
        x, k = jnp.asarray(values, dtype), jnp.asarray(k, jnp.float32)
        expected = pooling._kth_largest_by_bytes(x, k)
        np.testing.assert_array_equal(pooling._kth_largest_by_values(x, k), expected)
        bits = pooling._ordered_bits(x)
        np.testing.assert_array_equal(expected[:, 0], ordered_by_numpy(bits, k))
        counts = [(bits > expected).astype(jnp.int32), (bits == expected).astype(jnp.int32)]
        for ours, theirs in zip(pooling._sum_at_once(*counts), pooling._sum_by_blocks(*counts), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def ordered_by_numpy(bits, k):
    """The k-th largest of every row and column."""
    descending = -np.sort(-np.asarray(bits, object), axis=1)
    return np.take_along_axis(descending, np.asarray(k, int) - 1, axis=1)[:, 0]


@pytest.mark.parametrize("size", [1, 5, 16, 33, 2809, 3136])
def test_any_number_of_positions(size):
    x = distinct((2, size, 3))
    for k in sorted({1, (size + 1) // 2, max(1, size - 1), size}):
        assert_same(topk_mean(x, k, axis=1), topk_mean_reference(x, k, axis=1))
        assert_same(topk_mean(x, jnp.int32(k), axis=1), topk_mean_reference(x, k, axis=1))


@pytest.mark.parametrize("axis", [0, -1, (-3, -2), (2, 1), (0, 3), (0, 1, 2, 3)])
def test_axes(axis):
    x = distinct((4, 6, 5, 3))
    assert_same(topk_mean(x, 2, axis), topk_mean_reference(x, 2, axis))
    assert_same(gradient(topk_mean, x, 2, axis=axis), gradient(topk_mean_reference, x, 2, axis=axis))
    n = x.size // gap(x, axis).size
    assert_same(topk_mean(x, n, axis), gap(x, axis))


def test_ties_share_the_gradient():
    x = jnp.array([3.0, 1.0, 2.0, 1.0, 0.0, 1.0]).reshape(1, 2, 3, 1)
    shares = {1: [1, 0, 0, 0, 0, 0], 3: [1, 1 / 3, 1, 1 / 3, 0, 1 / 3], 4: [1, 2 / 3, 1, 2 / 3, 0, 2 / 3]}
    for k, share in shares.items():
        assert_same(jax.grad(lambda x: topk_mean(x, k)[0, 0])(x).ravel(), jnp.array(share) / k)  # noqa: B023
        assert_same(topk_mean(x, k), topk_mean_reference(x, k))


@pytest.mark.parametrize("value", [0.0, 0.3, -2.5])
@pytest.mark.parametrize("k", [1, 17, 63])
def test_constant(value, k):
    x = jnp.full(SHAPE, value)
    assert_same(topk_mean(x, k), jnp.full((3, 5), value))
    assert_same(jax.grad(lambda x: topk_mean(x, k).sum())(x), jnp.full(SHAPE, 1 / 63))


def test_sparse_values_with_ties_at_the_threshold():
    x = jnp.maximum(normal() - 1.5, 0)  # about 4 of 63 positive
    grad = jax.grad(lambda x: topk_mean(x, 10).sum())(x)
    zeros = (x == 0).sum((1, 2), keepdims=True)
    assert_same(topk_mean(x, 10), topk_mean_reference(x, 10))
    assert_same(grad, jnp.where(x > 0, 0.1, (10 - (63 - zeros)) / zeros / 10))


def by_sorting(x, k):
    """The mean over axes 1 and 2 with a k that broadcasts with the result."""
    descending = -jnp.sort(-x.reshape(len(x), -1, x.shape[-1]), 1)
    k = jnp.broadcast_to(k, (len(x), x.shape[-1]))[:, None]
    return jnp.where(jnp.arange(descending.shape[1])[:, None] < k, descending / k, 0).sum(1)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 1), (3, 5), (1, 5)])
def test_k_per_class_per_image_and_both(shape):
    x = distinct()
    k = np.random.default_rng(0).integers(1, 64, shape)
    assert_same(topk_mean(x, k), by_sorting(x, k))
    value, grad = jax.jit(jax.value_and_grad(lambda x, k: (topk_mean(x, k) ** 2).sum()))(x, k)
    expected = jax.value_and_grad(lambda x: (by_sorting(x, k) ** 2).sum())(x)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    assert_same(grad, expected[1])


def test_one_compilation_serves_every_k():
    traces = []

    @jax.jit
    def pooled(x, k):
        traces.append(k)
        return jax.value_and_grad(lambda x: (topk_mean(x, k) ** 2).sum())(x)

    x = distinct()
    for k in (1, 2, 40, 63):
        value, grad = pooled(x, k)
        expected = jax.value_and_grad(lambda x: (topk_mean_reference(x, k) ** 2).sum())(x)  # noqa: B023
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        assert_same(grad, expected[1])
    assert len(traces) == 1


def test_traced_k_is_clamped():
    x = normal()
    pooled = jax.jit(topk_mean)
    for k, clamped in [(-3, 1), (0, 1), (64, 63), (1000, 63)]:
        assert_same(pooled(x, k), topk_mean_reference(x, clamped))


@pytest.mark.parametrize("k", [0, -1, 64, np.array([1, 2, 3, 4, 64]), jnp.int32(0), 0.5, float("nan")])
def test_concrete_k_outside_the_map(k):
    with pytest.raises(ValueError, match=r"k=(0|-1|64|0\.5|nan) .*63 values.* 1 <= k <= 63"):
        topk_mean(normal(), k)
    with pytest.raises(ValueError, match="1 <= k <= 63"):
        jax.jit(lambda x: topk_mean(x, k))(normal())


def test_errors_name_the_types():
    with pytest.raises(TypeError, match="x must be floating, not int32"):
        topk_mean(jnp.ones(SHAPE, jnp.int32), 3)
    with pytest.raises(TypeError, match="k must be integer or floating, not bool"):
        topk_mean(normal(), True)
    with pytest.raises(ValueError, match="k=64"):
        topk_mean_reference(normal(), 64)
    with pytest.raises(ValueError, match="axis 4 is out of bounds"):
        topk_mean(normal(), 3, axis=(1, 4))
    with pytest.raises(ValueError, match="repeated axis"):
        topk_mean(normal(), 3, axis=(1, -3))


NAN = np.float32(np.nan)
NEGATIVE_NAN = np.copysign(NAN, np.float32(-1))
ROWS = {
    "nan": [1, NAN, 3, -2, 0, 5],
    "two nans": [NAN, NAN, 3, -2, 0, 5],
    "negative nan": [1, NEGATIVE_NAN, 3, -2, 0, 5],
    "inf": [1, np.inf, 3, -2, np.inf, 5],
    "-inf": [1, -np.inf, 3, -2, -np.inf, 5],
    "both": [np.inf, -np.inf, 3, -2, 0, 5],
    "all -inf": [-np.inf] * 6,
    "all inf": [np.inf] * 6,
    "all nan": [NAN] * 6,
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("row", ROWS)
def test_not_finite_values(row, dtype, traced):
    x = jnp.array(ROWS[row], dtype)
    pool = JITTED if traced else topk_mean
    for k in range(1, 6):
        np.testing.assert_array_equal(
            np.asarray(pool(x, k, 0), np.float32), np.asarray(topk_mean_reference(x, k, 0), np.float32)
        )
        if len(set(ROWS[row])) == 6 and "nan" not in row:
            grad = jax.grad(lambda x: pool(x, k, 0))(x)  # noqa: B023
            assert_same(grad, jax.grad(lambda x: topk_mean_reference(x, k, 0))(x), dtype)  # noqa: B023


def test_nan_shows_in_its_own_row_only():
    x = normal().at[1, 2, 3, 4].set(jnp.nan)
    bad = jnp.zeros((3, 5), bool).at[1, 4].set(True)
    assert (jnp.isnan(topk_mean(x, 4)) == bad).all()
    grad = jax.grad(lambda x: jnp.where(bad, 0, topk_mean(x, 4)).sum())(x)
    assert jnp.isfinite(grad).all()


def test_signed_zeros_are_one_value():
    x = jnp.array([-0.0, 0.0, -0.0, 0.0, -1.0])
    assert topk_mean(x, 3, 0) == 0
    assert_same(jax.grad(lambda x: topk_mean(x, 3, 0))(x), jnp.array([0.25, 0.25, 0.25, 0.25, 0]))


def test_denormals_are_ranked():
    x = jnp.array([1e-40, 3e-40, -2e-40, 2e-40, 0])
    assert_same(jax.grad(lambda x: topk_mean(x, 2, 0))(x), jnp.array([0, 0.5, 0, 0.5, 0]))


@pytest.mark.parametrize("k", [1, 3, np.array([1, 2, 3, 4, 63])])
def test_vmap(k):
    x = distinct((4, *SHAPE))
    assert_same(jax.vmap(lambda x: topk_mean(x, k))(x), topk_mean(x, k, axis=(2, 3)))
    ks = jnp.array([1, 5, 63])
    expected = jnp.stack([topk_mean_reference(x[0], int(k)) for k in ks])
    assert_same(jax.vmap(topk_mean, in_axes=(None, 0))(x[0], ks), expected)
    grads = jax.vmap(jax.grad(lambda x, k: (topk_mean(x, k) ** 2).sum()), in_axes=(0, 0))(x[:3], ks)
    for i, n in enumerate(ks):
        expected = jax.grad(lambda x: (topk_mean_reference(x, int(n)) ** 2).sum())(x[i])  # noqa: B023
        assert_same(grads[i], expected)


def test_forward_mode_is_the_transpose_of_reverse_mode():
    x, direction = distinct(), normal(seed=1)
    y, tangent = jax.jvp(lambda x: topk_mean(x, 6), (x,), (direction,))
    expected = jax.jvp(lambda x: topk_mean_reference(x, 6), (x,), (direction,))
    assert_same(y, expected[0])
    assert_same(tangent, expected[1])


@pytest.mark.parametrize("k", [1, 6, 63])
def test_gradient_of_the_gradient(k):
    """As gradient alignment needs it: the pooling has no second derivative, what surrounds it has."""
    x = distinct() / 3

    def penalty(pool):
        def loss(x):
            return jnp.sum(jnp.log1p(pool(jnp.sin(x) * x, k) ** 2))

        return jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2)))(x)

    assert jnp.any(penalty(topk_mean) != 0)
    np.testing.assert_allclose(penalty(topk_mean), penalty(topk_mean_reference), rtol=1e-4, atol=1e-6)
    hessian = jax.hessian(lambda x: topk_mean(x, 2, 0))(jnp.array([3.0, 1.0, 2.0]))
    assert (hessian == 0).all()


def test_derivative_in_a_real_k():
    with jax.enable_x64(True):
        x = distinct((2, 30, 3), np.float64)
        pool = jax.jit(lambda k: topk_mean(x, k, 1))
        for k in (1.5, 7.25, 29.5):
            value, slope = jax.jvp(pool, (jnp.float64(k),), (1.0,))
            kth = jnp.sort(x, 1)[:, -int(np.ceil(k))]
            np.testing.assert_allclose(slope, (kth - value) / k, rtol=1e-12)
            # Between two integers k y(k) is linear.
            low, high = (topk_mean_reference(x, int(n), 1) * n for n in (np.floor(k), np.ceil(k)))
            np.testing.assert_allclose(value * k, low + (high - low) * (k % 1), rtol=1e-12)
        check_grads(pool, (jnp.float64(7.25),), order=1)


DEVICES = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from topgap_jax.nn.pooling import topk_mean, topk_mean_reference

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by_image = NamedSharding(mesh, P("data"))
    x = jax.random.normal(jax.random.key(0), (16, 7, 9, 5))
    sharded = jax.device_put(x, by_image)
    loss = lambda pool: lambda x, k: jnp.sum(pool(x, k) ** 2)
    expected = jax.grad(lambda x: loss(topk_mean_reference)(x, 6))(x)

    def check(function, *arguments, against):
        compiled = function.lower(*arguments).compile()
        for collective in COLLECTIVES:
            assert collective not in compiled.as_text(), (collective, compiled.as_text())
        result = compiled(*arguments)
        assert result.sharding.is_equivalent_to(by_image, result.ndim), result.sharding
        np.testing.assert_allclose(result, against, rtol=1e-5)

    COLLECTIVES = ["all-gather", "all-to-all", "collective-permute", "all-reduce"]
    mean = topk_mean_reference(x, 6)
    gradient = lambda x, k: jax.grad(loss(topk_mean))(x, k)
    for k in (jnp.int32(6), jnp.full(5, 6), jax.device_put(jnp.full((16, 1), 6), by_image)):
        check(jax.jit(topk_mean), sharded, k, against=mean)
        check(jax.jit(gradient), sharded, k, against=expected)
    check(jax.jit(lambda x: topk_mean(x, 1)), sharded, against=topk_mean_reference(x, 1))
    check(jax.jit(lambda x: topk_mean(x, 63)), sharded, against=topk_mean_reference(x, 63))

    local = lambda f: jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")))
    check(local(topk_mean), sharded, jnp.int32(6), against=mean)
    check(local(gradient), sharded, jnp.int32(6), against=expected)

    # The check can fail: the reference gathers.
    assert "all-gather" in jax.jit(lambda x: topk_mean_reference(x, 6)).lower(sharded).compile().as_text()
    print("passed")
"""


def test_sharded_batch_is_not_gathered():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEVICES)], env=environment, capture_output=True, text=True
    )
    assert result.stdout.strip().endswith("passed"), result.stderr[-4000:]
