"""What a caption says of the motion alone: who moves and how, not what it looks like around it."""

from __future__ import annotations

import re

# Words that begin where something is; "to the left", "over the fence" and "across the road" are part of the motion.
PLACE = r"(?:on|in|at|by|near|under|beside|behind|before|against|inside|within|among|between|amid)"
SETTING = re.compile(rf"[,;]?\s+(?:(?:in front of|next to|{PLACE})\s+(?!a circle\b|circles\b)).*$", re.IGNORECASE)


def without_setting(caption: str) -> str:
    """Leave out where it happens: "a duck jumping on the grass, oil painting" becomes "a duck jumping".

    A caption whose first words say a place, or that would be left with one word, stays whole.
    """
    short = SETTING.sub("", caption)
    return short if len(short.split()) > 1 else caption
