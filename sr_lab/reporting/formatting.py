"""Format numbers and names for tables."""

import math
from decimal import ROUND_HALF_UP, Decimal


def fixed(value: float | None, decimals: int) -> str:
    """A number rounded half up, as in papers; ``-`` if it is missing."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def signed(value: float | None, decimals: int) -> str:
    """A difference with its sign; empty if it is missing, without a sign if it rounds to zero."""
    if value is None:
        return ""
    text = fixed(value, decimals)
    if not text.strip("-0."):
        return text.lstrip("-")
    return text if text.startswith("-") or text == "nan" else f"+{text}"


def shortened(text: str, limit: int = 32) -> str:
    """A string cut in its middle to ``limit`` characters; more of the end is kept, as names differ there."""
    start = limit // 4
    return text if len(text) <= limit else f"{text[:start]}…{text[len(text) - limit + start + 1 :]}"
