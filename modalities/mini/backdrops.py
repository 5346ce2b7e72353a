"""The twelve contexts of the mini world: what a ray sees when it misses the subject.

Everything lies in the world, not on the screen, and looks alike from all sides, so that a camera may orbit.
"""

import math

from modalities.core.errors import PcsError

try:
    from numba import njit
except ImportError as error:
    raise PcsError("Rendering the mini world needs numba: pip install 'pcs-cli[world]'.") from error

BEACH, SNOW, GRASS, DESERT, CITY, TABLE, RED, BLUE, FOREST, LAKE, STREET, MOON = range(12)


@njit(fastmath=True, inline="always")
def _hash(a, b):
    """A number in 0..1 that depends on two whole numbers."""
    n = (int(a) * 374761393 + int(b) * 668265263) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65535.0


@njit(fastmath=True, cache=True)
def _noise(x, y):
    """Smooth noise in 0..1 with features about one unit wide."""
    ix, iy = math.floor(x), math.floor(y)
    u, v = x - ix, y - iy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b = _hash(ix, iy), _hash(ix + 1, iy)
    c, d = _hash(ix, iy + 1), _hash(ix + 1, iy + 1)
    return a + (b - a) * u + (c - a) * v + (a - b - c + d) * u * v


@njit(fastmath=True, inline="always")
def _speck(x, y, chance):
    """True inside small round specks, one in a share `chance` of the unit cells."""
    ix, iy = math.floor(x), math.floor(y)
    if _hash(ix + 17, iy + 5) > chance:
        return False
    u, v = x - ix - 0.5, y - iy - 0.5
    return u * u + v * v < 0.1


@njit(fastmath=True, cache=True)
def _nature(context, s, x, z, t, azimuth, dy):
    """Colour towards beach, snow, grass or desert; t > 0 where the ray meets the ground at (x, z)."""
    fade = math.exp(-0.1 * t)
    if context == BEACH:
        shore = math.sqrt(x * x + z * z) - 2.3 - 0.6 * _noise(azimuth * 2.5 + s * 40, 3.0)
        if t > 0 and shore < 0:
            n = (_noise(x * 5 + s * 90, z * 5) - 0.5) * 0.09 * fade
            if _speck(x * 3 + s * 50, z * 3, 0.12) and fade > 0.55:
                return t, 0.98, 0.86, 0.78
            return t, 0.93 + n, 0.82 + n, 0.58 + n
        if t > 0:
            if shore < 0.3:
                return 0.0, 0.93, 0.97, 0.97
            n = 0.1 * (_noise(azimuth * 12, t * 1.5 + s * 30) - 0.5) * fade
            deep = min(1.0, shore * 0.12)
            return 0.0, 0.22 - 0.14 * deep + n, 0.66 - 0.22 * deep + n, 0.76 - 0.06 * deep + n
        return 0.0, 0.66 - 0.5 * dy, 0.85 - 0.25 * dy, 0.97
    if context == SNOW:
        ridge = 0.05 + 0.12 * _noise(azimuth * 3 + s * 40, 1.0)
        if t > 0 and t < 24:
            n = (_noise(x * 1.2 + s * 90, z * 1.2) - 0.5) * 0.12
            return t, 0.92 + n, 0.95 + n * 0.8, 1.0 + n * 0.4
        trees = 0.02 + 0.16 * abs((azimuth * 9 + s * 10) % 1.0 - 0.5) * (
            0.4 + 0.6 * _hash(math.floor(azimuth * 9 + s * 10), 7)
        )
        if dy < trees:
            return 0.0, 0.14, 0.3, 0.27
        if dy < ridge:
            return 0.0, 0.68, 0.76, 0.86
        return 0.0, 0.8 - 0.3 * dy, 0.87 - 0.2 * dy, 0.94
    if context == GRASS:
        if t > 0 and t < 30:
            n = (_noise(x * 6 + s * 90, z * 6) - 0.5) * 0.2 * fade + (_noise(x * 1.3, z * 1.3 + s * 50) - 0.5) * 0.1
            cell = _hash(math.floor(x * 2.6 + s * 50), math.floor(z * 2.6))
            if _speck(x * 2.6 + s * 50, z * 2.6, 0.16) and fade > 0.55:
                return (t, 0.98, 0.92, 0.3) if cell < 0.08 else (t, 0.97, 0.95, 0.97)
            return t, 0.3 + n * 0.7, 0.66 + n, 0.16 + n * 0.4
        if dy < 0.04 + 0.1 * _noise(azimuth * 3 + s * 40, 2.0):
            return 0.0, 0.16, 0.46, 0.2
        return 0.0, 0.5 - 0.4 * dy, 0.76 - 0.3 * dy, 0.98
    if t > 0 and t < 30:
        wave = math.sin(x * 5 + z * 1.5 + 4 * _noise(x * 0.8 + s * 60, z * 0.8))
        n = 0.07 * wave * fade + (_noise(x * 0.7, z * 0.7 + s * 30) - 0.5) * 0.12
        return t, 0.96 + n, 0.6 + n, 0.28 + n * 0.8
    if dy < 0.02 + 0.13 * _noise(azimuth * 2.2 + s * 40, 3.0):
        return 0.0, 0.78, 0.4, 0.2
    return 0.0, 0.99, 0.88 - 0.5 * dy, 0.66 - 0.2 * dy


@njit(fastmath=True, cache=True)
def _indoors(context, s, x, z, t, dy):
    """Colour towards the wooden table or a studio."""
    if context == TABLE:
        if t > 0 and x * x + z * z < 4.6:
            plank = math.floor(x * 1.7 + s * 3)
            n = 0.14 * (_hash(plank, 1) - 0.5) + 0.1 * (_noise(x * 9 + s * 50, z * 0.9 + plank * 7) - 0.5)
            if (x * 1.7 + s * 3) - plank < 0.07:
                n -= 0.2
            return t, 0.66 + n, 0.43 + n * 0.8, 0.24 + n * 0.6
        if dy < -0.12:
            return 0.0, 0.6, 0.55, 0.5
        return 0.0, 0.93 - 0.1 * dy, 0.9 - 0.1 * dy, 0.83 - 0.1 * dy
    # A seamless paper backdrop: the floor's far end fades into the wall.
    far = min(1.0, t / 9.0) if t > 0 else 1.0
    wall = 0.9 - 0.12 * far + 0.25 * max(dy, 0.0)
    lit = t if 0 < t < 9.0 else 0.0
    if context == RED:
        return lit, 0.9 * wall, 0.13 * wall, 0.14 * wall
    return lit, 0.12 * wall, 0.3 * wall, 0.88 * wall


@njit(fastmath=True, cache=True)
def _built(context, s, x, z, t, azimuth, dy):
    """Colour towards the city at night, the street by day, or the moon."""
    fade = math.exp(-0.1 * t)
    if context == CITY:
        if t > 0 and t < 22:
            n = (_noise(x * 3 + s * 90, z * 3) - 0.5) * 0.06 * fade
            lane = abs(abs(x + (s - 0.5) * 0.6) - 1.35)
            if lane < 0.07 and (z * 0.7) % 1.0 < 0.62:
                return t, 0.98, 0.8, 0.25
            return t, 0.22 + n, 0.23 + n, 0.31 + n
        block = azimuth * 5 + s * 20
        house = math.floor(block)
        if dy < 0.1 + 0.3 * _hash(house, 5):
            wx, wy = block * 4, dy * 20
            if _hash(math.floor(wx), math.floor(wy) + 31) > 0.5 and wx % 1.0 < 0.62 and wy % 1.0 < 0.6:
                return 0.0, 1.0, 0.86, 0.42
            return 0.0, 0.1, 0.1, 0.2
        return 0.0, 0.05, 0.05, 0.2 + 0.1 * dy
    if context == STREET:
        if t > 0 and t < 22:
            row = math.floor(z * 3.2)
            u, v = (x * 2.4 + 0.5 * (row % 2)) % 1.0, (z * 3.2) % 1.0
            n = 0.12 * (_hash(math.floor(x * 2.4 + 0.5 * (row % 2)), row) - 0.5)
            if u < 0.13 or v < 0.16:
                n -= 0.2 * fade
            return t, 0.62 + n, 0.6 + n, 0.6 + n
        block = azimuth * 3.5 + s * 20
        house = math.floor(block)
        if dy < 0.16 + 0.16 * _hash(house, 9):
            if (block * 3) % 1.0 < 0.4 and (dy * 11) % 1.0 < 0.55 and dy > 0.03:
                return 0.0, 0.32, 0.36, 0.42
            paint = _hash(house, 3)
            return 0.0, 0.86 - 0.3 * paint * paint, 0.62 + 0.14 * _hash(house, 4), 0.42 + 0.25 * paint
        return 0.0, 0.82, 0.88, 0.94
    if t > 0 and t < 26:
        cx, cz = math.floor(x * 0.9 + s * 30), math.floor(z * 0.9)
        u, v = x * 0.9 + s * 30 - cx - 0.5, z * 0.9 - cz - 0.5
        ring = math.sqrt(u * u + v * v) - 0.14 - 0.2 * _hash(cx, cz)
        n = (_noise(x * 2 + s * 50, z * 2) - 0.5) * 0.1
        if _hash(cx + 9, cz) < 0.75:
            n += -0.16 if ring < -0.05 else (0.12 if ring < 0.03 else 0.0)
        return t, 0.62 + n, 0.62 + n, 0.64 + n
    if _speck(azimuth * 14 + s * 30, dy * 14, 0.22):
        return 0.0, 0.95, 0.95, 0.95
    return 0.0, 0.03, 0.03, 0.05


@njit(fastmath=True, cache=True)
def _woods_and_water(context, s, x, z, t, azimuth, dy):
    """Colour towards the forest or the lake."""
    fade = math.exp(-0.1 * t)
    if context == FOREST:
        if t > 0 and t < 9:
            moss = _noise(x * 1.6 + s * 90, z * 1.6)
            n = (_noise(x * 5, z * 5 + s * 40) - 0.5) * 0.12 * fade
            if _speck(x * 3.1 + s * 50, z * 3.1, 0.3) and fade > 0.5:
                return t, 0.74, 0.42, 0.14
            return (t, 0.22 + n, 0.36 + n, 0.13 + n) if moss > 0.5 else (t, 0.36 + n, 0.27 + n, 0.16 + n)
        trunk = azimuth * 5.5 + s * 20
        width = 0.16 + 0.2 * _hash(math.floor(trunk), 3)
        if abs(trunk % 1.0 - 0.5) < width * 0.6:
            return 0.0, 0.33, 0.22, 0.13
        n = 0.16 * (_noise(azimuth * 14 + s * 30, dy * 14) - 0.5)
        return 0.0, 0.1 + n * 0.5, 0.27 + 0.5 * max(dy, 0.0) + n, 0.11 + n * 0.5
    if t > 0 and t < 26:
        wave = math.sin(z * 7 + 5 * _noise(x * 1.1 + s * 60, z * 1.1)) * math.sin(x * 3 + 4 * _noise(x, z + s * 40))
        n = 0.1 * wave * fade
        pale = 0.25 * (1 - fade)
        return t, 0.12 + n + pale, 0.46 + n + pale, 0.72 + n + pale
    if dy < 0.03 + 0.09 * _noise(azimuth * 4 + s * 40, 2.0):
        return 0.0, 0.13, 0.36, 0.24
    return 0.0, 0.74 - 0.4 * dy, 0.86 - 0.3 * dy, 0.95


@njit(fastmath=True, cache=True)
def backdrop(context, variety, ox, oy, oz, dx, dy, dz):
    """What the ray from (ox, oy, oz) along (dx, dy, dz) sees behind the subject.

    variety: 0..1, moves every texture. Returns the length of the ray to the ground where the subject's shadow
    may fall (0 where light does not matter), then red, green and blue in 0..1.
    """
    t, x, z = -1.0, 0.0, 0.0
    if dy < -1e-4:
        t = -oy / dy
        x, z = ox + dx * t, oz + dz * t
    azimuth = math.atan2(dx, dz) if t < 0 or t > 12 else math.atan2(x, z)
    if context <= DESERT:
        return _nature(context, variety, x, z, t, azimuth, dy)
    if TABLE <= context <= BLUE:
        return _indoors(context, variety, x, z, t, dy)
    if context in (FOREST, LAKE):
        return _woods_and_water(context, variety, x, z, t, azimuth, dy)
    return _built(context, variety, x, z, t, azimuth, dy)
