"""Numbers as tables print them. Nothing here needs more than Python."""

import math


def magnitude(value: float) -> str:
    """A count as the paper prints it: 6.6 K, 9.6 M."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f}"


def fixed(value: float | None) -> str:
    """A result with two decimals; a dash where there is none (None or NaN)."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference, with its sign and two decimals; a dash where there is none (NaN)."""
    return "–" if math.isnan(value) else f"{round(value, 2) or 0.0:+.2f}".replace("-", "−")  # no −0.00
