import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.nn.kwta import KWTA, k_winners_take_all

SHAPE = (3, 4, 4, 8)  # one for most tests: every further shape is compiled


def draw(shape=SHAPE, dtype=jnp.float32, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def winners(x, share):
    """By sorting: the values at or above the k-th largest of each example."""
    k = max(int(share * x[0].size), 1)
    kth = np.sort(x.reshape(len(x), -1), axis=1)[:, -k]
    return np.where(x >= kth.reshape(-1, *[1] * (x.ndim - 1)), x, 0)


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("shape", [SHAPE, (2, 7, 5, 3), (1, 1, 1, 1)])
def test_keeps_exactly_k_values(shape, share):
    x = draw(shape)
    kept = k_winners_take_all(x, share)
    assert ((kept != 0).reshape(shape[0], -1).sum(1) == max(int(share * x[0].size), 1)).all()
    np.testing.assert_array_equal(kept, winners(np.asarray(x), share))


def test_ties_are_kept():
    x = jnp.float32([[3, 1, 2, 2, 2, 0, -1, -2, -3, -4]])
    np.testing.assert_array_equal(k_winners_take_all(x, 0.2), [[3, 0, 2, 2, 2, 0, 0, 0, 0, 0]])


def test_winners_are_the_largest_with_their_sign():
    x = -jnp.arange(1.0, 11.0)[None]
    np.testing.assert_array_equal(k_winners_take_all(x, 0.3), [[-1, -2, -3, 0, 0, 0, 0, 0, 0, 0]])


def test_zeros_of_both_signs_are_equal():
    x = jnp.float32([[0.0, -0.0, 1.0, -1.0]])
    gradient = jax.grad(lambda x: k_winners_take_all(x, 0.5).sum())(x)
    np.testing.assert_array_equal(gradient, [[1, 1, 1, 0]])


def test_the_gradient_passes_through_what_is_kept():
    x, weights = draw(), draw(seed=1)
    kept, pull = jax.vjp(KWTA(0.25), x)
    np.testing.assert_array_equal(*pull(weights), jnp.where(kept != 0, weights, 0))
    _, tangent = jax.jvp(KWTA(0.25), (x,), (weights,))
    np.testing.assert_array_equal(tangent, jnp.where(kept != 0, weights, 0))


def test_an_example_does_not_depend_on_its_batch():
    x = draw()
    others = x.at[1:].multiply(100).at[1:].add(3)
    np.testing.assert_array_equal(k_winners_take_all(x, 0.3)[0], k_winners_take_all(others, 0.3)[0])
    assert not np.array_equal(k_winners_take_all(x, 0.3)[1], k_winners_take_all(others, 0.3)[1])


def test_bfloat16_has_ties_and_keeps_them():
    x = draw(dtype=jnp.bfloat16)
    kept = k_winners_take_all(x, 0.2)
    assert kept.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept.astype(jnp.float32), winners(np.float32(x), 0.2))


def test_under_jit_and_vmap():
    x = draw()
    expected = k_winners_take_all(x, 0.1)
    np.testing.assert_array_equal(jax.jit(KWTA(0.1))(x), expected)
    np.testing.assert_array_equal(jax.vmap(KWTA(0.1))(x[:, None])[:, 0], expected)


def test_activations_of_one_share_are_equal():
    assert KWTA(0.1) == KWTA(0.1) != KWTA(0.2)
    assert hash(KWTA(0.1)) == hash(KWTA(0.1))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_outside_its_range(share):
    for make in (KWTA, lambda share: k_winners_take_all(jnp.ones((1, 4)), share)):
        with pytest.raises(ValueError, match=r"share=.* of the values to keep is outside \(0, 1\]"):
            make(share)
