"""Numbers for reading."""


def quantity(value: float) -> str:
    """An operation count: 1.819 G, 0.118 G, 80.2 M, 25.1 k, 0."""
    if abs(value) >= 0.9995e8:
        return f"{value / 1e9:.3f} G"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def millijoules(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.2g}"
