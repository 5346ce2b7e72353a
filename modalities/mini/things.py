"""Shapes of the mini world without a face: each turns a shape vector of eight numbers in 0..1 into parts."""

import numpy as np

from modalities.mini.parts import (
    DARK,
    FLAT_Y,
    FLAT_Z,
    GLASS,
    GLOW,
    LIGHT,
    ROUND_Y,
    SECONDARY,
    Body,
    mix,
    turn,
)

BOTH_SIDES = (-1, 1)


def mug(body: Body, u: np.ndarray) -> None:
    bottom, half = mix(0.34, 0.46, u[0]), mix(0.34, 0.56, u[1])
    top, wall = bottom * mix(0.9, 1.22, u[2]), 0.05
    body.cup((0, half, 0), bottom, half, top, wall, wrap=ROUND_Y)
    body.cup((0, half + 0.02, 0), bottom - wall, half - 0.01, top - wall, 0.02, colour=SECONDARY)
    ring, tube = min(mix(0.19, 0.28, u[3]), half * 0.7), mix(0.045, 0.08, u[4])
    edge = (bottom + top) / 2
    body.torus((edge + ring * 0.45, half * 1.05, 0), ring, tube, colour=SECONDARY, turned=turn(x=90), blend=0.02)


def teapot(body: Body, u: np.ndarray) -> None:
    radius = 0.5
    half = radius * mix(0.68, 1.0, u[0])
    body.ellipsoid((0, half, 0), (radius, half, radius), wrap=ROUND_Y)
    body.cylinder((0, 0.03, 0), radius * 0.6, 0.04, colour=SECONDARY)
    lid = radius * mix(0.45, 0.6, u[1])
    body.ellipsoid((0, half * 1.86, 0), (lid, 0.1, lid), colour=SECONDARY)
    body.ellipsoid((0, half * 1.86 + 0.14, 0), mix(0.06, 0.1, u[2]), colour=SECONDARY)
    ring = mix(0.2, 0.3, u[3]) * (half / radius) ** 0.5
    body.torus(
        (-radius - ring * 0.35, half * 1.05, 0),
        ring,
        mix(0.05, 0.07, u[4]),
        colour=SECONDARY,
        turned=turn(x=90),
    )
    rise, out = half * mix(1.45, 1.95, u[5]), mix(0.32, 0.46, u[6])
    body.limb((radius * 0.75, half * 0.75, 0), (radius + out, rise, 0), 0.15, 0.06, blend=0.06)


def lamp(body: Body, u: np.ndarray) -> None:
    base, pole, shade = mix(0.22, 0.34, u[0]), mix(0.32, 0.52, u[1]), mix(0.2, 0.32, u[2])
    wide = mix(0.38, 0.52, u[3])
    narrow = wide * mix(0.35, 0.8, u[4])
    body.cylinder((0, 0.05, 0), base, 0.05, 0.03, colour=SECONDARY)
    body.limb((0, 0.1, 0), (0, 2 * pole, 0), mix(0.045, 0.075, u[5]), colour=SECONDARY)
    if u[6] > 0.5:
        round_ = mix(0.14, 0.22, u[7])
        body.ellipsoid((0, 0.1 + round_ * 1.1, 0), (round_, round_ * 1.2, round_), colour=SECONDARY, blend=0.05)
    body.cone((0, 2 * pole + shade * 0.5, 0), wide, shade, narrow, wrap=ROUND_Y)
    body.cylinder((0, 2 * pole - shade * 0.5, 0), wide * 0.82, 0.02, 0.01, colour=GLOW)
    body.limb((0, 2 * pole - shade, base * 0.6), (0, pole * 1.1, base * 0.6), 0.03, colour=LIGHT)


def clock(body: Body, u: np.ndarray) -> None:
    radius, depth, face = 0.5, mix(0.14, 0.26, u[0]), mix(0.66, 0.78, u[1])
    middle = radius + mix(0.08, 0.18, u[2])
    standing = turn(x=90)
    body.cylinder((0, middle, 0), radius, depth, 0.05, wrap=FLAT_Y, turned=standing)
    body.cylinder((0, middle, depth), radius * face, 0.03, 0.01, colour=LIGHT, turned=standing)
    front = depth + 0.04
    for hour in range(0, 12, 3):
        across, along = np.sin(hour * np.pi / 6), np.cos(hour * np.pi / 6)
        mark = (across * radius * face * 0.8, middle + along * radius * face * 0.8, front)
        body.ellipsoid(mark, (0.04, 0.04, 0.02), colour=DARK)
    for share, reach in ((u[3], 0.56), (u[4], 0.4)):
        tip = (
            np.sin(share * 2 * np.pi) * radius * face * reach,
            np.cos(share * 2 * np.pi) * radius * face * reach,
        )
        body.limb((0, middle, front), (tip[0], middle + tip[1], front), 0.032, colour=DARK)
    bell = mix(0.14, 0.22, u[5])
    for side in BOTH_SIDES:
        lean = turn(z=-side * 38)
        up = lean @ np.array((0, radius + bell * 0.42, 0))
        body.ellipsoid(
            (up[0], middle + up[1], 0), (bell * 1.15, bell * 0.75, bell * 1.15), colour=SECONDARY, turned=lean
        )
        knee = (side * radius * 0.5, middle - radius * 0.75, 0)
        body.limb(knee, (side * radius * mix(0.6, 0.9, u[6]), 0.05, 0), 0.07, 0.05, colour=SECONDARY)
    body.torus((0, middle + radius + bell * 0.9, 0), 0.13, 0.035, colour=SECONDARY, turned=standing)


def chair(body: Body, u: np.ndarray) -> None:
    seat, width, back = mix(0.34, 0.5, u[0]), mix(0.32, 0.42, u[1]), mix(0.28, 0.46, u[2])
    leg = mix(0.045, 0.07, u[3])
    body.box((0, seat, 0), (width, 0.06, width), 0.03, wrap=FLAT_Z)
    rise = seat + 0.12 + back
    body.box((0, rise, -width + 0.05), (width, back, 0.055), mix(0.02, 0.05, u[4]), wrap=FLAT_Y)
    for side in BOTH_SIDES:
        for end in BOTH_SIDES:
            foot = (side * width * 0.92, leg, end * width * 0.92)
            body.limb(foot, (side * width * 0.84, seat, end * width * 0.84), leg, colour=SECONDARY)
        body.limb(
            (side * width * 0.84, seat, -width + 0.05),
            (side * width * 0.84, rise, -width + 0.05),
            leg,
            colour=SECONDARY,
        )
        if u[5] > 0.5:
            rest = seat + mix(0.22, 0.3, u[6])
            body.box((side * width * 0.97, rest, 0.02), (0.05, 0.04, width * 0.9), 0.03, colour=SECONDARY)
            body.limb(
                (side * width * 0.97, seat, width * 0.75),
                (side * width * 0.97, rest, width * 0.75),
                leg,
                colour=SECONDARY,
            )


def house(body: Body, u: np.ndarray) -> None:
    width, wall, depth = mix(0.42, 0.58, u[0]), mix(0.24, 0.4, u[1]), mix(0.36, 0.55, u[2])
    roof = mix(0.28, 0.55, u[3])
    body.box((0, wall, 0), (width, wall, depth), 0.01, wrap=FLAT_Y)
    body.gable((0, 2 * wall - 0.02, 0), width * 1.18, roof, depth * 1.14, colour=SECONDARY)
    door = mix(-0.45, 0.45, u[4]) * width
    body.box((door, wall * 0.62, depth), (0.11, wall * 0.62, 0.025), 0.01, colour=DARK)
    pane = mix(0.08, 0.12, u[5])
    window = -0.52 * width if door > 0 else 0.52 * width
    body.box((window, wall * 1.2, depth), (pane, pane, 0.025), 0.01, colour=GLOW)
    for side in BOTH_SIDES:
        body.box((side * width, wall * 1.15, 0), (0.025, pane, pane * 1.3), 0.01, colour=GLOW)
    if u[6] > 0.4:
        body.box((width * 0.5, 2 * wall + roof * 0.75, -depth * 0.4), (0.09, 0.24, 0.09), 0.02, colour=DARK)


def car(body: Body, u: np.ndarray) -> None:
    length, width, low = mix(0.62, 0.85, u[0]), mix(0.34, 0.42, u[1]), mix(0.13, 0.18, u[2])
    wheel = mix(0.15, 0.2, u[3])
    floor = wheel * 0.75
    top = floor + 2 * low
    body.box((0, floor + low, 0), (width, low, length), 0.08, wrap=FLAT_Z)
    cabin, half_length = mix(0.12, 0.17, u[4]), length * mix(0.36, 0.6, u[5])
    back = mix(-0.36, 0.0, u[6]) * length
    body.box((0, top + cabin * 0.8, back), (width * 0.84, cabin, half_length), 0.06, colour=GLASS)
    body.box((0, top + 1.85 * cabin, back), (width * 0.88, 0.055, half_length * 0.98), 0.05, colour=SECONDARY)
    for side in BOTH_SIDES:
        for end in (-0.62, 0.6):
            axle = (side * width * 0.92, wheel, end * length)
            body.cylinder(axle, wheel, 0.075, 0.03, colour=DARK, turned=turn(z=90))
            hub = (side * (width * 0.92 + 0.03), wheel, end * length)
            body.cylinder(hub, wheel * 0.5, 0.06, colour=LIGHT, turned=turn(z=90))
        body.ellipsoid((side * width * 0.65, floor + low * 1.2, length * 0.98), (0.085, 0.085, 0.04), colour=GLOW)
        body.box((side * width * 0.7, floor + low * 1.3, -length), (0.08, 0.05, 0.02), 0.01, colour=SECONDARY)
    body.box((0, floor * 0.9, length * 0.98), (width * 0.9, 0.05, 0.05), 0.03, colour=LIGHT)


def backpack(body: Body, u: np.ndarray) -> None:
    width, half, depth = mix(0.36, 0.46, u[0]), mix(0.44, 0.56, u[1]), mix(0.2, 0.27, u[2])
    body.box((0, half, 0), (width, half, depth), 0.16, wrap=FLAT_Y)
    body.ellipsoid((0, 2 * half - 0.06, 0), (width * 0.93, mix(0.1, 0.22, u[3]), depth * 0.9), blend=0.1)
    pocket = half * mix(0.38, 0.52, u[4])
    body.box((0, pocket + 0.06, depth + 0.05), (width * 0.76, pocket, 0.12), 0.09, colour=SECONDARY)
    body.box((0, 2 * pocket - 0.02, depth + 0.15), (width * 0.6, 0.035, 0.04), 0.02, colour=DARK)
    body.box((0, half * 1.5, depth), (width * 0.7, 0.03, 0.03), 0.01, colour=LIGHT)
    handle = 2 * half + mix(0.02, 0.1, u[3])
    body.torus((0, handle, -depth * 0.4), 0.15, 0.045, colour=SECONDARY, turned=turn(x=90))
    for side in BOTH_SIDES:
        strap = side * width * 0.5
        body.limb((strap, 1.85 * half, -depth), (strap * 1.1, half * 1.2, -depth - 0.2), 0.075, colour=SECONDARY)
        body.limb((strap * 1.1, half * 1.2, -depth - 0.2), (strap * 1.3, 0.15, -depth), 0.075, colour=SECONDARY)
        if u[5] > 0.45:
            body.limb((side * width, 0.16, 0), (side * width, half * mix(0.5, 0.9, u[6]), 0), 0.13, colour=SECONDARY)


def sneaker(body: Body, u: np.ndarray) -> None:
    length, width, sole = 0.78, mix(0.24, 0.31, u[0]), mix(0.06, 0.1, u[1])
    top = 2 * sole + mix(0.34, 0.56, u[2])
    heel, toe = -length + width, length - width
    for end, wide in ((heel, width), (toe, width * 1.06)):
        body.cylinder((0, sole, end), wide, sole, 0.03, colour=LIGHT)
    body.box((0, sole, 0), (width * 0.98, sole, toe), 0.03, colour=LIGHT)
    nose = mix(0.2, 0.3, u[3])
    body.ellipsoid((0, 2 * sole, toe * 0.8), (width * 0.98, nose, width * 1.5), wrap=FLAT_Z)
    body.cone((0, sole + top / 2, heel * 0.85), width, top / 2, width * 0.8, wrap=FLAT_Z, blend=0.14)
    slope_start, slope_end = (0, 2 * sole + 0.06, toe * 0.55), (0, top * 0.66, heel * 0.45)
    body.limb(slope_start, slope_end, width * 0.9, width * 0.84, blend=0.14, wrap=FLAT_Z)
    body.cylinder((0, top + sole, heel * 0.85), width * 0.66, 0.03, colour=DARK)
    tongue = (0, top + mix(0.06, 0.16, u[4]), heel * 0.85 + width * 0.66)
    body.limb((0, top * 0.75, heel * 0.5 + width * 0.5), tongue, 0.12, 0.1, colour=SECONDARY)
    for share in (0.12, 0.42, 0.72):
        lace = np.array(slope_start) * (1 - share) + np.array(slope_end) * share
        over = width * mix(0.9, 0.84, share) * 1.04
        x, y, z = width * 0.4, lace[1] + over * 0.82, lace[2] + over * 0.55
        body.limb((-x, y - 0.03, z), (x, y - 0.03, z), 0.04, colour=LIGHT)
    body.ellipsoid((0, 2 * sole, toe + width * 0.62), (width * 0.86, nose * 0.66, width * 0.6), colour=SECONDARY)
    for side in BOTH_SIDES:
        body.limb(
            (side * width * 0.94, 2 * sole + 0.03, toe * 0.3),
            (side * width * 0.84, top * 0.8, heel * 0.75),
            0.05,
            colour=SECONDARY,
        )
