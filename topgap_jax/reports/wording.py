"""Figures as people read them."""

from topgap_jax.reports.comparison import Figure, Interval

MISSING = "–"


def value_text(figure: Figure | None, unit: str) -> str:
    """96.1%, 0.412, 1,234,567, 12.3 ms, 1 min 24 s; a dash where there is none."""
    return MISSING if figure is None else _number(figure.value, unit)


def interval_text(figure: Figure | None, unit: str) -> str:
    """ "95.2 to 96.9" in the unit of the figure, empty where no interval is known."""
    if figure is None or figure.interval is None:
        return ""
    return _interval(figure.interval, unit, sign="")


def difference_text(figure: Figure | None, unit: str) -> str:
    """+1.2 points for shares, otherwise signed and in the figure's unit."""
    if figure is None:
        return MISSING
    if unit == "share":
        return f"{signed(figure.value * 100, '.1f')} points"
    if unit == "fraction":
        return signed(figure.value, ".3f")
    if unit == "number":
        return signed(figure.value, ",.0f")
    sign = "−" if figure.value < 0 else "+"
    return sign + _number(abs(figure.value), unit)


def difference_interval_text(figure: Figure | None, unit: str) -> str:
    """ "−0.3 to +2.7", empty where no interval is known."""
    if figure is None or figure.interval is None:
        return ""
    return _interval(figure.interval, unit, sign="+")


def seconds_text(seconds: float) -> str:
    """12.3 s, 1 min 24 s."""
    return _number(seconds, "seconds")


def signed(value: float, spec: str) -> str:
    """+1.2, −0.3; what rounds to zero has no sign."""
    text = f"{value:+{spec}}"
    return text.replace("-", "−") if float(text.replace(",", "")) != 0 else f"{0:{spec}}"


def percent(share: float) -> str:
    return f"{share * 100:.1f}%"


def points(share: float) -> str:
    """The size of a difference, "1.2 points"."""
    return f"{abs(share) * 100:.1f} points"


def listing(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return percent(value)
    if unit == "fraction":
        return f"{value:.3f}"
    if unit == "number":
        return f"{value:,.0f}"
    if unit == "milliseconds":
        return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"


def _interval(interval: Interval, unit: str, sign: str) -> str:
    scale, spec = (100, ".1f") if unit == "share" else (1, ".3f")
    low, high = (signed(end * scale, spec) if sign else f"{end * scale:{spec}}" for end in interval)
    return f"{low} to {high}"
