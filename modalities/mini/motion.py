"""Motions of the mini world: a scene becomes a clip along an exact path."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from modalities.mini.world import Camera, Pose, Scene, random_stream, render

FRAMES = 8
# Clips are seen from farther away, so that a subject that moves stays in the picture.
_DISTANCE = 4.0


@dataclass(frozen=True)
class Clip:
    """A scene in motion. `scene` is its first frame without the motion; frames are evenly spaced in time."""

    scene: Scene
    motion: str
    frames: int = FRAMES

    @classmethod
    def random(cls, seed: int, motion: str | None = None, scene: Scene | None = None, held_out: bool = False) -> Clip:
        """Draw a clip from a 64-bit seed; what is given is kept, but for the distance of the camera."""
        rng = random_stream(seed, "clip")
        drawn = MOTIONS[rng.integers(len(MOTIONS))]
        scene = scene or Scene.random(seed, held_out=held_out)
        camera = replace(scene.camera, elevation_degrees=min(scene.camera.elevation_degrees, 30.0), distance=_DISTANCE)
        return cls(replace(scene, camera=camera), motion or drawn)

    def scenes(self) -> list[Scene]:
        """The scene at each frame."""
        return [_at(self.scene, self.motion, k / max(self.frames - 1, 1)) for k in range(self.frames)]

    def path(self) -> np.ndarray:
        """Middle of the subject in the picture and its size, (frames, 3) float32.

        Columns are x and y in picture widths from the upper left corner, and the size relative to the subject at
        rest in the first camera. They follow from the motion alone, not from what the subject looks like.
        """
        return np.array([_seen(scene, self.scene.camera) for scene in self.scenes()], np.float32)


def render_clip(clip: Clip, size: int = 64) -> np.ndarray:
    """Draw all frames, (frames, size, size, 3) uint8."""
    return np.stack([render(scene, size).image for scene in clip.scenes()])


def _at(scene: Scene, motion: str, time: float) -> Scene:
    """`scene` at a share `time` (0..1) of the motion."""
    azimuth = math.radians(scene.camera.azimuth_degrees)
    right = np.array((math.cos(azimuth), 0.0, -math.sin(azimuth)))

    def pose(shift: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0), **turns: float) -> Scene:
        x, y, z = (float(value) for value in shift)
        return replace(scene, pose=Pose(shift=(x, y, z), **turns))

    def seen(**camera: float) -> Scene:
        return replace(scene, camera=replace(scene.camera, **camera))

    hop = 4 * time * (1 - time)
    wave = math.sin(2 * math.pi * time)
    if motion == "spin":
        # The last frame is one step before the first, so that the clip loops.
        return pose(yaw_degrees=315 * time)
    if motion == "slide left":
        return pose(right * (0.65 - 1.3 * time))
    if motion == "slide right":
        return pose(right * (1.3 * time - 0.65))
    if motion == "jump":
        return pose((0, 0.7 * hop, 0))
    if motion == "bounce":
        return pose((0, 0.5 * abs(math.sin(3 * math.pi * time)), 0))
    if motion == "roll":
        return pose(right * (1.4 * time - 0.7), roll_degrees=-360 * time)
    if motion == "swing":
        return pose(right * 0.55 * wave + np.array((0, 0.35 + 0.15 * wave * wave, 0)), roll_degrees=32 * wave)
    if motion == "grow":
        return pose(scale=0.45 + 0.75 * time)
    if motion == "orbit":
        return seen(azimuth_degrees=scene.camera.azimuth_degrees + 110 * time)
    return seen(distance=5.4 - 2.6 * time)


MOTIONS = (
    "spin", "slide left", "slide right", "jump", "bounce", "roll", "swing", "grow", "orbit", "zoom",
)  # fmt: skip
# Words for each motion; those of the camera are said of the camera.
MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "spin": ("spinning", "spinning", "turning around", "rotating"),
    "slide left": ("sliding to the left", "sliding to the left", "moving left", "gliding left"),
    "slide right": ("sliding to the right", "sliding to the right", "moving right", "gliding right"),
    "jump": ("jumping", "jumping", "jumping high", "leaping"),
    "bounce": ("bouncing", "bouncing", "bouncing up and down", "hopping"),
    "roll": ("rolling", "rolling", "tumbling", "rolling over"),
    "swing": ("swinging", "swinging", "swinging from side to side", "swaying"),
    "grow": ("growing", "growing", "getting bigger", "growing larger"),
    "orbit": ("the camera orbits", "the camera orbits", "camera orbit", "the camera moves around it"),
    "zoom": ("the camera zooms in", "the camera zooms in", "camera zoom", "the camera comes closer"),
}
CAMERA_MOTIONS = ("orbit", "zoom")


def _seen(scene: Scene, rest: Camera) -> tuple[float, float, float]:
    """Where the middle of the subject appears, and how large it is beside the subject at rest."""
    camera, pose = scene.camera, scene.pose
    azimuth, elevation = math.radians(camera.azimuth_degrees), math.radians(camera.elevation_degrees)
    towards = np.array(
        (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    )
    right = np.array((math.cos(azimuth), 0.0, -math.sin(azimuth)))
    up = np.cross(towards, right)
    # A subject that shrinks stands on the ground, so its middle sinks; subjects are about 1.7 high.
    offset = np.array(pose.shift) + np.array((0.0, 0.85 * (pose.scale - 1), 0.0))
    depth = camera.distance - offset @ towards
    widths = 2 * math.tan(math.radians(20)) * depth
    return (
        0.5 + float(offset @ right) / widths,
        0.5 - float(offset @ up) / widths,
        pose.scale * rest.distance / depth,
    )
