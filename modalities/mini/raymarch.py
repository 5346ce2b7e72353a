"""Sphere tracing of part tables, compiled with numba: distance field, shading, picture, mask and depth.

`distance` is the signed distance field itself; whatever needs the solid (a mesh, a collision) can use it.
"""

import math

import numpy as np

from modalities.core.errors import PcsError
from modalities.mini import parts
from modalities.mini.backdrops import backdrop

try:
    from numba import njit
except ImportError as error:
    raise PcsError("Rendering the mini world needs numba: pip install 'pcs-cli[world]'.") from error

BOX, CYLINDER, TORUS, CONE, CUP, LIMB = (
    parts.BOX,
    parts.CYLINDER,
    parts.TORUS,
    parts.CONE,
    parts.CUP,
    parts.LIMB,
)
ELLIPSOID = parts.ELLIPSOID
GLOW, MATERIALS = parts.GLOW, parts.MATERIALS
HALF_VIEW = math.tan(math.radians(20.0))
TILE = 8
FAR = 1e9


@njit(fastmath=True, inline="always")
def _revolved(kind, p, i, x, y, z):
    """Distance to the parts that are turned about their y axis."""
    a, b, c, rounding = p[i, 13], p[i, 14], p[i, 15], p[i, 17]
    q = math.sqrt(x * x + z * z)
    if kind == CYLINDER:
        u, v = q - a + rounding, abs(y) - b + rounding
        return min(max(u, v), 0.0) + math.sqrt(max(u, 0.0) ** 2 + max(v, 0.0) ** 2) - rounding
    if kind == TORUS:
        return math.sqrt((q - a) ** 2 + y * y) - b
    if kind == LIMB:
        y += c / 2
        slope = (a - b) / c
        side = math.sqrt(1 - slope * slope)
        along = -slope * q + side * y
        if along < 0:
            return math.sqrt(q * q + y * y) - a
        if along > side * c:
            return math.sqrt(q * q + (y - c) ** 2) - b
        return q * side + y * slope - a
    slant = math.sqrt(1 + ((c - a) / (2 * b)) ** 2)
    radius = a + (c - a) * (min(max(y, -b), b) + b) / (2 * b)
    d = max((q - radius) / slant, abs(y) - b)
    if kind == CUP:
        wall = p[i, 16]
        d = max(d, -max((q - radius + wall) / slant, wall - y - b))
    return d


@njit(fastmath=True, inline="always")
def _part_distance(p, i, x, y, z):
    """Signed distance from a point to part `i`; a lower bound for ellipsoids and gables."""
    dx, dy, dz = x - p[i, 1], y - p[i, 2], z - p[i, 3]
    lx = p[i, 4] * dx + p[i, 5] * dy + p[i, 6] * dz
    ly = p[i, 7] * dx + p[i, 8] * dy + p[i, 9] * dz
    lz = p[i, 10] * dx + p[i, 11] * dy + p[i, 12] * dz
    kind = int(p[i, 0])
    a, b, c = p[i, 13], p[i, 14], p[i, 15]
    if kind == ELLIPSOID:
        lx, ly, lz = lx / a, ly / b, lz / c
        near = math.sqrt(lx * lx + ly * ly + lz * lz)
        lx, ly, lz = lx / a, ly / b, lz / c
        slope = math.sqrt(lx * lx + ly * ly + lz * lz)
        return near * (near - 1) / slope if slope > 1e-6 else -min(a, b, c)
    if kind == BOX:
        rounding = p[i, 17]
        u, v, w = abs(lx) - a + rounding, abs(ly) - b + rounding, abs(lz) - c + rounding
        outside = math.sqrt(max(u, 0.0) ** 2 + max(v, 0.0) ** 2 + max(w, 0.0) ** 2)
        return outside + min(max(u, max(v, w)), 0.0) - rounding
    if kind <= LIMB:
        return _revolved(kind, p, i, lx, ly, lz)
    return max(max((abs(lx) * b + ly * a - a * b) / math.sqrt(a * a + b * b), -ly), abs(lz) - c)


@njit(fastmath=True, cache=True)
def distance(p, x, y, z):
    """Signed distance from a point to the subject with part table `p`, and the index of the nearest part."""
    d, nearest, own = FAR, 0, FAR
    for i in range(p.shape[0]):
        dx, dy, dz = x - p[i, 1], y - p[i, 2], z - p[i, 3]
        blend = p[i, 18]
        limit = d + p[i, 21] + blend
        if limit > 0 and dx * dx + dy * dy + dz * dz > limit * limit:
            continue  # its bounding ball is farther than what was found already
        e = _part_distance(p, i, x, y, z)
        if e < own:
            own, nearest = e, i
        if blend > 0 and abs(d - e) < blend:
            h = 0.5 + 0.5 * (d - e) / blend
            d = d + (e - d) * h - blend * h * (1 - h)
        elif e < d:
            d = e
    return d, nearest


@njit(fastmath=True, cache=True)
def _gradient(p, x, y, z):
    """Unit normal of the field, from four samples of a tetrahedron."""
    e = 0.004
    a, _ = distance(p, x + e, y - e, z - e)
    b, _ = distance(p, x - e, y - e, z + e)
    c, _ = distance(p, x - e, y + e, z - e)
    d, _ = distance(p, x + e, y + e, z + e)
    nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
    scale = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-18)
    return nx * scale, ny * scale, nz * scale


@njit(fastmath=True, cache=True)
def _march(p, ox, oy, oz, dx, dy, dz, start, end):
    """Length along a ray to the subject and the part hit; -1 when it is missed."""
    t = start
    for _ in range(56):
        d, part = distance(p, ox + dx * t, oy + dy * t, oz + dz * t)
        if d < 0.003:
            return t, part
        t += d * 0.92
        if t > end:
            break
    return -1.0, 0


def hit(p, ox, oy, oz, dx, dy, dz, end):
    """Length along the ray from (ox, oy, oz) along the unit (dx, dy, dz) to the subject; -1 if there is none."""
    return _march(p, ox, oy, oz, dx, dy, dz, 0.0, end)[0]


@njit(fastmath=True, cache=True)
def _lit(p, x, y, z, lx, ly, lz):
    """Share of the light (0..1) that reaches a point; soft at the shadow's edge."""
    open_ = 1.0
    t = 0.03
    for _ in range(22):
        d, _part = distance(p, x + lx * t, y + ly * t, z + lz * t)
        if d < 0.003:
            return 0.0
        open_ = min(open_, 10.0 * d / t)
        t += max(d, 0.025)
        if t > 2.4:
            break
    return open_


@njit(fastmath=True, cache=True)
def _second_colour(p, i, pattern, period, x, y, z, nx, ny, nz):
    """True where the pattern shows the second colour at a point of part `i`."""
    wrap = int(p[i, 20])
    cx, cy, cz = x - p[i, 1], y - p[i, 2], z - p[i, 3]
    if wrap == 1 or wrap == 2:
        along = y if wrap == 1 else z
        angle = math.atan2(cz, cx) if wrap == 1 else math.atan2(cy, cx)
        repeats = max(4.0, 2.0 * math.floor(math.pi * p[i, 22] / period + 0.5))
        across = angle / (2 * math.pi) * repeats
        along = along / period
    else:
        ax, ay, az = abs(nx), abs(ny), abs(nz)
        if wrap == 3:
            along, across = (z, x) if ay > max(ax, az) else (y, z if ax > az else x)
        else:
            along, across = (x, y) if az > max(ax, ay) else (z, y if ax > ay else x)
        along, across = along / period, across / period
    if pattern == 1:
        return along - math.floor(along) < 0.5
    if pattern == 2:
        row = math.floor(along)
        u = across + 0.5 * (row % 2)
        u, v = u - math.floor(u) - 0.5, along - row - 0.5
        return u * u + v * v < 0.1
    return (math.floor(2 * across) + math.floor(2 * along)) % 2 == 0


@njit(fastmath=True, cache=True)
def _shade(p, colours, looks, light, part, x, y, z, dx, dy, dz):
    """Colour of the subject at a point of part `part`, seen along direction (dx, dy, dz)."""
    nx, ny, nz = _gradient(p, x, y, z)
    material = int(p[part, 19])
    owner = material // MATERIALS
    pattern, period = looks[owner, 0], looks[owner, 1]
    if pattern > 0 and p[part, 20] > 0 and _second_colour(p, part, pattern, period, x, y, z, nx, ny, nz):
        material = owner * MATERIALS + 1
    lx, ly, lz, ambient, sun = light[0], light[1], light[2], light[3], light[4]
    facing = nx * lx + ny * ly + nz * lz
    direct = 0.0
    if facing > 0:
        direct = facing * _lit(p, x + nx * 0.012, y + ny * 0.012, z + nz * 0.012, lx, ly, lz)
    near, _ = distance(p, x + nx * 0.12, y + ny * 0.12, z + nz * 0.12)
    crease = min(1.0, 0.55 + 0.45 * max(near, 0.0) / 0.12) * min(1.0, 0.7 + y * 1.2)
    shade = ambient * (0.78 + 0.22 * ny) * crease + sun * direct
    hx, hy, hz = lx - dx, ly - dy, lz - dz
    half = (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
    gloss = looks[owner, 2] * sun * max(half, 0.0) ** 30 if direct > 0 else 0.0
    shade *= looks[owner, 3]
    if material % MATERIALS == GLOW:
        shade, gloss = max(shade, 0.95), 0.0
    r = colours[material, 0] * shade * light[5] + gloss
    g = colours[material, 1] * shade * light[6] + gloss
    b = colours[material, 2] * shade * light[7] + gloss
    return r, g, b


@njit(fastmath=True, cache=True)
def _ground_light(p, light, x, z):
    """How bright the ground is at (x, 0, z): shadow of the subject and darkening where it stands."""
    lx, ly, lz = light[0], light[1], light[2]
    open_, crease = 1.0, 1.0
    # Where the shadow of the unit ball that holds the subject cannot fall, no ray is needed.
    along = -(x * lx + z * lz) + 0.95 * ly
    off = x * x + z * z + 0.95 * 0.95 - along * along
    if along > 0 and off < 1.6:
        open_ = _lit(p, x, 0.004, z, lx, ly, lz)
    if x * x + z * z < 2.2:
        near, _ = distance(p, x, 0.0, z)
        crease = 0.6 + 0.4 * min(1.0, max(near, 0.0) / 0.22)
    return (light[3] * 0.9 + light[4] * 0.55 * open_ + 0.1) * crease


@njit(fastmath=True, cache=True)
def _tile_starts(p, camera, end, count, starts):
    """For each tile of rays, how far all of them may safely start; -1 when none meets the subject."""
    spread = 1.45 * HALF_VIEW / count
    for row in range(count):
        for column in range(count):
            dx, dy, dz = _ray(camera, (column + 0.5) / count, (row + 0.5) / count)
            t = max(camera[12], 0.05)
            starts[row, column] = -1.0
            for _ in range(48):
                d, _part = distance(p, camera[0] + dx * t, camera[1] + dy * t, camera[2] + dz * t)
                if d < spread * t * 1.1:
                    starts[row, column] = max(t - spread * t * 1.2, 0.05)
                    break
                t += (d - spread * t) * 0.92
                if t > end:
                    break


@njit(fastmath=True, inline="always")
def _ray(camera, across, down):
    """Unit direction of the ray through a point of the picture, both coordinates 0..1 from its upper left."""
    u, v = (2 * across - 1) * HALF_VIEW, (1 - 2 * down) * HALF_VIEW
    dx = camera[3] + camera[6] * u + camera[9] * v
    dy = camera[4] + camera[7] * u + camera[10] * v
    dz = camera[5] + camera[8] * u + camera[11] * v
    scale = 1 / math.sqrt(dx * dx + dy * dy + dz * dz)
    return dx * scale, dy * scale, dz * scale


@njit(fastmath=True, cache=True)
def draw(p, colours, looks, context, variety, light, camera, samples, image, masks, depth):
    """Draw a picture into `image` (n, n, 3), `masks` (subjects, n, n) and `depth` (n, n), all float64 and zeroed.

    colours: (subjects * MATERIALS, 3). looks: by subject its pattern, period, gloss, and share of light it returns.
    camera: position (3), forward (3), right (3), up (3), nearest and farthest distance of the subject.
    light: direction to the sun (3), ambient, sun, tint (3). samples: rays per pixel side.
    """
    size = image.shape[0] * samples
    tiles = size // TILE
    starts = np.zeros((tiles, tiles))
    end = camera[13]
    _tile_starts(p, camera, end, tiles, starts)
    ox, oy, oz = camera[0], camera[1], camera[2]
    share = 1.0 / (samples * samples)
    for row in range(size):
        for column in range(size):
            dx, dy, dz = _ray(camera, (column + 0.5) / size, (row + 0.5) / size)
            ground, r, g, b = backdrop(context, variety, ox, oy, oz, dx, dy, dz)
            t, part = -1.0, 0
            start = starts[row // TILE, column // TILE]
            if start > 0:
                t, part = _march(p, ox, oy, oz, dx, dy, dz, start, end)
            y, x = row // samples, column // samples
            if t > 0 and oy + dy * t > -0.01:
                r, g, b = _shade(
                    p,
                    colours,
                    looks,
                    light,
                    part,
                    ox + dx * t,
                    oy + dy * t,
                    oz + dz * t,
                    dx,
                    dy,
                    dz,
                )
                masks[int(p[part, 19]) // MATERIALS, y, x] += share
                depth[y, x] += share * t
            elif ground > 0:
                bright = _ground_light(p, light, ox + dx * ground, oz + dz * ground)
                r, g, b = r * bright * light[5], g * bright * light[6], b * bright * light[7]
            image[y, x, 0] += r * share
            image[y, x, 1] += g * share
            image[y, x, 2] += b * share


@njit(fastmath=True, cache=True)
def distances(p, xs, ys, zs):
    """Signed distances (len(xs), len(ys), len(zs)) float32 at the points of a grid."""
    values = np.empty((len(xs), len(ys), len(zs)), np.float32)
    for i in range(len(xs)):
        for j in range(len(ys)):
            for k in range(len(zs)):
                values[i, j, k] = distance(p, xs[i], ys[j], zs[k])[0]
    return values


@njit(fastmath=True, cache=True)
def materials(p, pattern, period, points):
    """Material (n,) of the subject at points (n, 3) of its surface."""
    found = np.empty(len(points), np.int64)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        part = distance(p, x, y, z)[1]
        nx, ny, nz = _gradient(p, x, y, z)
        found[i] = int(p[part, 19])
        if pattern > 0 and p[part, 20] > 0 and _second_colour(p, part, pattern, period, x, y, z, nx, ny, nz):
            found[i] = 1
    return found
