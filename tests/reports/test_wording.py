import pytest

from topgap_jax.reports.wording import signed


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [(1.24, ".1f", "+1.2"), (-0.31, ".1f", "−0.3"), (-0.02, ".1f", "0.0"), (-1234.4, ",.0f", "−1,234")],
)
def test_what_rounds_to_zero_has_no_sign(value, spec, text):
    assert signed(value, spec) == text
