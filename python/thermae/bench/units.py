"""Quantities as people read them. Units are named once, here, and used by every report."""


def readable_quantity(number: float, unit: str) -> str:
    """`number` of `unit` in the magnitude that fits.

    >>> readable_quantity(2.5e-7, "s"), readable_quantity(3, "x"), readable_quantity(1536, "B")
    ('250 ns', '3.0x', '1.5 KiB')
    >>> readable_quantity(1_250_000, "op/s"), readable_quantity(12.345, "%")
    ('1.25 M op/s', '12.35 %')
    """
    if unit == "s":
        return _readable_seconds(number)
    if unit in ("B", "B/s"):
        return _scaled(number, unit, 1024, ("", "Ki", "Mi", "Gi", "Ti"))
    if unit == "op/s":
        return _scaled(number, unit, 1000, ("", "k ", "M ", "G "))
    if unit == "x":
        return (
            f"{number:,.0f}x"
            if abs(number) >= 100
            else f"{number:.1f}x"
            if abs(number) >= 3
            else f"{number:.2f}x"
        )
    if unit == "x as long":
        return f"{number:.2f} times as long"
    if unit in ("%", "points"):
        return f"{number:.2f} {unit}"
    return f"{number:,.0f} {unit}" if float(number).is_integer() else f"{number:,.2f} {unit}"


def _readable_seconds(seconds: float) -> str:
    if seconds == 0:
        return "0 s"
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if abs(seconds) * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:,.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _scaled(number: float, unit: str, step: int, prefixes: tuple[str, ...]) -> str:
    magnitude = 0
    while abs(number) >= step and magnitude < len(prefixes) - 1:
        number /= step
        magnitude += 1
    prefix = prefixes[magnitude]
    digits = (
        f"{number:.0f}"
        if not prefix and float(number).is_integer()
        else f"{number:.3g}"
        if step == 1000
        else f"{number:.1f}"
    )
    return f"{digits} {prefix}{unit}"
