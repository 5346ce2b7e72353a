"""The primitives that subjects of the mini world are made of, and the table the ray marcher reads.

Right-handed coordinates, y up, the ground at y = 0. A subject faces +z; seen from its front, +x is right.
"""

import math

import numpy as np

# Column layout of the part table, one row per primitive.
# REACH: radius of a ball around it. GIRTH: how thick it is.
KIND, CENTRE, TURN, SIZE, ROUND, BLEND, MATERIAL, WRAP, REACH, GIRTH, COLUMNS = (
    0,
    1,
    4,
    13,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
)

ELLIPSOID, BOX, CYLINDER, TORUS, CONE, CUP, LIMB, GABLE = range(8)

# Materials: the two colours of the subject's identity, then fixed ones. Those of a second subject in the same
# scene follow, in the same order.
PRIMARY, SECONDARY, DARK, LIGHT, ORANGE, GLOW, GLASS, RED, YELLOW, PINK = range(10)
MATERIALS = 10

# How the pattern lies on a part: not at all, round the y or z axis, flat with y (or z) as length.
NONE, ROUND_Y, ROUND_Z, FLAT_Y, FLAT_Z = range(5)

Vector = tuple[float, float, float]
UP: Vector = (0.0, 1.0, 0.0)


def mix(low: float, high: float, share: float) -> float:
    """Return the value `share` (0..1) of the way from `low` to `high`."""
    return low + (high - low) * share


def turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3) that turns by `x`, then `y`, then `z` degrees about those axes."""
    sines, cosines = np.sin(np.radians((x, y, z))), np.cos(np.radians((x, y, z)))
    about_x = np.array([[1, 0, 0], [0, cosines[0], -sines[0]], [0, sines[0], cosines[0]]])
    about_y = np.array([[cosines[1], 0, sines[1]], [0, 1, 0], [-sines[1], 0, cosines[1]]])
    about_z = np.array([[cosines[2], -sines[2], 0], [sines[2], cosines[2], 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _turn_y_to(direction: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) whose y axis is the unit vector `direction`."""
    side = np.cross(direction, (0.0, 0.0, 1.0))
    if np.linalg.norm(side) < 1e-6:
        side = np.array((1.0, 0.0, 0.0))
    side = side / np.linalg.norm(side)
    return np.stack([side, direction, np.cross(side, direction)], axis=1)


class Body:
    """A list of parts in the making; `table()` scales it to a common size and stands it on the ground."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def ellipsoid(self, centre: Vector, radii: Vector | float, **look) -> None:
        """Add an ellipsoid with half-axes `radii`, or a ball when one number is given."""
        self._add(ELLIPSOID, centre, (radii,) * 3 if isinstance(radii, int | float) else radii, **look)

    def box(self, centre: Vector, half: Vector, rounding: float = 0.03, **look) -> None:
        """Add a box with half-sides `half` and edges rounded by `rounding`."""
        self._add(BOX, centre, half, rounding=rounding, **look)

    def cylinder(self, centre: Vector, radius: float, half: float, rounding: float = 0.02, **look) -> None:
        """Add an upright cylinder `2 * half` high."""
        self._add(CYLINDER, centre, (radius, half), rounding=rounding, **look)

    def torus(self, centre: Vector, radius: float, tube: float, **look) -> None:
        """Add a ring lying flat: `radius` to the middle of a tube of radius `tube`."""
        self._add(TORUS, centre, (radius, tube), **look)

    def cone(self, centre: Vector, bottom: float, half: float, top: float, **look) -> None:
        """Add an upright frustum with radius `bottom` below and `top` above, `2 * half` high."""
        self._add(CONE, centre, (bottom, half, top), **look)

    def cup(self, centre: Vector, bottom: float, half: float, top: float, wall: float, **look) -> None:
        """Add a frustum that is hollow and open above, with walls `wall` thick."""
        self._add(CUP, centre, (bottom, half, top, wall), **look)

    def limb(self, start: Vector, end: Vector, thick: float, thin: float | None = None, **look) -> None:
        """Add a round-ended limb of radius `thick` at `start` and `thin` (default the same) at `end`."""
        begin, finish = np.array(start, float), np.array(end, float)
        length = float(np.linalg.norm(finish - begin))
        thin = thick if thin is None else thin
        if abs(thick - thin) > 0.9 * length:
            thin = thick + math.copysign(0.9 * length, thin - thick)
        turned = _turn_y_to((finish - begin) / length)
        self._add(LIMB, tuple((begin + finish) / 2), (thick, thin, length), turned=turned, **look)

    def gable(self, centre: Vector, half_width: float, height: float, half_depth: float, **look) -> None:
        """Add a gable roof standing on `centre`, its ridge along z."""
        self._add(GABLE, centre, (half_width, height, half_depth), **look)

    def _add(
        self,
        kind: int,
        centre: Vector,
        sizes: tuple[float, ...],
        *,
        colour: int = PRIMARY,
        wrap: int = NONE,
        blend: float = 0.0,
        rounding: float = 0.0,
        turned: np.ndarray | None = None,
    ) -> None:
        row = np.zeros(COLUMNS)
        row[KIND], row[CENTRE : CENTRE + 3] = kind, centre
        row[TURN : TURN + 9] = (np.eye(3) if turned is None else turned.T).ravel()
        row[SIZE : SIZE + len(sizes)] = sizes
        row[ROUND], row[BLEND], row[MATERIAL], row[WRAP] = rounding, blend, colour, wrap
        half = _half_sides(row)
        row[REACH] = max(half) if kind in (ELLIPSOID, TORUS, LIMB) else np.linalg.norm(half)
        row[GIRTH] = (half[0] + (sizes[2] if kind in (CONE, CUP) else half[2])) / 2
        self._rows.append(row)

    def rows(self) -> np.ndarray:
        """Return the parts (n, COLUMNS) float64 as they were added."""
        return np.stack(self._rows)

    def table(self) -> np.ndarray:
        """Return the parts (n, COLUMNS) float64, standing on y = 0, scaled to fill the unit sphere well."""
        rows = self.rows()
        low, high = bounds(rows)
        half = (high - low) / 2
        # A bounding sphere leaves cubes small in the frame, so height and width count on their own.
        scale = 1.0 / max(1.12 * half[1], 0.98 * math.hypot(half[0], half[2]))
        middle = (low + high) / 2
        rows[:, CENTRE : CENTRE + 3] = (rows[:, CENTRE : CENTRE + 3] - (middle[0], low[1], middle[2])) * scale
        rows[:, [*range(SIZE, SIZE + 4), ROUND, BLEND, REACH, GIRTH]] *= scale
        return rows[np.argsort(-rows[:, REACH], kind="stable")]


def moved(
    table: np.ndarray, shift: np.ndarray, scale: float = 1.0, turned: np.ndarray | None = None, owner: int = 0
) -> np.ndarray:
    """Parts (n, COLUMNS) turned about the origin by `turned` (3, 3), scaled, shifted by (3,), as subject `owner`."""
    rotation, rows = np.eye(3) if turned is None else turned, table.copy()
    rows[:, CENTRE : CENTRE + 3] = scale * rows[:, CENTRE : CENTRE + 3] @ rotation.T + shift
    local = rows[:, TURN : TURN + 9].reshape(-1, 3, 3) @ rotation.T
    rows[:, TURN : TURN + 9] = local.reshape(-1, 9)
    rows[:, [*range(SIZE, SIZE + 4), ROUND, BLEND, REACH, GIRTH]] *= scale
    rows[:, MATERIAL] += MATERIALS * owner
    return rows


def bounds(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of an axis-aligned box around all parts of `table`."""
    centres = table[:, CENTRE : CENTRE + 3]
    extents = np.stack([_axis_extent(row) for row in table])
    return (centres - extents).min(0), (centres + extents).max(0)


def _axis_extent(row: np.ndarray) -> np.ndarray:
    """Half-sides of the axis-aligned box around one part."""
    rotation, half = row[TURN : TURN + 9].reshape(3, 3).T, _half_sides(row)
    if row[KIND] == ELLIPSOID:
        return np.sqrt(((rotation * half) ** 2).sum(1))
    return np.abs(rotation) @ half


def _half_sides(row: np.ndarray) -> np.ndarray:
    """Half-sides of the box around one part, in the part's own frame."""
    a, b, c = row[SIZE : SIZE + 3]
    widest = max(a, c)
    by_kind = {
        TORUS: (a + b, b, a + b),
        CYLINDER: (a, b, a),
        CONE: (widest, b, widest),
        CUP: (widest, b, widest),
        LIMB: (max(a, b), c / 2 + max(a, b), max(a, b)),
    }
    return np.array(by_kind.get(int(row[KIND]), (a, b, c)))
