"""Formats text and numbers for pages: text of records is never markup, and rounding errors never show."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

NONE = "—"
"""Placeholder for a missing value."""

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "|": "&#124;"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co"}
_KEPT = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Invisible, but some scripts need them."""
_PLAIN = re.compile(r"[\w .,=\[\]()+/-]+", re.ASCII)


def clean(text: object, limit: int = 200) -> str:
    """One line of printable text without control, format or unpaired characters, at most `limit` long."""
    line = printable(" ".join(str(text)[: 4 * limit].split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable(text: object) -> str:
    """Text with its lines, without invisible characters and those that could control a terminal."""
    shown = str(text)
    if shown.isprintable():  # true of nearly all texts; the rest is slow
        return shown
    hidden = (unicodedata.category(c) in _UNSEEN and c not in _KEPT for c in shown)
    return "".join("\N{REPLACEMENT CHARACTER}" if hide else c for c, hide in zip(shown, hidden, strict=True))


def escape(text: object, limit: int = 300) -> str:
    """Text for any place within a line of Markdown, a table included, with all markup escaped."""
    marked = re.sub(r"[\\`*_{}\[\]()#!~$^]|:(?=\S)", r"\\\g<0>", clean(text, limit))
    marked = "".join(_HTML.get(c, c) for c in marked)
    marked = re.sub(r"(?i)(?<!\w)www\.", lambda m: m[0][:-1] + "\\.", marked)  # GitHub would make it a link
    return marked.replace("@", "@\N{ZERO WIDTH NON-JOINER}")  # GitHub would make it a mail address


def code(text: object, limit: int = 120) -> str:
    """A name in a line of Markdown, a table included: a code span if nothing in it needs escaping."""
    name = clean(text, limit)
    return f"`{name}`" if _PLAIN.fullmatch(name) and name.strip() else escape(text, limit)


def rounded(value: float) -> float:
    """The value to 10 significant digits, so that output does not depend on a machine's order of summation."""
    return float(f"{value:.10g}")


def number(value: float | None, decimals: int) -> str:
    """A number with a fixed count of decimals; very large ones in powers of ten."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{rounded(value):.{decimals}f}" if abs(value) < 1e6 else f"{rounded(value):.3g}"
    if text.startswith("-") and not float(text):
        text = text[1:]
    return text.replace("-", "\N{MINUS SIGN}")


def decimals_for(half_widths: Iterable[float]) -> int:
    """Decimals that show the first digit of a typical half width: 1 to 4."""
    known = sorted(w for w in half_widths if math.isfinite(w) and w > 0)
    return min(max(-math.floor(math.log10(rounded(known[len(known) // 2]))), 1), 4) if known else 1


def value(number: float) -> str:
    """A setting as short as it goes."""
    return f"{number:g}".replace("-", "\N{MINUS SIGN}") if number < 0 else f"{number:g}"


def seconds(value: float | None) -> str:
    """A duration in a suitable unit."""
    for limit, unit in ((120.0, "s"), (7200.0, "min"), (math.inf, "h")):
        if value is None or not math.isfinite(value) or value < 0:
            break
        if value < limit:
            return _three_digits(value / {"s": 1, "min": 60, "h": 3600}[unit], unit)
    return NONE


def amount(value: float | None) -> str:
    """A count in thousands, millions or billions."""
    return _scaled(value, 1000.0, ("", "k", "M", "G", "T"))


def money(value: float | None) -> str:
    """An amount of money, without its currency."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{rounded(value):.2f}" if 1 <= value < 1e6 else f"{rounded(value):.2g}"


def energy(value: float | None) -> str:
    """Watt-hours in a suitable unit."""
    return _scaled(None if value is None else 1000 * value, 1000.0, ("mWh", "Wh", "kWh", "MWh"))


def size(value: float | None) -> str:
    """Bytes in binary units."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def p(value: float) -> str:
    """A p-value."""
    return "<0.001" if value < 0.001 else f"{rounded(value):.3f}" if value < 0.1 else f"{rounded(value):.2f}"


def _scaled(value: float | None, base: float, units: tuple[str, ...]) -> str:
    if value is None or not math.isfinite(value) or value < 0:
        return NONE
    power = 0
    while value >= base and power < len(units) - 1:
        value /= base
        power += 1
    return _three_digits(value, units[power])


def _three_digits(value: float, unit: str) -> str:
    value = rounded(value)
    text = (
        f"{value:.0f}" if value >= 99.5 or value == int(value) else f"{value:.1f}" if value >= 9.95 else f"{value:.2g}"
    )
    return f"{text} {unit}".strip() if value < 1e6 else f"{value:.3g} {unit}".strip()
