"""Clips on disk and frames in memory: what a video file truly holds, and only those of its frames that are needed.

Everything is read and written by one ffmpeg, which imageio-ffmpeg brings along. Sound is never read.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from modalities.core import media
from modalities.core.errors import PcsError, RunFailed
from modalities.core.files import fingerprint, replacing

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# A clip is looked through at this many pixels a side, and for no longer than this: memory stays below 40 MB.
LOOK_SIDE = 64
LOOK_SECONDS = 30.0
LOOK_FRAMES = 1800
# Changes between frames, mean of pixels in [0, 1], above which there may be a cut; and beside the usual change.
CUT, CUT_BESIDE_USUAL = 0.1, 6.0
UNEVEN = 0.2


@dataclass(frozen=True)
class Clip:
    """One usable clip.

    Attributes:
        path: its file.
        width, height: pixels, upright.
        seconds: how long it is.
        times: when each frame that was looked at is shown, in seconds from the first.
        small: these frames, (frames, LOOK_SIDE, LOOK_SIDE, 3) uint8, squeezed to a square.
        rotation: degrees by which a player turns it.
        has_sound: whether there is an audio track.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    width: int
    height: int
    seconds: float
    times: tuple[float, ...]
    small: np.ndarray = field(compare=False, repr=False)
    rotation: float
    has_sound: bool
    digest: str

    @property
    def frames_per_second(self) -> float:
        """Frames shown per second on average."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    @property
    def is_uneven(self) -> bool:
        """Whether frames are shown for different times (a variable frame rate)."""
        steps = np.diff(self.times)
        return bool(steps.max() - steps.min() > UNEVEN * np.median(steps))

    @property
    def is_cut_short(self) -> bool:
        """Whether only the beginning was looked at."""
        return self.seconds - self.times[-1] > 2 / self.frames_per_second + 0.1

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """The frames that begin a new shot."""
        values = self.small.astype(np.float32) / 255
        change = np.abs(np.diff(values, axis=0)).mean((1, 2, 3))
        return tuple(
            number + 1
            for number, one in enumerate(change)
            if one > CUT and one > CUT_BESIDE_USUAL * np.median(np.delete(change, number))
        )

    @property
    def shots(self) -> tuple[tuple[int, int], ...]:
        """First frame and the one after the last of each shot."""
        edges = (0, *self.cuts, len(self.times))
        return tuple((edges[i], edges[i + 1]) for i in range(len(edges) - 1))

    @property
    def longest_shot(self) -> tuple[int, int]:
        """First frame and the one after the last of the longest shot."""
        return max(self.shots, key=lambda shot: shot[1] - shot[0])

    def spread(self, frames: int) -> tuple[int, ...]:
        """At most that many frames, evenly spread over the longest shot, to be shown or measured."""
        first, last = self.longest_shot
        return tuple(int(place) for place in np.linspace(first, last - 1, min(frames, last - first)).round())

    def choose(
        self, frames: int, rate: float | None = None, start: float | None = None, stop: float | None = None
    ) -> tuple[int, ...]:
        """Which frames are taken: those shown at even times, so that a variable frame rate does not bend the motion.

        A frame that is shown for longer than others, as in a GIF that leaves out repeats, may be taken twice.

        Args:
            frames: how many.
            rate: frames per second of what is taken; None spreads them over all from `start` to `stop`.
            start: seconds; None with `stop` None means the longest shot.
            stop: seconds.

        Raises:
            PcsError: there are not enough different frames there.
        """
        first, last = self._range(start, stop)
        times = np.array(self.times[first:last])
        wanted = times[0] + np.arange(frames) / rate if rate else np.linspace(times[0], times[-1], frames)
        step = float(np.median(np.diff(times)))
        # Files round their times, a GIF to hundredths of a second.
        chosen = [first + int(np.searchsorted(times, one + 0.25 * step, side="right")) - 1 for one in wanted]
        if wanted[-1] > times[-1] + 0.5 * step or wanted[1] - wanted[0] < 0.75 * step:
            where = f" between {times[0]:.2f} and {times[-1]:.2f} s" if last - first < len(self.times) else ""
            speed = f" at {rate:g} a second" if rate else ""
            raise PcsError(
                f"{self.path}: has {last - first} frames{where}, and {frames}{speed} are needed; "
                "take fewer frames, a higher rate or a longer clip."
            )
        return tuple(chosen)

    def _range(self, start: float | None, stop: float | None) -> tuple[int, int]:
        if start is None and stop is None:
            return self.longest_shot
        low, high = start or 0.0, self.times[-1] if stop is None else stop
        inside = [number for number, time in enumerate(self.times) if low - 1e-6 <= time <= high + 1e-6]
        if len(inside) < 2:
            raise PcsError(
                f"{self.path}: has no two frames from {low:g} to {high:g} s; it was looked at until "
                f"{self.times[-1]:.2f} s."
            )
        return inside[0], inside[-1] + 1

    def read(self, chosen: Sequence[int], side: int) -> Float[Tensor, "f 3 side side"]:
        """Decode the chosen frames as squares from the middle, in [0, 1]; nothing else is kept."""
        import torch

        once = sorted(set(chosen))
        picked = _sum([f"eq(n\\,{number})" for number in once])
        fitted = f"scale={side}:{side}:force_original_aspect_ratio=increase:flags=lanczos+accurate_rnd+full_chroma_int"
        raw, _ = _ffmpeg(
            self.path, ["-vf", f"select='{picked}',{fitted},crop={side}:{side}", "-frames:v", str(len(once))]
        )
        frames = np.frombuffer(raw, np.uint8).reshape(-1, side, side, 3)
        if len(frames) != len(once):
            raise PcsError(f"{self.path}: only {len(frames)} of {len(once)} frames can be decoded; it is damaged.")
        return torch.from_numpy(frames[[once.index(number) for number in chosen]]).permute(0, 3, 1, 2).float().div(255)


def _sum(terms: list[str]) -> str:
    """Terms added in pairs, then these: ffmpeg takes no more than a hundred in a row."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_sum(terms[:half])}+{_sum(terms[half:])})"


def read_clip(path: Path) -> Clip:
    """Look through a video file, at most `LOOK_SECONDS` of it, at a small size.

    Raises:
        PcsError: it is missing, is no video, or is a still.
    """
    if not path.is_file():
        what = "is a folder; give a video file" if path.is_dir() else "there is no such file"
        raise PcsError(f"{path}: {what}.")
    if not path.stat().st_size:
        raise PcsError(f"{path}: is empty (0 bytes).")
    filters = f"scale={LOOK_SIDE}:{LOOK_SIDE}:flags=area,showinfo"
    raw, said = _ffmpeg(path, ["-t", str(LOOK_SECONDS), "-frames:v", str(LOOK_FRAMES), "-vf", filters])
    shown = [float(time) for time in re.findall(r"showinfo.* pts_time:\s*(-?[\d.]+)", said)]
    frames = np.frombuffer(raw, np.uint8).reshape(-1, LOOK_SIDE, LOOK_SIDE, 3)
    count = min(len(frames), len(shown))
    size = re.search(r"Stream #.*Video:.* (\d{2,})x(\d{2,})", said)
    if not count or size is None:
        raise PcsError(f"{path}: is not a video, or of a format that ffmpeg cannot read.")
    if count < 2:
        raise PcsError(f"{path}: has one frame only, so nothing moves in it; give a clip (for a still, use --photos).")
    rotation = re.search(r"rotation of (-?[\d.]+) degrees", said)
    turned = float(rotation[1]) if rotation else 0.0
    width, height = int(size[1]), int(size[2])
    if round(abs(turned)) % 180 == 90:
        width, height = height, width
    times = tuple(round(time - shown[0], 6) for time in shown[:count])
    if times[-1] <= 0:
        raise PcsError(f"{path}: says that all its frames are shown at once; save it anew with a frame rate.")
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
    seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else times[-1]
    sound = re.search(r"Stream #.*Audio:", said) is not None
    return Clip(path, width, height, seconds, times, frames[:count], turned, sound, fingerprint(path))


def remarks(clip: Clip) -> list[str]:
    """What the user should know about a clip before it is learned from."""
    found: list[str] = []
    if clip.is_uneven:
        found.append("has a variable frame rate; frames are taken at even times.")
    if clip.cuts:
        first, last = clip.longest_shot
        at = ", ".join(f"{clip.times[cut]:.2f}" for cut in clip.cuts[:5])
        found.append(
            f"has {len(clip.cuts)} cut{'s' if len(clip.cuts) > 1 else ''} (at {at} s); its longest shot is taken, "
            f"{clip.times[first]:.2f} to {clip.times[last - 1]:.2f} s. Choose another with "
            "--set components.footage.start=… and stop=…."
        )
    if clip.rotation:
        found.append(f"is turned by {abs(clip.rotation):g} degrees, as players do.")
    if clip.is_cut_short:
        found.append(f"is {clip.seconds:.0f} s long; only its first {clip.times[-1]:.0f} s are looked at.")
    return [f"{clip.path.name} {one}" for one in found]


def save_clip(
    frames: Float[Tensor, "f 3 h w"], path: Path, frames_per_second: float, about: dict[str, str] | None = None
) -> None:
    """Write an mp4 that plays everywhere (h264, yuv420p, even sides), atomically; `about` is kept as its comment.

    Players stumble over fewer than 5 frames a second, so frames are shown several times then.

    Raises:
        RunFailed: ffmpeg cannot write it.
    """
    levels = (frames.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    repeats = max(1, int(np.ceil(5 / frames_per_second)))
    levels = np.repeat(levels, repeats, axis=0)
    height, width = levels.shape[1:3]
    levels = np.pad(levels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{levels.shape[2]}x{levels.shape[1]}"]
    given += ["-r", f"{frames_per_second * repeats:g}", "-i", "-"]
    encoder = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12", "-preset", "medium", "-threads", "1"]
    # Small pictures lose their colours in yuv420p at the usual strength of compression, hence crf 12.
    comment = ["-metadata", f"comment={json.dumps(about, ensure_ascii=False)}"] if about else []
    with replacing(path) as temporary:
        words = [_executable(), "-y", "-loglevel", "error", *given, *encoder, *comment]
        words += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", str(temporary)]
        done = subprocess.run(words, input=levels.tobytes(), capture_output=True, check=False)
        if done.returncode:
            raise RunFailed(f"{path}: ffmpeg cannot write it ({done.stderr.decode(errors='replace').strip()[:200]}).")


def save_previews(frames: Float[Tensor, "f 3 h w"], path: Path, rate: float, about: dict[str, str]) -> list[Path]:
    """Write `path` (.mp4) and, beside it, the same as a .gif for pages that show no video; return both."""
    save_clip(frames, path, rate, about)
    media.save_gif(as_images(frames), path.with_suffix(".gif"), rate)
    return [path, path.with_suffix(".gif")]


def as_images(frames: Float[Tensor, "f 3 h w"]) -> list[Image.Image]:
    """The frames of a clip as pictures."""
    return [media.to_image(frame) for frame in frames]


def _ffmpeg(path: Path, how: list[str]) -> tuple[bytes, str]:
    """Decode with one ffmpeg run, upright; return raw RGB frames, each once, and what it said."""
    end = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    words = [_executable(), "-nostdin", "-hide_banner", "-i", f"file:{path}", "-map", "0:v:0", *how, *end]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.stdout, done.stderr.decode(errors="replace")


def _executable() -> str:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        found = shutil.which(get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError):
        found = None
    if found is None:
        raise PcsError(
            "there is no ffmpeg to read and write clips; install it with `pip install imageio-ffmpeg`, or set "
            "IMAGEIO_FFMPEG_EXE to one."
        )
    return found
