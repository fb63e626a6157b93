import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.nn.dropout import drop_path, dropout, fold

KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize("drop", [dropout, drop_path])


@BOTH
@pytest.mark.parametrize("rate", [0.1, 0.75])
def test_the_share_that_is_dropped_and_the_mean_that_stays(drop, rate):
    # 20,000 draws either way: five standard deviations are at most 0.016.
    x = jnp.full((20_000, 1, 1, 1), 3.0)
    y = drop(x, rate, train=True, key=KEY)
    np.testing.assert_allclose(np.unique(y), [0, 3 / (1 - rate)], rtol=1e-6)
    np.testing.assert_allclose((y == 0).mean(), rate, atol=0.016)
    np.testing.assert_allclose(y.mean(), 3.0, atol=0.016 * 3 / (1 - rate))


def test_dropout_draws_for_every_value():
    y = dropout(jnp.ones((2, 3, 4, 50)), 0.5, train=True, key=KEY)
    for axis in range(4):
        assert not np.array_equal(y, jnp.broadcast_to(y.max(axis, keepdims=True), y.shape))


@pytest.mark.parametrize("shape", [(40, 3, 2, 5), (40, 7), (40,)])
def test_drop_path_drops_whole_examples(shape):
    y = drop_path(jnp.ones(shape), 0.5, train=True, key=KEY).reshape(40, -1)
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1], y.shape))
    assert 0 < (y == 0).sum() < y.size


@BOTH
def test_the_key_decides(drop):
    x = jnp.ones((64, 4))
    masks = [drop(x, 0.5, train=True, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


@BOTH
def test_what_is_dropped_does_not_pass_a_gradient_even_where_it_is_infinite(drop):
    x = jnp.full((64, 2), jnp.inf)
    y, pull = jax.vjp(lambda x: drop(x, 0.5, train=True, key=KEY), x)
    assert set(np.unique(y)) == {0, np.inf}
    np.testing.assert_array_equal(pull(jnp.ones_like(x))[0], jnp.where(y == 0, 0.0, 2.0))


@BOTH
def test_nothing_happens_without_training_or_with_rate_zero(drop):
    x = jnp.ones((3, 2))
    assert drop(x, 0.5, train=False, key=None) is x
    assert drop(x, 0.5, train=False, key=KEY) is x
    assert drop(x, 0.0, train=True, key=None) is x


@BOTH
def test_training_needs_a_key(drop):
    with pytest.raises(ValueError, match=r"drop path of 0.5 needs a key while training"):
        drop(jnp.ones((3, 2)), 0.5, train=True, key=None)


@BOTH
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_dtype_stays(drop, dtype):
    y = drop(jnp.ones((40, 2), dtype), 0.3, train=True, key=KEY)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.unique(y.astype(jnp.float32)), [0, 1 / 0.7], rtol=2**-8)


def test_fold():
    assert fold(None, 3) is None
    assert fold(KEY, 3) == jax.random.fold_in(KEY, 3)
    assert fold(KEY, 3) != fold(KEY, 4)
