"""Numbers as people write them: 11.1M images, 8xH200, 5 days."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
AMOUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kKMGBT]?)")
MACHINES = re.compile(r"([1-9][0-9]*)\s*[xX×]\s*([A-Za-z][\w-]*)")


def amount(value: Any) -> float:
    """A number, or a text such as 11.1M, 35k or 1_200. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = AMOUNT.fullmatch(str(value).strip())
    if not found:
        raise ValueError("a number is expected, as 1200, 35k, 11.1M or 1.2B")
    return float(found[1].replace("_", "")) * SCALES[found[2].replace("K", "k")]


Amount = Annotated[float, BeforeValidator(amount), Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Gpus:
    """So many of one model."""

    number: int
    model: str


def gpus(words: str) -> Gpus:
    """Of a text such as 8xH200. Raises ValueError."""
    found = MACHINES.fullmatch(words.strip())
    if not found:
        raise ValueError("a number and a model are expected, as 8xH200")
    return Gpus(int(found[1]), found[2])


def short(value: float) -> str:
    """Three digits and a scale: 11.1M, 35k, 0.0123."""
    if not math.isfinite(value):
        return str(value)
    scale = next((name for name in ("T", "G", "M", "k") if abs(value) >= 0.9995 * SCALES[name]), "")
    digits = value / SCALES[scale]
    return f"{digits:.0f}{scale}" if abs(digits) >= 99.95 else f"{digits:.3g}{scale}"


def size(value: float) -> str:
    """Bytes, in decimal units."""
    units = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    name, scale = next(((name, scale) for name, scale in units if value >= scale), ("kB", 1e3))
    return f"{value / scale:.3g} {name}" if value < 999.5 * scale else f"{value / scale:.0f} {name}"


def duration(seconds: float) -> str:
    """In days, hours, minutes or seconds."""
    for name, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length * (2 if name == "days" else 1):
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.1f} s"
