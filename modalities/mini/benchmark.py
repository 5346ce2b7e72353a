"""The mini world as a benchmark: held-out subjects, and prompts that it can be judged on."""

from __future__ import annotations

from pathlib import Path

from modalities.core.dataset import Dataset, Subject
from modalities.core.files import fingerprint
from modalities.core.progress import Progress
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.truth import portraits, write_scenes
from modalities.mini.world import CLASS_NAMES
from modalities.mini.world import Subject as Individual

SEED = 7_000
PHOTOS = 5
# Probes can tell whether it is there; half are scenes, the rest views and what changes the look.
PROMPTS = (
    *(f"a {{}} {CONTEXT_PHRASES[context][0]}" for context in ("beach", "snow", "grass", "desert", "city", "moon")),
    "a {} in the forest, front view",
    "a {} on the street, side view",
    "a {} on a wooden table, seen from above",
    "a {} wearing a red hat",
    "a cartoon of a {} on the lake",
    "a pencil drawing of a {}",
)


def rendered(folder: Path, count: int, progress: Progress) -> Dataset:
    """Render `count` subjects of compositions that mini never trained on, the classes in turn, five photos each."""
    subjects: list[Subject] = []
    for number in range(count):
        kind = CLASS_NAMES[number % len(CLASS_NAMES)]
        one = Individual.random(SEED + number, kind, held_out=True)
        name = f"{kind}{number // len(CLASS_NAMES) or ''}"
        photos = write_scenes(portraits(one, SEED + number, PHOTOS), folder / name, 128, progress)
        digest = "".join(fingerprint(path)[:8] for path in sorted(photos.iterdir()))
        subjects.append(Subject(name, kind, "object", str(photos.resolve()), PROMPTS, digest))
    return Dataset("mini", tuple(subjects))
