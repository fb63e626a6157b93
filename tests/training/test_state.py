import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from topgap_jax.training.config import resolve
from topgap_jax.training.state import averaged, create_state, evaluated, make_optimizer, make_schedule


def settings(**changes):
    return resolve({"optimizer": changes}).optimizer


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    schedule = make_schedule(settings(learning_rate=0.4, schedule="one_cycle", warmup_fraction=0.25), 100)
    rates = np.array([schedule(step) for step in range(101)])
    assert rates.argmax() in (24, 25) and rates.max() == pytest.approx(0.4)
    assert rates[0] == pytest.approx(0.4 / 25) and rates[100] == pytest.approx(0)
    np.testing.assert_allclose(np.diff(rates[25:]), -0.4 / 75, rtol=1e-3)


def test_cosine_is_half_way_down_in_the_middle():
    schedule = make_schedule(settings(learning_rate=0.4, schedule="cosine", warmup_fraction=0.0), 100)
    assert [float(schedule(step)) for step in (0, 50, 100)] == pytest.approx([0.4, 0.2, 0.0], abs=1e-6)


def test_step_divides_by_ten():
    schedule = make_schedule(settings(learning_rate=1.0, schedule="step", warmup_fraction=0.1), 100)
    assert [float(schedule(step)) for step in (0, 20, 49, 51, 74, 76)] == pytest.approx(
        [0.1, 1, 1, 0.1, 0.1, 0.01]
    )


def test_milestones_of_one_step_count_each():
    """The warm-up is longer than the first two."""
    settings_ = settings(
        learning_rate=1.0, schedule="step", warmup_fraction=0.25, step_milestones=(0.1, 0.2, 0.5)
    )
    schedule = make_schedule(settings_, 100)
    assert [float(schedule(step)) for step in (26, 49, 51)] == pytest.approx([0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("accumulate", 0, "accumulate=0 must be at least 1"),
        ("accumulate", 11, "accumulate=11 must be at least 1, and at most the 10 steps of this run"),
        ("learning_rate", 0.0, "learning_rate=0.0 must be positive"),
        ("ema_decay", 1.0, r"ema_decay=1.0 is outside \[0, 1\)"),
        ("ema_decay", -0.5, r"ema_decay=-0.5 is outside \[0, 1\)"),
        ("momentum", 1.0, r"momentum=1.0 is outside \[0, 1\)"),
        ("clip_norm", -1.0, "clip_norm=-1.0 must not be negative"),
        ("weight_decay", -1.0, "weight_decay=-1.0 must not be negative"),
        ("warmup_fraction", 3.0, r"warmup_fraction has 3.0, which is outside \[0, 1\]"),
        ("step_milestones", (0.5, 75.0), r"step_milestones has 75.0, which is outside \[0, 1\]"),
    ],
)
def test_values_that_cannot_be_meant(field, value, message):
    with pytest.raises(ValueError, match=f"optimizer.{message}"):
        make_optimizer(settings(**{field: value}), 10)


def test_unknown_names_are_answered_with_those_that_exist():
    with pytest.raises(
        ValueError, match="unknown schedule 'linear'; there are: one_cycle, cosine, step, constant"
    ):
        make_schedule(settings(schedule="linear"), 10)
    with pytest.raises(ValueError, match="unknown optimizer 'adam'; there are: sgd, adamw, lamb"):
        make_optimizer(settings(name="adam"), 10)
    with pytest.raises(ValueError, match="accumulate=0 must be at least 1"):
        make_optimizer(settings(accumulate=0), 10)


PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
GRADIENTS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}


def advance(optimizer, gradients=(GRADIENTS,)):
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_with_nesterov_and_decay_by_hand():
    optimizer = make_optimizer(
        settings(learning_rate=0.1, schedule="constant", warmup_fraction=0.0, momentum=0.9, weight_decay=0.5),
        10,
    )
    params = advance(optimizer)
    # Nesterov: the first step is (1 + momentum) * gradient; decay spares the bias.
    np.testing.assert_allclose(params["kernel"], 1 - 0.1 * 1.9 * (2 + 0.5), rtol=1e-6)
    np.testing.assert_allclose(params["bias"], 1 - 0.1 * 1.9 * 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_decay_spares_the_bias(name):
    rates = {"learning_rate": 0.1, "schedule": "constant", "warmup_fraction": 0.0, "name": name}
    decaying = advance(make_optimizer(settings(weight_decay=1.0, **rates), 10))
    plain = advance(make_optimizer(settings(weight_decay=0.0, **rates), 10))
    np.testing.assert_array_equal(decaying["bias"], plain["bias"])
    if name == "adamw":  # LAMB scales the sum of both to the weight's norm, which equal entries hide
        assert not np.allclose(decaying["kernel"], plain["kernel"])


def test_clipping_limits_the_global_norm():
    rates = {"learning_rate": 1.0, "schedule": "constant", "warmup_fraction": 0.0, "momentum": 0.0}
    params = advance(make_optimizer(settings(clip_norm=1.0, weight_decay=0.0, nesterov=False, **rates), 10))
    moved = jax.tree.map(lambda new, old: new - old, params, PARAMS)
    assert optax.tree.norm(moved) == pytest.approx(1.0, rel=1e-5)


def test_accumulation_makes_one_update_of_the_mean():
    rates = {"learning_rate": 0.1, "schedule": "constant", "warmup_fraction": 0.0, "weight_decay": 0.0}
    parts = [jax.tree.map(lambda g, s=s: g * s, GRADIENTS) for s in (0.5, 1.5)]
    accumulated = advance(make_optimizer(settings(accumulate=2, **rates), 10), parts)
    whole = advance(make_optimizer(settings(**rates), 10))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), accumulated, whole)


def test_averages_of_parameters_and_statistics_are_what_is_evaluated():
    optimizer, statistics = make_optimizer(settings(), 10), {"mean": jnp.zeros(3), "k": jnp.int32(7)}
    plain = create_state(PARAMS, statistics, optimizer, ema=False)
    assert evaluated(plain) == (plain.params, plain.model_state) and averaged(plain, 0.9) == ()
    state = create_state(PARAMS, statistics, optimizer, ema=True)
    assert evaluated(state) is state.ema
    later = state._replace(
        params=jax.tree.map(lambda p: p + 1, PARAMS), model_state={"mean": jnp.ones(3), "k": jnp.int32(8)}
    )
    params, model_state = averaged(later, 0.75)
    jax.tree.map(lambda p, old: np.testing.assert_allclose(p, old + 0.25, rtol=1e-6), params, PARAMS)
    np.testing.assert_allclose(model_state["mean"], 0.25)
    assert int(model_state["k"]) == 8  # a setting, not a statistic
    jax.tree.map(np.testing.assert_array_equal, averaged(later, 1.0)[0], PARAMS)
