"""What OpenAI's image parameters come to: the nearest aspect ratio that a model takes, and how large it draws."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import attrs

from agm.dialects.base import BadParameter

__all__ = ["Abilities", "abilities", "aspect_ratio", "resolution"]

_SIZE = re.compile(r"([1-9]\d{0,4})\s*[x×X*]\s*([1-9]\d{0,4})")
_RATIO = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})")
_IMAGEN = ("1:1", "3:4", "4:3", "9:16", "16:9")
_GEMINI = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
#: What OpenAI calls a quality, as people know it from other gateways.
QUALITIES: Mapping[str, str] = {
    "hd": "4K",
    "high": "4K",
    "medium": "2K",
    "standard": "1K",
    "low": "1K",
    "auto": "1K",
}


@attrs.frozen
class Abilities:
    """What a model takes: aspect ratios, how large it draws (the first unasked), and whether it is Imagen."""

    ratios: tuple[str, ...]
    sizes: tuple[str, ...]
    imagen: bool = False
    #: Pictures of one call at most.
    most: int = 1


#: By how a model's name begins; the first that fits counts.
_ABILITIES: tuple[tuple[str, Abilities], ...] = (
    ("imagen-4.0-fast", Abilities(_IMAGEN, ("1K",), imagen=True, most=4)),
    ("imagen-4", Abilities(_IMAGEN, ("1K", "2K"), imagen=True, most=4)),
    ("imagen", Abilities(_IMAGEN, ("1K",), imagen=True, most=4)),
    ("gemini-2", Abilities(_GEMINI, ("1K",))),
    (
        "gemini-3.1-flash-image",
        Abilities((*_GEMINI, "1:4", "4:1", "1:8", "8:1"), ("1K", "2K", "4K")),
    ),
    ("gemini", Abilities(_GEMINI, ("1K", "2K", "4K"))),
)
_UNKNOWN = Abilities(_GEMINI, ("1K", "2K", "4K"))


def abilities(model: str) -> Abilities:
    """Return what a model takes; one that is not known may take everything, and Google says what it does not."""
    bare = model.rpartition("/")[2]
    return next((found for start, found in _ABILITIES if bare.startswith(start)), _UNKNOWN)


def aspect_ratio(size: str | None, takes: Abilities) -> str | None:
    """
    Return the aspect ratio nearest to a size: any ``WxH``, or a ratio; None where the model is to choose.

    :raises BadParameter: if it is no size.
    """
    if size in (None, "auto"):
        return None
    match = _SIZE.fullmatch(size) or _RATIO.fullmatch(size)
    if match is None:
        raise BadParameter("size", f"{size[:40]!r} is no size; write WIDTHxHEIGHT, like 1024x1536.")
    wanted = math.log(int(match[1]) / int(match[2]))

    def distance(ratio: str) -> float:
        width, height = map(int, ratio.split(":"))
        return abs(math.log(width / height) - wanted)

    return min(takes.ratios, key=distance)


def resolution(quality: str | None, model: str, takes: Abilities) -> str | None:
    """
    Return how large a picture of a quality is: ``4K``, ``2K``, or None for what the model draws unasked.

    :raises BadParameter: if there is no such quality, or the model does not draw as large.
    """
    if quality is None:
        return None
    size = QUALITIES.get(quality)
    if size is None:
        raise BadParameter("quality", f"one of {', '.join(QUALITIES)} is expected, not {quality[:40]!r}.")
    if size not in takes.sizes:
        less = ", ".join(name for name, one in QUALITIES.items() if one in takes.sizes)
        raise BadParameter("quality", f"{quality} is {size}, which {model[:80]} does not draw; it has {less}.")
    return None if size == takes.sizes[0] else size
