"""What stands in a scene besides one subject at rest: accessories, a second subject, and poses.

All of it becomes rows of one part table, which the ray marcher draws like a single subject.
"""

import numpy as np

from modalities.mini.parts import (
    CENTRE,
    CUP,
    DARK,
    GIRTH,
    KIND,
    LIGHT,
    ORANGE,
    PINK,
    RED,
    YELLOW,
    Body,
    bounds,
    moved,
    turn,
)

RELATIONS = ("on", "beside", "in front of", "behind", "inside")
ACCESSORIES = ("red hat", "top hat", "santa hat", "party hat", "pink glasses")

# A subject that stands on another, or in it, is that much smaller than it.
_ON_TOP, _INSIDE = 0.66, 0.6
_GRID = 15


def dressed(table: np.ndarray, accessory: str) -> np.ndarray:
    """The subject `table` (n, COLUMNS) wearing one of `ACCESSORIES`, fitted to its form."""
    if accessory == "pink glasses":
        parts = _glasses(table)
    else:
        crown, width = _crown(table)
        parts = _hat(accessory, crown, width)
    return np.concatenate([table, parts])


def _hat(kind: str, crown: np.ndarray, width: float) -> np.ndarray:
    body, (x, y, z) = Body(), crown.tolist()
    if kind == "top hat":
        body.cylinder((x, y + 0.02, z), width * 1.45, 0.03, colour=DARK)
        body.cylinder((x, y + 0.05 + width * 0.8, z), width * 0.9, width * 0.8, colour=DARK)
        body.cylinder((x, y + 0.05 + width * 0.3, z), width * 0.93, width * 0.18, colour=RED)
    elif kind == "red hat":
        body.cylinder((x, y + 0.02, z), width * 1.7, 0.035, colour=RED)
        body.ellipsoid((x, y + 0.05, z), (width, width * 0.95, width), colour=RED)
    elif kind == "santa hat":
        body.torus((x, y + 0.03, z), width * 0.95, 0.085, colour=LIGHT)
        body.limb((x, y + 0.04, z), (x + width * 0.35, y + width * 2.1, z), width * 0.95, 0.06, colour=RED)
        body.ellipsoid((x + width * 0.4, y + width * 2.2, z), 0.12, colour=LIGHT)
    else:
        body.limb((x, y, z), (x, y + width * 2.4, z), width * 0.9, 0.03, colour=YELLOW)
        body.torus((x, y + width * 0.9, z), width * 0.62, 0.045, colour=RED)
        body.ellipsoid((x, y + width * 2.45, z), 0.1, colour=ORANGE)
    return body.rows()


def _glasses(table: np.ndarray) -> np.ndarray:
    """Two rimmed lenses before whatever the subject has for a face."""
    from modalities.mini.raymarch import hit

    low, high = bounds(table)
    height = 0.7 * high[1]
    depths = [hit(table, side * 0.2, height, high[2] + 0.1, 0.0, 0.0, -1.0, high[2] - low[2]) for side in (-1, 1)]
    reached = [depth for depth in depths if depth >= 0]
    front = high[2] + 0.1 - (min(reached) if reached else 0.3) + 0.03
    body = Body()
    for side in (-1, 1):
        body.ellipsoid((side * 0.21, height, front + 0.01), (0.15, 0.13, 0.045), colour=DARK)
        upright = turn(x=90)
        body.torus((side * 0.21, height, front), 0.16, 0.05, colour=PINK, turned=upright)
    body.limb((-0.07, height, front), (0.07, height, front), 0.045, colour=PINK)
    return body.rows()


def _crown(table: np.ndarray) -> tuple[np.ndarray, float]:
    """Where a hat sits (3,) and its half-width: the highest place that is wide enough to carry one."""
    from modalities.mini.raymarch import hit

    low, high = bounds(table)
    cups = table[table[:, KIND] == CUP]
    if len(cups):
        # What is hollow carries on its rim.
        centre = cups[0, CENTRE : CENTRE + 3]
        return np.array((centre[0], high[1] - 0.02, centre[2])), float(np.clip(cups[0, GIRTH], 0.2, 0.36))
    across, along = (np.linspace(low[axis], high[axis], _GRID) for axis in (0, 2))
    top = high[1] + 0.05
    depths = np.array([[hit(table, x, top, z, 0.0, -1.0, 0.0, top) for z in along] for x in across])
    heights = np.where(depths < 0, 0.0, top - depths)
    # Antennas and handles are thinner than a hat, so the lowest of nine neighbours counts.
    carried = np.lib.stride_tricks.sliding_window_view(heights, (3, 3)).min(axis=(2, 3))
    row, column = np.argwhere(carried > carried.max() - 0.04).mean(0).round().astype(int)
    if carried[row, column] < carried.max() - 0.15:
        # The highest places lie apart, like a pair of ears: take one of them, not the gap between.
        row, column = np.unravel_index(carried.argmax(), carried.shape)
    level = float(carried[row, column])
    area = float((carried > level - 0.12).mean()) * (high[0] - low[0]) * (high[2] - low[2])
    return np.array((across[row + 1], level - 0.02, along[column + 1])), float(np.clip(np.sqrt(area) * 0.5, 0.2, 0.36))


def placed(table: np.ndarray, other: np.ndarray, relation: str, towards_camera: np.ndarray) -> np.ndarray:
    """Both subjects as one table, the first standing in `relation` to the second.

    towards_camera: unit vector (3,) on the ground, which "beside", "in front of" and "behind" refer to.
    """
    right = np.array((towards_camera[2], 0.0, -towards_camera[0]))
    nowhere = np.zeros(3)
    if relation == "on":
        crown, _ = _crown(other)
        return np.concatenate([moved(table, crown, _ON_TOP), moved(other, nowhere, owner=1)])
    if relation == "inside":
        low, high = bounds(other)
        floor = np.array(((low[0] + high[0]) / 2, 0.72 * high[1], (low[2] + high[2]) / 2)) * (1, 1, 0)
        return np.concatenate([moved(table, floor, _INSIDE), moved(other, nowhere, owner=1)])
    apart = {
        "beside": 0.74 * right,
        "in front of": 0.6 * towards_camera + 0.42 * right,
        "behind": -0.6 * towards_camera - 0.42 * right,
    }[relation]
    return np.concatenate([moved(table, apart, 0.85), moved(other, -apart, 0.85, owner=1)])


def posed(
    table: np.ndarray, shift: np.ndarray, yaw_degrees: float, roll_degrees: float, scale: float, axis: np.ndarray
) -> np.ndarray:
    """A subject turned about its upright middle, rolled about the horizontal `axis` (3,) through it, and shifted.

    It never sinks into the ground: what a roll would put below it lifts the whole.
    """
    middle = np.array((0.0, bounds(table)[1][1] / 2, 0.0))
    rolled = _about(axis, roll_degrees) @ turn(y=yaw_degrees)
    rows = moved(table, scale * (middle - rolled @ middle) if roll_degrees else np.zeros(3), scale, rolled)
    sunk = max(0.0, -float(bounds(rows)[0][1])) if roll_degrees else 0.0
    return moved(rows, shift + np.array((0.0, sunk, 0.0)))


def _about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rotation (3, 3) about a unit axis (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
