"""What protections are worth on mini: `python -m tests.benchmarks.protection`, resumable; `make bench-protect`.

Twelve invented subjects, each with a seed of its own. For each: the photos, random signs of the same size, and the
default, all within 8 levels on the saved file; for the first of them also ASPL as released, and the files after JPEG
and after halving; for two of them also the default at 16 levels. The same DreamBooth-LoRA is trained on each and draws
the same pictures, compared with the untouched photos. Writes the table into docs/protect.md, and pictures of the two
beside it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modalities.core import bases, device, generate, media, recipe
from modalities.core.backbone import Backbone
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.evaluate import evaluate
from modalities.core.evidence import Evidence, Gallery, Picture
from modalities.core.machine import Machine
from modalities.core.progress import Silent
from modalities.core.report import contact_sheet
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from modalities.mini import truth
from modalities.mini.world import Subject
from protect import protect as work
from protect.audit import TEMPLATES
from protect.pair import Pair
from protect.protect import STATE
from protect.purifiers import PURIFIERS
from protect.recipe import Protection

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "protect.md"
FIGURE = ROOT / "docs" / "images" / "protect.jpg"
START, END = "<!-- measured -->", "<!-- /measured -->"
SUBJECTS = (
    "mug", "dog", "backpack", "teapot", "robot", "car", "chair", "house", "duck", "snowman", "bear", "lamp",
)  # fmt: skip
# How many of them are also protected by ASPL, and have their files worn.
FIRST = 6
# Which of them are shown: one that loses nothing by the default, and one that loses most.
SHOWN, COLUMNS = ("mug", "backpack"), 6
LEVELS, STRONG, PHOTOS, SIDE, PER_PROMPT = 8, 16, 4, 64, 4
RECIPES = {"default": "protect/default", "aspl": "protect/aspl_as_released", "strong": "protect/default"}
ARMS = ("clean", "noise", "aspl", "default")
WORN = ("jpeg90", "resize")
METRICS = ("dino_i", "clip_t", "identity")
# Student's t for 95 %, for 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
NAMES = {"clean": "photos as they are", "noise": "random signs", "aspl": "ASPL as released", "default": "default"}
NAMES["strong"] = f"default at {STRONG} levels"


class Bench:
    """Runs what is missing; every result is a line of results.jsonl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = Machine(device.choose("cpu"), Cache(folder / "cache"), offline=True)
        self.listing = folder / "results.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.listing.read_text().splitlines() if self.listing.is_file() else []
        self.results: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        return any(all(one.get(name) == value for name, value in key.items()) for one in self.results)

    def add(self, **result: Any) -> None:
        self.results.append(result)
        with self.listing.open("a") as file:
            file.write(json.dumps(result) + "\n")
        sys.stderr.write(f"{result}\n")

    def photos(self, seed: int) -> Path:
        """The photos of subject number `seed`."""
        place = self.folder / f"subject-{seed}"
        if not (place / "photos").is_dir():
            one = Subject.random(seed, SUBJECTS[seed], held_out=True)
            truth.write_scenes(truth.portraits(one, seed, PHOTOS), place, SIDE, Silent())
        return place / "photos"

    def arm(self, seed: int, arm: str) -> Path:
        """The folder of an arm's files."""
        clean = self.photos(seed)
        if arm == "clean":
            return clean
        place = self.folder / f"subject-{seed}" / arm
        if arm == "noise":
            for path in sorted(clean.glob("*.png")):
                levels = media.to_pixels(media.read_photo(path).open()) * 255
                noisy = Pair(path.name, levels, levels + LEVELS).noisy()
                media.save_png(media.to_image(noisy / 255), place / path.name)
        elif not self.has(kind="protect", seed=seed, arm=arm):
            levels = STRONG if arm == "strong" else LEVELS
            made = recipe.load(RECIPES[arm], {"budget": {"levels": levels}, "train": {"seed": seed}})
            assert isinstance(made, Protection)
            resumed, started, used = (place / STATE).is_file(), time.monotonic(), time.process_time()
            record = work.protect(made, clean, place, self.machine, noun=SUBJECTS[seed], resume=True)
            self.add(
                kind="protect", seed=seed, arm=arm, resumed=resumed, seconds=round(time.monotonic() - started, 1),
                cpu_seconds=round(time.process_time() - used, 1),
                largest=max(one["largest"] for one in record["files"].values()),
                mean=fmean(one["mean"] for one in record["files"].values()),
            )  # fmt: skip
        return place

    def train(self, seed: int, arm: str, worn: str = "") -> None:
        """Train on an arm's files, draw, and judge."""
        if self.has(kind="train", seed=seed, arm=arm, worn=worn):
            return
        photos = self.arm(seed, arm)
        if worn:
            photos = self._worn(photos, self.folder / f"subject-{seed}" / f"{arm}-{worn}", worn)
        chosen = recipe.load("image/dreambooth_lora", {"train": {"seed": seed}})
        concept = Concept.from_folder(photos, noun=SUBJECTS[seed], subject=chosen.data.subject)
        backbone = bases.load(bases.resolve(chosen.backbone), self.machine.device, offline=True)
        studio = Studio(backbone, concept, chosen, training=True, cache=self.machine.cache)
        trainer = Trainer(studio)
        while trainer.step < trainer.total:
            trainer.advance()
        studio.set_learning({})
        with studio.at_rest():
            drawn = generate.previews(studio, [concept.prompt(one) for one in TEMPLATES], PER_PROMPT)
        place = self.folder / "pictures" / f"{seed}-{arm}{worn}"
        pictures: list[Picture] = []
        for number, image in enumerate(drawn):
            media.save_png(image, place / f"{number:02}.png")
            pictures.append(Picture(place / f"{number:02}.png", concept.class_prompt(TEMPLATES[number // PER_PROMPT])))
        references = Concept.from_folder(self.photos(seed), noun=SUBJECTS[seed]).photos
        report = evaluate(Evidence(Gallery(arm, tuple(pictures)), self.machine, references), METRICS)
        means = {name: report.results[name].scores.mean for name in METRICS}
        self.add(kind="train", seed=seed, arm=arm, worn=worn, **means)

    def look(self, seed: int, arm: str) -> None:
        """How far an arm's files move the base's latents, as a share of the spread of the photos' own."""
        if self.has(kind="look", seed=seed, arm=arm):
            return
        backbone = bases.load(bases.resolve("mini"), self.machine.device, offline=True)
        clean, moved = (self._latents(backbone, place) for place in (self.photos(seed), self.arm(seed, arm)))
        share = float((moved - clean).square().mean().sqrt() / clean.std())
        self.add(kind="look", seed=seed, arm=arm, share=round(share, 4))

    def _latents(self, backbone: Backbone, place: Path) -> Tensor:
        photos = [media.to_pixels(media.read_photo(path).open()) for path in sorted(place.glob("*.png"))]
        with torch.no_grad():
            return backbone.encode(torch.stack(photos)).mean

    def _worn(self, photos: Path, place: Path, worn: str) -> Path:
        for path in sorted(photos.glob("*.png")):
            pixels = media.to_pixels(media.read_photo(path).open())
            media.save_png(media.to_image(PURIFIERS[worn](pixels)), place / path.name)
        return place

    # -- the table -------------------------------------------------------------------------------------------

    def values(self, arm: str, worn: str, metric: str) -> dict[int, float]:
        found = [one for one in self.results if one["kind"] == "train" and (one["arm"], one["worn"]) == (arm, worn)]
        return {one["seed"]: one[metric] for one in found}

    def difference(self, arm: str, other: str, worn: str, metric: str) -> str:
        mine, theirs = self.values(arm, worn, metric), self.values(other, worn, metric)
        gaps = [mine[seed] - theirs[seed] for seed in sorted(set(mine) & set(theirs))]
        if len(gaps) < 2:
            return "-"
        half = STUDENT[len(gaps) - 2] * stdev(gaps) / math.sqrt(len(gaps))
        return f"{fmean(gaps):+.3f} ({fmean(gaps) - half:+.3f} to {fmean(gaps) + half:+.3f}), n {len(gaps)}"

    def table(self) -> str:
        """The measurements as Markdown."""
        head = ("trained on", "identity", "DINO-I", "CLIP-T", "against clean", "against random signs", "against ASPL")
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for worn in ("", *WORN):
            for arm in ARMS:
                columns = [self.values(arm, worn, name) for name in ("identity", "dino_i", "clip_t")]
                if not columns[0]:
                    continue
                label = NAMES[arm] + (f", after {worn}" if worn else "") + f" (n {len(columns[0])})"
                means = " | ".join(f"{fmean(one.values()):.3f}" for one in columns)
                others = ARMS[: ARMS.index(arm)]
                gaps = [
                    self.difference(arm, other, worn, "identity") if other in others else ""
                    for other in ("clean", "noise", "aspl")
                ]
                lines.append(f"| {label} | {means} | {' | '.join(gaps)} |")
        lines += ["", *self._subjects(), "", *self._costs()]
        return "\n".join(lines) + "\n"

    def _subjects(self) -> list[str]:
        """Identity of every subject, for it differs more between subjects than between arms."""
        lines = [f"| identity of the | {' | '.join(NAMES[arm] for arm in ARMS)} |", "|---|---|---|---|---|"]
        for seed, noun in enumerate(SUBJECTS):
            found = [self.values(arm, "", "identity").get(seed) for arm in ARMS]
            lines.append(f"| {noun} | {' | '.join('not run' if one is None else f'{one:.3f}' for one in found)} |")
        return lines

    def figure(self) -> Image.Image:
        """Two subjects: their photos, the protected files, and what was learned from them."""
        rows: list[tuple[str, list[Image.Image]]] = []
        for noun in SHOWN:
            seed = SUBJECTS.index(noun)
            place = self.folder / f"subject-{seed}"
            for label, name in (("the photos", "photos"), (f"protected by the {NAMES['default']}", "default")):
                rows.append((f"{noun}: {label}", _opened(place / name)))
            for arm in ("clean", "aspl", "default", "strong"):
                if (score := self.values(arm, "", "identity").get(seed)) is None:
                    continue
                drawn = _opened(self.folder / "pictures" / f"{seed}-{arm}")
                shown = drawn[:: len(drawn) // COLUMNS][:COLUMNS]
                rows.append((f"{noun}: learned from {NAMES[arm]}, identity {score:.2f}", shown))
        return contact_sheet(rows)

    def _costs(self) -> list[str]:
        head = ("protection of 4 photos", "processor seconds", "largest, levels", "mean, levels", "latents moved")
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for arm in ("noise", "aspl", "default"):
            own = [one for one in self.results if one["kind"] == "protect" and one["arm"] == arm]
            # What an earlier process spent on work that was gone on with is not known.
            own = [one for one in own if not one.get("resumed")]
            cells = ["", f"{LEVELS}", ""]
            if own:
                cost, mean = (fmean(one[name] for one in own) for name in ("cpu_seconds", "mean"))
                cells = [f"{cost:.1f}", f"{max(one['largest'] for one in own):g}", f"{mean:.2f}"]
            shares = [one["share"] for one in self.results if one["kind"] == "look" and one["arm"] == arm]
            cells.append(f"{fmean(shares):.1%} of their spread (n {len(shares)})" if shares else "not run")
            lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} |")
        return lines


def _opened(folder: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted(folder.glob("*.png"))]


def main(folder: Path) -> None:
    """Measure, and put the table into the document."""
    bench = Bench(folder)
    wanted = [(seed, arm, "") for seed in range(len(SUBJECTS)) for arm in ("clean", "noise", "default")]
    wanted += [(seed, "aspl", "") for seed in range(FIRST)]
    wanted += [(SUBJECTS.index(noun), "strong", "") for noun in SHOWN]
    wanted += [(seed, arm, worn) for worn in WORN for seed in range(FIRST) for arm in ("noise", "default")]
    for seed, arm, worn in wanted:
        bench.train(seed, arm, worn)
        if arm != "clean" and not worn:
            bench.look(seed, arm)
        write(bench)
    bench.figure().save(FIGURE, quality=88)


def write(bench: Bench) -> None:
    """Replace the measured part of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{START}\n{bench.table()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.argv[2:] == ["table"]:
        write(Bench(Path(sys.argv[1])))
    elif sys.argv[2:] == ["figure"]:
        Bench(Path(sys.argv[1])).figure().save(FIGURE, quality=88)
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "bench-protect"))
