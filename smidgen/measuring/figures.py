"""Figures as people read them."""

NOT_MEASURED = "not measured"


def size(value: float | None) -> str:
    """Bytes as people write them: 253.1 MB (powers of ten)."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {unit}" if unit == "GB" else f"{value / factor:.1f} {unit}"
    return f"{value:.0f} bytes"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never in exponent form: 0.0617, 1.02, 48.1, 12,345."""
    if value is None:
        return NOT_MEASURED
    if value != 0 and abs(value) < 1e-6:
        return "under 0.000001"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:#.{digits}g}"
    return (f"{value:.{digits + 4}f}".rstrip("0") if "e" in text else text).rstrip(".")


def bits_per_byte(value: float | None) -> str:
    """To four decimals: what a cut costs often shows in the third only. 1.6390."""
    return NOT_MEASURED if value is None else f"{value:.4f}"


def percent(share: float | None) -> str:
    """0.8731 → 87.3%. Never rounded up to 100% or down to 0%."""
    if share is None:
        return NOT_MEASURED
    if 0.9995 <= share < 1 or 0 < share < 0.0005:
        return "over 99.9%" if share > 0.5 else "under 0.1%"
    return f"{100 * share:.1f}%"


def whole(value: float | None) -> str:
    """12,345."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"
