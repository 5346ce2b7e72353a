"""Styles of the mini world: a rendered picture as a cartoon, a pencil drawing, pixel art or a watercolour."""

import numpy as np
from PIL import Image, ImageFilter

STYLES = ("photo", "cartoon", "pencil", "pixel art", "watercolor")


def stylized(image: np.ndarray, depth: np.ndarray, style: str, variety: float) -> np.ndarray:
    """`image` (H, W, 3) uint8 in one of `STYLES`; `depth` (H, W), 0 off the subject, tells where outlines run."""
    if style == "cartoon":
        return _cartoon(image, depth)
    if style == "pencil":
        return _pencil(image, depth, variety)
    if style == "pixel art":
        return _pixel_art(image)
    if style == "watercolor":
        return _watercolor(image, variety)
    return image


def _edges(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """How much of an edge each pixel is, (H, W) in 0..1: of colour anywhere, and the subject's outline."""
    grey = image.astype(np.float32).mean(2) / 255
    down, across = np.gradient(grey)
    solid = (depth > 0).astype(np.float32)
    rim_down, rim_across = np.gradient(solid)
    return np.clip(5 * np.hypot(down, across) + 1.6 * np.hypot(rim_down, rim_across), 0, 1)


def _cartoon(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Few tones, strong colours, black outlines."""
    pixels = np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(3)), np.float32) / 255
    light = pixels.max(2, keepdims=True)
    steps = np.ceil(light * 4) / 4
    flat = pixels / np.maximum(light, 1e-3) * steps
    grey = flat.mean(2, keepdims=True)
    vivid = np.clip(grey + 1.35 * (flat - grey), 0, 1)
    rim = np.hypot(*np.gradient((depth > 0).astype(np.float32)))
    inside = _edges(image, depth) > 0.75
    ink = np.clip(2 * rim + 0.7 * inside * (depth > 0), 0, 1)[..., None]
    return (vivid * (1 - 0.92 * ink) * 255).astype(np.uint8)


def _pencil(image: np.ndarray, depth: np.ndarray, variety: float) -> np.ndarray:
    """Grey lines and hatching on white paper."""
    size = image.shape[0]
    grey = image.astype(np.float32).mean(2) / 255
    rows, columns = np.mgrid[:size, :size] * (64 / size)
    hatch = 0.5 + 0.5 * np.sin((rows + columns) * 1.7 + 6 * variety)
    tone = np.where(depth > 0, 0.55, 0.25) * (1 - grey) * (0.45 + 0.55 * hatch)
    drawn = 0.97 - tone - 0.75 * _edges(image, depth)
    return np.repeat((np.clip(drawn, 0.08, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def _pixel_art(image: np.ndarray) -> np.ndarray:
    """Thirty-two squares a side, few colours."""
    size = image.shape[0]
    small = Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)
    levels = np.round(np.asarray(small, np.float32) / 255 * 4) / 4
    return np.asarray(Image.fromarray((levels * 255).astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST))


def _watercolor(image: np.ndarray, variety: float) -> np.ndarray:
    """Pale washes that run a little, with darker rims, on rough paper."""
    size = image.shape[0]
    wash = Image.fromarray(image).filter(ImageFilter.ModeFilter(max(3, size // 20 | 1)))
    wash = np.asarray(wash.filter(ImageFilter.GaussianBlur(size / 100)), np.float32) / 255
    down, across = np.gradient(wash.mean(2))
    rim = np.clip(3 * np.hypot(down, across), 0, 0.3)[..., None]
    grain = np.random.default_rng(int(variety * 2**31)).normal(0, 0.025, (size, size, 1))
    pale = 0.28 + 0.74 * wash - rim + grain
    return (np.clip(pale, 0, 1) * 255).astype(np.uint8)
