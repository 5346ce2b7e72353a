"""The mini world: subjects with a continuous identity, contexts, a camera and light, drawn with exact truth.

Right-handed, y up, the ground at y = 0; lengths in units of a subject's radius. A subject faces +z.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from modalities.mini import staging
from modalities.mini.parts import bounds
from modalities.mini.shapes import CLASSES, SHAPE_SIZE, parts_of
from modalities.mini.styles import STYLES, stylized

CLASS_NAMES = tuple(CLASSES)
CONTEXTS = (
    "beach", "snow", "grass", "desert", "city", "table", "red studio", "blue studio", "forest", "lake",
    "street", "moon",
)  # fmt: skip
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.09, 0.1),
    "orange": (0.98, 0.5, 0.06),
    "yellow": (0.98, 0.88, 0.14),
    "green": (0.13, 0.6, 0.2),
    "cyan": (0.2, 0.8, 0.84),
    "blue": (0.1, 0.22, 0.8),
    "purple": (0.48, 0.16, 0.68),
    "pink": (0.98, 0.52, 0.72),
    "brown": (0.43, 0.25, 0.12),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.52, 0.52, 0.54),
    "black": (0.07, 0.07, 0.08),
}
COLOUR_NAMES = tuple(COLOURS)
PATTERNS = ("plain", "striped", "dotted", "checkered")
FIXED_MATERIALS = (
    (0.07, 0.07, 0.08),
    (0.88, 0.88, 0.9),
    (0.98, 0.52, 0.08),
    (1.0, 0.93, 0.5),
    (0.2, 0.28, 0.38),
    (0.84, 0.09, 0.1),
    (0.98, 0.88, 0.14),
    (0.98, 0.42, 0.66),
)
# How strongly a surface shines, and the share of light that it returns.
FINISHES: dict[str, tuple[float, float]] = {"matte": (0.3, 1.0), "shiny": (1.5, 1.0), "wet": (1.0, 0.6)}
HELD_OUT_SHARE = 0.1

# Ambient light, sun, and the tint of both, by context.
_LIGHT = {
    "snow": (0.56, 0.56, (0.97, 1.0, 1.04)),
    "desert": (0.46, 0.68, (1.04, 1.0, 0.92)),
    "city": (0.42, 0.5, (0.95, 0.95, 1.08)),
    "forest": (0.46, 0.52, (0.97, 1.03, 0.95)),
    "moon": (0.34, 0.74, (1.0, 1.0, 1.0)),
}
_DAYLIGHT = (0.5, 0.62, (1.0, 1.0, 1.0))


def random_stream(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for every purpose, so that one more draw here changes nothing there."""
    return np.random.default_rng([seed, *purpose.encode()])


def is_held_out(class_name: str, primary: str, secondary: str, pattern: str) -> bool:
    """True for the tenth of all compositions that no training picture may show."""
    digest = hashlib.sha256(f"{class_name}/{primary}/{secondary}/{pattern}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


@dataclass(frozen=True)
class Subject:
    """One individual: a class, its shape, two colours and a pattern.

    shape: SHAPE_SIZE numbers in 0..1. primary_rgb, secondary_rgb: 0..1, near the named colours.
    period: length of one repeat of the pattern, in subject radii.
    """

    class_name: str
    shape: tuple[float, ...]
    primary: str
    secondary: str
    primary_rgb: tuple[float, float, float]
    secondary_rgb: tuple[float, float, float]
    pattern: str
    period: float

    @classmethod
    def random(cls, seed: int, class_name: str | None = None, held_out: bool = False) -> "Subject":
        """Draw a subject from a 64-bit seed, inside or outside the compositions kept from training."""
        rng = random_stream(seed, "subject")
        while True:
            name = class_name or CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
            primary, secondary = (COLOUR_NAMES[i] for i in rng.permutation(len(COLOUR_NAMES))[:2])
            pattern = PATTERNS[0] if rng.random() < 0.34 else PATTERNS[1 + rng.integers(3)]
            if is_held_out(name, primary, secondary, pattern) == held_out:
                break
        return cls(
            class_name=name,
            shape=tuple(rng.random(SHAPE_SIZE).tolist()),
            primary=primary,
            secondary=secondary,
            primary_rgb=_near(COLOURS[primary], rng),
            secondary_rgb=_near(COLOURS[secondary], rng),
            pattern=pattern,
            period=float(0.34 + 0.2 * rng.random()),
        )

    @property
    def identity(self) -> np.ndarray:
        """Everything continuous about the subject, (19,) float32: shape, two colours, pattern, its period."""
        is_pattern = [float(self.pattern == name) for name in PATTERNS]
        values = [*self.shape, *self.primary_rgb, *self.secondary_rgb, *is_pattern, self.period]
        return np.array(values, np.float32)

    def parts(self) -> np.ndarray:
        """Part table (n, 23) of the solid, see `parts.py`; input of `raymarch.distance`."""
        return parts_of(self.class_name, np.array(self.shape))


def _near(rgb: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    """A shade near a named colour: a common brightness and a little of its own per channel."""
    bright = 1 + 0.16 * (rng.random() - 0.5)
    shifted = np.array(rgb) * bright + 0.05 * (rng.random(3) - 0.5)
    red, green, blue = np.clip(shifted, 0.03, 1.0).tolist()
    return red, green, blue


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from; the middle of the subject is in its centre.

    azimuth_degrees: 0 looks at the front, 90 at the side with x > 0. elevation_degrees: 0 level, 90 above.
    distance: to the middle of the subject, in subject radii; 2.65 (near) to 3.3 (far).
    The field of view is 40 degrees.
    """

    azimuth_degrees: float = 25.0
    elevation_degrees: float = 15.0
    distance: float = 2.8

    @classmethod
    def random(cls, seed: int) -> "Camera":
        """Draw a camera all round the subject, mostly low, one in six from high above."""
        rng = random_stream(seed, "camera")
        low = 4 + 26 * rng.random() ** 1.4
        high = 45 + 30 * rng.random()
        return cls(
            azimuth_degrees=float(360 * rng.random()),
            elevation_degrees=float(high if rng.random() < 0.16 else low),
            distance=float(2.65 + 0.65 * rng.random()),
        )

    @property
    def view(self) -> str | None:
        """What people would call the view: front, side, back, top; None in between."""
        if self.elevation_degrees > 42:
            return "top"
        off = abs((self.azimuth_degrees + 180) % 360 - 180)
        if off < 35:
            return "front"
        if off > 145:
            return "back"
        return "side" if 55 < off < 125 else None


@dataclass(frozen=True)
class Light:
    """Where the sun stands, in world degrees (azimuth as for the camera)."""

    azimuth_degrees: float = 60.0
    elevation_degrees: float = 50.0


@dataclass(frozen=True)
class Pose:
    """How a subject differs from standing at rest in the middle of the ground.

    shift: (x, y, z) in subject radii. yaw_degrees: turned about the upright axis. roll_degrees: rolled about the
    axis of the camera. scale: its size beside that at rest.
    """

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_degrees: float = 0.0
    roll_degrees: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Companion:
    """A second subject, to which the first stands in a relation, one of `staging.RELATIONS`."""

    subject: Subject
    relation: str


@dataclass(frozen=True)
class Scene:
    """One subject in one context, seen by one camera. `variety` (0..1) moves the textures of the context.

    accessory: one of `staging.ACCESSORIES`. finish: of `FINISHES`. style: of `styles.STYLES`.
    """

    subject: Subject
    context: str
    camera: Camera = Camera()
    light: Light = Light()
    variety: float = 0.5
    accessory: str | None = None
    finish: str = "matte"
    style: str = "photo"
    companion: Companion | None = None
    pose: Pose = Pose()

    @classmethod
    def random(
        cls, seed: int, subject: Subject | None = None, context: str | None = None, held_out: bool = False
    ) -> "Scene":
        """Draw a scene from a 64-bit seed; what is given is kept."""
        rng = random_stream(seed, "scene")
        camera = Camera.random(seed)
        return cls(
            subject=subject or Subject.random(seed, held_out=held_out),
            context=context or CONTEXTS[rng.integers(len(CONTEXTS))],
            camera=camera,
            light=Light(
                azimuth_degrees=float(camera.azimuth_degrees + 150 * (rng.random() - 0.5)),
                elevation_degrees=float(32 + 36 * rng.random()),
            ),
            variety=float(rng.random()),
        )

    @classmethod
    def varied(cls, seed: int, subject: Subject | None = None, held_out: bool = False) -> "Scene":
        """Draw a scene of the second ring: with a style, an accessory, a finish or a companion, at times two."""
        scene, rng = cls.random(seed, subject, held_out=held_out), random_stream(seed, "varied")
        kind = rng.random()
        if kind < 0.34:
            # From straight above nobody could tell what stands before what.
            camera = replace(scene.camera, elevation_degrees=min(scene.camera.elevation_degrees, 26.0))
            relation = staging.RELATIONS[rng.integers(len(staging.RELATIONS))]
            # Only a mug is hollow.
            holder = "mug" if relation == "inside" else None
            other = Subject.random(int(rng.integers(2**62)), holder, held_out=held_out)
            scene = replace(scene, camera=camera, companion=Companion(other, relation))
        elif kind < 0.62:
            scene = replace(scene, accessory=staging.ACCESSORIES[rng.integers(len(staging.ACCESSORIES))])
        elif kind < 0.72:
            scene = replace(scene, finish=("shiny", "wet")[rng.integers(2)])
        if kind >= 0.72 or rng.random() < 0.1:
            scene = replace(scene, style=STYLES[1 + rng.integers(len(STYLES) - 1)])
        return scene

    def table(self) -> np.ndarray:
        """Part table (n, 23) of everything solid, as it stands in the scene."""
        table = self.subject.parts()
        if self.accessory:
            table = staging.dressed(table, self.accessory)
        azimuth = math.radians(self.camera.azimuth_degrees)
        towards = np.array((math.sin(azimuth), 0.0, math.cos(azimuth)))
        if self.pose != Pose():
            pose = self.pose
            table = staging.posed(table, np.array(pose.shift), pose.yaw_degrees, pose.roll_degrees, pose.scale, towards)
        if self.companion:
            table = staging.placed(table, self.companion.subject.parts(), self.companion.relation, towards)
        return table


@dataclass(frozen=True)
class Render:
    """A picture with its truth.

    image: (H, W, 3) uint8 sRGB. mask: (H, W) uint8, 255 where the subject covers the pixel.
    companion_mask: the same for the companion, None if there is none.
    depth: (H, W) float32, mean distance from the camera to what stands there in subject radii, 0 where nothing is.
    """

    image: np.ndarray
    mask: np.ndarray
    companion_mask: np.ndarray | None
    depth: np.ndarray
    scene: Scene


def render(scene: Scene, size: int = 64) -> Render:
    """Draw `scene` with `size` x `size` pixels (a multiple of 8), 2 x 2 rays each; always the same bytes."""
    # Scenes and captions need no compiler; only pictures do.
    from modalities.mini.raymarch import draw

    subjects = [scene.subject, *([scene.companion.subject] if scene.companion else [])]
    colours = np.array([rgb for one in subjects for rgb in (one.primary_rgb, one.secondary_rgb, *FIXED_MATERIALS)])
    looks = np.array([
        (PATTERNS.index(one.pattern), one.period, *FINISHES[scene.finish if one is scene.subject else "matte"])
        for one in subjects
    ])  # fmt: skip
    image, depth, masks = np.zeros((size, size, 3)), np.zeros((size, size)), np.zeros((len(subjects), size, size))
    table = scene.table()
    draw(
        table, colours, looks, CONTEXTS.index(scene.context), scene.variety, _light_row(scene),
        _camera_row(scene, table), 2, image, masks, depth,
    )  # fmt: skip
    covered = masks.sum(0)
    depth = np.where(covered > 0, depth / np.maximum(covered, 1e-6), 0)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    drawn = [(mask * 255 + 0.5).astype(np.uint8) for mask in masks]
    return Render(
        image=stylized(pixels, depth, scene.style, scene.variety),
        mask=drawn[0],
        companion_mask=drawn[1] if scene.companion else None,
        depth=depth.astype(np.float32),
        scene=scene,
    )


def _direction(azimuth_degrees: float, elevation_degrees: float) -> np.ndarray:
    azimuth, elevation = math.radians(azimuth_degrees), math.radians(elevation_degrees)
    flat = math.cos(elevation)
    return np.array((flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth)))


def _camera_row(scene: Scene, table: np.ndarray) -> np.ndarray:
    """The fourteen numbers that `raymarch.draw` wants, for what stands there as the part table says."""
    camera, distance = scene.camera, scene.camera.distance
    low, high = bounds(scene.subject.parts())
    middle = np.array((0.0, high[1] * 0.5, 0.0))
    if scene.accessory or scene.companion:
        # More than one subject fills: step back, and aim at the middle of it all.
        low, high = bounds(table)
        middle, half = (low + high) / 2, (high - low) / 2
        distance *= max(1.12 * half[1], 0.98 * math.hypot(half[0], half[2]), 1.0)
    towards = _direction(camera.azimuth_degrees, camera.elevation_degrees)
    forward = -towards
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right = right / np.linalg.norm(right)
    reach = float(np.linalg.norm((high - low) / 2))
    if scene.pose != Pose():
        low, high = bounds(table)
        reach = float(np.linalg.norm(np.maximum(np.abs(high - middle), np.abs(low - middle))))
    return np.concatenate([
        middle + towards * distance, forward, right, np.cross(right, forward), (distance - reach, distance + reach),
    ])  # fmt: skip


def _light_row(scene: Scene) -> np.ndarray:
    """The eight numbers that `raymarch.draw` wants."""
    ambient, sun, tint = _LIGHT.get(scene.context, _DAYLIGHT)
    towards = _direction(scene.light.azimuth_degrees, scene.light.elevation_degrees)
    return np.array([*towards, ambient, sun, *tint])
