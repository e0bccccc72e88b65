"""Numbers, times and foreign text as every view writes them."""

from __future__ import annotations

import math
import re

NONE = "–"
"""What stands where there is no number."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\ud800-\udfff]")


def number(value: float | None) -> str:
    """A number as people read it; a dash for none."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}"


def signed(value: float | None) -> str:
    """A distance, with its sign."""
    text = number(value)
    return text if value is None or math.isnan(value) or value < 0 else f"+{text}"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float) -> str:
    """An amount of memory as people read it."""
    return f"{megabytes:,.0f} MB" if megabytes < 10_000 else f"{megabytes / 1024:.1f} GB"


def clean(text: object) -> str:
    """The text without control characters and halves of characters, which no page can hold."""
    return CONTROL.sub("\ufffd", str(text))


def short(title: str) -> str:
    """A title without what it says in brackets."""
    return title.split(" (")[0]
