"""Write numbers as text: rounded, with units. An unknown number is a dash, never 0."""

from collections.abc import Sequence

DASH = "–"


def decimal(value: float | None, digits: int = 3) -> str:
    """Return e.g. 0.912."""
    # The minus sign of typography: a hyphen could be broken at the end of a line, and is read as a dash.
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def span(interval: tuple[float, float] | None) -> str:
    """Return e.g. 0.861 to 0.950."""
    return DASH if interval is None else f"{decimal(interval[0])} to {decimal(interval[1])}"


def count(value: float | None) -> str:
    """Return e.g. 222,338."""
    return DASH if value is None else f"{value:,.0f}"


def brief(value: float | None) -> str:
    """Return e.g. 222 k."""
    return DASH if value is None else _scaled(value, ("", " k", " M", " G"))


def size(nbytes: float | None) -> str:
    """Return e.g. 1.7 MB, of 1,000,000 bytes."""
    return DASH if nbytes is None else _scaled(nbytes, (" B", " kB", " MB", " GB", " TB"))


def seconds(value: float | None) -> str:
    """Return e.g. 45 s, 12 min, 3.4 h."""
    if value is None:
        return DASH
    for unit, length in (("h", 3600), ("min", 60)):
        # From twice the unit on: 90 min say more than 1.5 h.
        if value >= 2 * length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.3g} s"


def percent(part: float | None, whole: float | None) -> str:
    """Return e.g. 0.98 %."""
    return DASH if part is None or not whole else f"{100 * part / whole:.3g} %"


def p_value(value: float | None) -> str:
    """Return e.g. 0.032, or "below 0.001"."""
    # Rounded to 0.000, a p-value would read as an impossible one.
    return DASH if value is None else "below 0.001" if value < 0.001 else decimal(value)


def plural(many: int, noun: str) -> str:
    """Return e.g. 1 run, 2 runs."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """Return e.g. A, B and C."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    # 999.5 and above would be written as 1e+03 of the smaller unit.
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g}{units[power]}"
