"""Shapes of the mini world with a face: each turns a shape vector of eight numbers in 0..1 into parts."""

import numpy as np

from modalities.mini.parts import (
    DARK,
    FLAT_Y,
    GLOW,
    LIGHT,
    ORANGE,
    ROUND_Y,
    ROUND_Z,
    SECONDARY,
    Body,
    mix,
    turn,
)

BOTH_SIDES = (-1, 1)


def robot(body: Body, u: np.ndarray) -> None:
    half, width, head = mix(0.24, 0.34, u[0]), mix(0.24, 0.35, u[1]), mix(0.19, 0.26, u[2])
    leg = mix(0.09, 0.2, u[3])
    hip, neck = 2 * leg + 0.08, 2 * leg + 0.08 + 2 * half
    body.box((0, hip + half, 0), (width, half, width * 0.7), 0.05, wrap=FLAT_Y)
    body.box((0, hip + half * 1.1, width * 0.7), (width * 0.55, half * 0.42, 0.03), 0.02, colour=LIGHT)
    arm, spread = mix(0.06, 0.09, u[4]), mix(0.08, 0.4, u[5])
    for side in BOTH_SIDES:
        body.box((side * width * 0.55, leg, 0), (0.1, leg, 0.1), 0.03, colour=SECONDARY)
        body.box((side * width * 0.55, 0.06, 0.06), (0.13, 0.06, 0.18), 0.04, colour=DARK)
        shoulder = (side * (width + arm), neck - 0.1, 0)
        hand = (side * (width + arm + spread), neck - 0.1 - half * 1.3, 0.08)
        body.limb(shoulder, hand, arm, colour=SECONDARY)
        body.ellipsoid(hand, arm * 1.45, colour=DARK)
    face = neck + head * 0.95
    if u[6] < 0.5:
        body.box((0, face, 0), (head * 1.15, head * 0.9, head), 0.05, colour=SECONDARY)
    else:
        body.ellipsoid((0, face, 0), (head * 1.15, head, head * 1.1), colour=SECONDARY)
    for side in BOTH_SIDES:
        body.ellipsoid((side * head * 0.5, face + 0.04, head * 0.95), head * 0.27, colour=GLOW)
    body.box((0, face - head * 0.5, head * 0.95), (head * 0.5, 0.03, 0.03), 0.01, colour=DARK)
    tip = face + head + mix(0.1, 0.2, u[7])
    body.limb((0, face + head * 0.8, 0), (0, tip, 0), 0.03, colour=DARK)
    body.ellipsoid((0, tip, 0), 0.07, colour=ORANGE)


def duck(body: Body, u: np.ndarray) -> None:
    half, head = mix(0.29, 0.38, u[0]), mix(0.24, 0.32, u[1])
    length, width = mix(0.5, 0.62, u[2]), mix(0.38, 0.46, u[3])
    body.ellipsoid((0, half, 0), (width, half, length), wrap=ROUND_Y)
    body.limb(
        (0, half, -length * 0.6),
        (0, half * mix(1.6, 2.1, u[4]), -length * 1.12),
        0.2,
        0.05,
        blend=0.12,
        wrap=ROUND_Y,
    )
    face, front = half * 1.7 + head * mix(0.7, 1.1, u[5]), length * 0.52
    body.limb((0, half * 1.2, front * 0.8), (0, face, front), head * 0.7, blend=0.06, wrap=ROUND_Y)
    body.ellipsoid((0, face, front), head, colour=SECONDARY)
    bill = mix(0.14, 0.24, u[6])
    body.ellipsoid((0, face - head * 0.2, front + head + bill * 0.35), (head * 0.5, 0.07, bill), colour=ORANGE)
    for side in BOTH_SIDES:
        eye = (side * head * 0.52, face + head * 0.32, front + head * 0.74)
        body.ellipsoid(eye, 0.065, colour=DARK)
        wing = (side * width * 0.93, half * 1.15, -0.08)
        body.ellipsoid(wing, (0.1, half * 0.5, length * 0.55), colour=SECONDARY, turned=turn(x=-12))


def snowman(body: Body, u: np.ndarray) -> None:
    low = mix(0.36, 0.46, u[0])
    middle, head = low * mix(0.68, 0.82, u[1]), low * mix(0.5, 0.62, u[2])
    waist = low * 1.75 + middle * 0.62
    face = waist + middle * 0.75 + head * 0.7
    body.ellipsoid((0, low * 0.95, 0), low, wrap=ROUND_Y)
    body.ellipsoid((0, waist, 0), middle, wrap=ROUND_Y)
    body.ellipsoid((0, face, 0), head)
    body.limb((0, face, head * 0.8), (0, face - 0.02, head + mix(0.14, 0.28, u[3])), 0.07, 0.015, colour=ORANGE)
    body.torus((0, face - head * 0.86, 0), head * 0.74, 0.085, colour=SECONDARY)
    body.limb(
        (0.1, face - head, middle * 0.75),
        (0.16, waist - middle * 0.2, middle + 0.06),
        0.075,
        colour=SECONDARY,
    )
    for side in BOTH_SIDES:
        body.ellipsoid((side * head * 0.38, face + head * 0.32, head * 0.86), 0.055, colour=DARK)
        hand = (side * (middle + 0.34), waist + mix(0.05, 0.4, u[4]), 0.05)
        body.limb((side * middle * 0.8, waist + 0.05, 0), hand, 0.035, colour=DARK)
    for rise in (0.35, -0.3):
        body.ellipsoid((0, waist + middle * rise, middle * 0.95), 0.05, colour=DARK)
    if u[5] > 0.3:
        hat = mix(0.1, 0.2, u[6])
        body.cylinder((0, face + head * 0.72, 0), head * 1.2, 0.03, colour=SECONDARY)
        body.cylinder((0, face + head * 0.72 + hat, 0), head * 0.76, hat, colour=SECONDARY)
    else:
        body.ellipsoid((0, face + head * 0.62, 0), (head * 0.98, head * 0.55, head * 0.98), colour=SECONDARY)
        body.ellipsoid((0, face + head * 1.22, 0), 0.09, colour=LIGHT)


def bear(body: Body, u: np.ndarray) -> None:
    width, head = mix(0.33, 0.42, u[0]), mix(0.29, 0.37, u[1])
    half = mix(0.36, 0.46, u[2])
    face = half * 1.8 + head * 0.8
    body.ellipsoid((0, half, 0), (width, half, width * 0.9), wrap=ROUND_Y)
    body.ellipsoid((0, half * 0.95, width * 0.42), (width * 0.66, half * 0.66, width * 0.56), colour=SECONDARY)
    body.ellipsoid((0, face, 0.02), (head * 1.08, head, head), blend=0.04)
    body.ellipsoid((0, face - head * 0.22, head * 0.78), (head * 0.5, head * 0.42, head * 0.48), colour=SECONDARY)
    body.ellipsoid((0, face - head * 0.06, head * 1.24), (0.085, 0.06, 0.05), colour=DARK)
    ear = mix(0.11, 0.17, u[3])
    for side in BOTH_SIDES:
        top = (side * head * 0.82, face + head * 0.75, 0)
        body.ellipsoid(top, (ear, ear, ear * 0.6), blend=0.02)
        body.ellipsoid((top[0], top[1], ear * 0.4), (ear * 0.6, ear * 0.6, ear * 0.4), colour=SECONDARY)
        body.ellipsoid((side * head * 0.42, face + head * 0.2, head * 0.88), 0.055, colour=DARK)
        arm, spread = mix(0.11, 0.15, u[4]), mix(0.12, 0.34, u[5])
        hand = (side * (width + spread), half * mix(0.75, 1.3, u[6]), 0.2)
        body.limb((side * width * 0.75, half * 1.5, 0.05), hand, arm, blend=0.04)
        foot = (side * width * 0.85, 0.16, width + 0.16)
        body.limb((side * width * 0.6, 0.17, width * 0.4), foot, 0.17, blend=0.03)
        body.ellipsoid((foot[0], foot[1], foot[2] + 0.12), (0.12, 0.12, 0.07), colour=SECONDARY)


def dog(body: Body, u: np.ndarray) -> None:
    leg, length, girth = mix(0.22, 0.4, u[0]), mix(0.26, 0.46, u[1]), mix(0.22, 0.29, u[2])
    back, head = leg + girth, mix(0.25, 0.33, u[3])
    body.limb((0, back, -length), (0, back, length), girth * 0.95, girth, wrap=ROUND_Z)
    face, front = back + girth * 0.6 + head * mix(0.8, 1.2, u[4]), length + head * 0.75
    body.limb((0, back + 0.02, length), (0, face, front), girth * 0.85, head * 0.7, blend=0.06)
    body.ellipsoid((0, face, front), (head * 0.95, head * 0.92, head), blend=0.03)
    snout = mix(0.2, 0.34, u[5])
    tip = front + head * 0.7 + snout
    body.limb(
        (0, face - head * 0.25, front + head * 0.4),
        (0, face - head * 0.32, tip),
        0.14,
        0.11,
        colour=SECONDARY,
    )
    body.ellipsoid((0, face - head * 0.12, tip + 0.07), 0.07, colour=DARK)
    ear = mix(0.28, 0.44, u[6])
    for side in BOTH_SIDES:
        body.ellipsoid((side * head * 0.5, face + head * 0.32, front + head * 0.72), 0.06, colour=DARK)
        droop = (side * (head + 0.14), face + head * 0.55 - ear, front - 0.04)
        body.limb((side * head * 0.75, face + head * 0.5, front), droop, 0.09, 0.12, colour=SECONDARY)
        for end in (-0.9, 0.9):
            paw = (side * girth * 0.66, 0.09, end * length + 0.03)
            body.limb((side * girth * 0.6, back, end * length), paw, 0.12, 0.085, blend=0.04)
            body.ellipsoid((paw[0], 0.06, paw[2] + 0.04), (0.1, 0.07, 0.14), colour=SECONDARY)
    up = (0, back + mix(0.4, 0.62, u[7]), -length - girth - 0.06)
    body.limb((0, back + girth * 0.4, -length - girth * 0.6), up, 0.085, 0.05, colour=SECONDARY)


def cat(body: Body, u: np.ndarray) -> None:
    half, width, head = mix(0.4, 0.52, u[0]), mix(0.28, 0.36, u[1]), mix(0.27, 0.34, u[2])
    face = half * 1.75 + head * 0.75
    body.ellipsoid((0, half * 0.75, -0.1), (width * 1.1, half * 0.78, width * 1.25), wrap=ROUND_Y)
    body.limb((0, half * 0.8, 0), (0, half * 1.6, 0.08), width * 0.85, width * 0.6, blend=0.08, wrap=ROUND_Y)
    body.ellipsoid((0, face, 0.14), (head * 1.1, head * 0.9, head * 0.92), blend=0.04)
    body.ellipsoid((0, half * 1.1, width * 0.55), (width * 0.5, half * 0.42, width * 0.34), colour=SECONDARY)
    ear = mix(0.22, 0.34, u[3])
    for side in BOTH_SIDES:
        root = (side * head * 0.68, face + head * 0.62, 0.12)
        body.limb(root, (side * head * 0.92, root[1] + ear, 0.1), 0.15, 0.015, colour=SECONDARY)
        body.ellipsoid((side * head * 0.46, face + 0.05, 0.14 + head * 0.8), (0.075, 0.085, 0.05), colour=GLOW)
        body.ellipsoid((side * head * 0.46, face + 0.05, 0.14 + head * 0.9), (0.03, 0.075, 0.04), colour=DARK)
        paw = (side * width * 0.45, 0.08, width + 0.12)
        body.limb((side * width * 0.45, half * 0.9, width * 0.6), paw, 0.11, 0.09, blend=0.04)
        body.ellipsoid((paw[0], 0.07, paw[2] + 0.05), (0.1, 0.08, 0.13), colour=SECONDARY)
    for side in BOTH_SIDES:
        cheek = (side * 0.07, face - head * 0.3, 0.14 + head * 0.84)
        body.ellipsoid(cheek, 0.1, colour=LIGHT)
    body.ellipsoid((0, face - head * 0.14, 0.14 + head), (0.055, 0.04, 0.05), colour=DARK)
    bend = (mix(0.5, 0.75, u[4]), 0.1, -0.3)
    body.limb((0.05, 0.12, -width), bend, 0.09, blend=0.03)
    body.limb(bend, (bend[0] + 0.05, mix(0.3, 0.9, u[5]), mix(-0.25, 0.1, u[6])), 0.09, 0.07, colour=SECONDARY)
