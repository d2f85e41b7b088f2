"""Reports of the engine (statistics, check, snapshot), as a person reads them."""

from collections.abc import Mapping
from typing import Any

from thermae.bench.units import readable_quantity


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested members as ``outer.inner``, for a table of two columns."""
    flat: dict[str, Any] = {}
    for name, member in mapping.items():
        if isinstance(member, Mapping):
            flat.update(flattened(member, f"{prefix}{name}."))
        else:
            flat[prefix + name] = member
    return flat


def readable(name: str, value: Any) -> str:
    """A figure in the units that the end of its name says."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, (int, float)):
        if name.endswith("_bytes") or "_bytes_" in name:
            return readable_quantity(value, "B")
        if name.endswith("_ms"):
            return f"{value:,.3g} ms" if isinstance(value, float) else f"{value:,} ms"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    if isinstance(value, list):
        return ", ".join(str(member) for member in value) or "-"
    return str(value)
