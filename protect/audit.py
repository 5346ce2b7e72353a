"""Does a protection work? Personalizes on clean, noisy and protected photos with one seed and recipe, and compares."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from modalities.core import bases, media
from modalities.core import recipe as recipes
from modalities.core.artifact import Artifact
from modalities.core.backbone import Backbone
from modalities.core.concept import Concept
from modalities.core.draws import Draws
from modalities.core.errors import PcsError
from modalities.core.evaluate import evaluate
from modalities.core.evidence import Evidence
from modalities.core.exam import Exam
from modalities.core.files import fingerprint, lock, write_json
from modalities.core.machine import Machine
from modalities.core.metric import Scores
from modalities.core.personalize import personalize
from modalities.core.progress import Progress, Silent
from modalities.core.recipe import Recipe
from modalities.core.step import Batch, denoise
from protect import folder
from protect.pair import Pair, paired
from protect.purifiers import NAMES, purifier
from protect.visible import Perceptual

ARMS = ("clean", "noise", "protected")
METRICS = ("clip_t", "dino_i", "identity", "face", "diversity")
# A training is judged on these, as the previews of `pcs train` are.
TEMPLATES = ("a photo of {}", "a {} in the snow", "a {} on the beach", "a {} in the grass")
# Pairs of time and noise at which the untrained base's loss is measured.
BANK = 32
RECORD = "audit.json"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        clean, protected: folders of the same photos.
        noun: what they show, in a word.
        attacks: names or files of training recipes.
        bases: what they train; None is each recipe's own.
        purify: names of `purifiers.NAMES` that the photos go through, each in turn, besides as they are.
        mixed: how many of the photos the copier has without protection.
        seeds: trainings of each kind.
        count: pictures of each prompt.
    """

    clean: Path
    protected: Path
    noun: str
    attacks: tuple[str, ...]
    bases: tuple[str | None, ...] = (None,)
    purify: tuple[str, ...] = ()
    mixed: int = 0
    seeds: int = 2
    count: int = 4


@dataclass(frozen=True)
class Setting:
    """One way to train: which recipe on which base, on photos that went through what."""

    attack: str
    base: str
    purify: str

    def __str__(self) -> str:
        return f"{self.attack} on {self.base}, photos {self.purify or 'as they are'}"


def audit(question: Question, out: Path, machine: Machine, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train, draw and compare; return what `out/audit.json` says. Work that is done already is not done again.

    Raises:
        PcsError: the folders do not belong together, or the recipe does not exist; nothing was started.
        Interrupted: stopped by a signal; the trainings so far are kept.
    """
    progress = progress or Silent()
    pairs = paired(question.clean, question.protected)
    _require_sense(question, len(pairs))
    settings = [
        (attack, base, purify)
        for attack in question.attacks
        for base in question.bases
        for purify in ("", *question.purify)
    ]
    references = tuple(media.read_photo(question.clean / pair.name) for pair in pairs)
    with lock(out):
        _require_same(question, pairs, out)
        results: list[dict[str, Any]] = []
        losses: dict[str, Any] = {}
        for attack, base, purify in settings:
            chosen = _attack(attack, base)
            setting = Setting(attack, chosen.backbone, purify)
            backbone = machine.backbone(chosen.backbone)
            _write_arms(question, pairs, purify, backbone, out)
            if chosen.backbone not in losses:
                losses[chosen.backbone] = _base_losses(backbone, pairs, question.noun)
            results.append(_compared(question, setting, chosen, references, out, machine, progress))
        found = _found(question, pairs, losses, results, Perceptual(machine.device.torch))
        write_json(out / RECORD, found)
    return found


def _require_sense(question: Question, photos: int) -> None:
    for name in question.purify:
        if name not in NAMES:
            raise PcsError(f'--purify "{name}": there is no such step; allowed: {", ".join(NAMES)}, all, none.')
    if question.mixed >= photos:
        raise PcsError(f"--mix {question.mixed}: leaves no protected photo among {photos}; give a smaller number.")
    for attack in question.attacks:
        for base in question.bases:
            bases.resolve(_attack(attack, base).backbone)


def _require_same(question: Question, pairs: list[Pair], out: Path) -> None:
    """A folder of another audit, or of other files of the same names, is not gone on with.

    Raises:
        PcsError: `out` is of other work.
    """
    asked = json.loads(json.dumps(question.__dict__, default=str))
    folders = (question.clean, question.protected)
    asked["files"] = {pair.name: [fingerprint(folder / pair.name) for folder in folders] for pair in pairs}
    listing = out / "question.json"
    if listing.is_file():
        if json.loads(listing.read_text(encoding="utf-8")) != asked:
            raise PcsError(f"{out}: holds another audit; choose another --out.")
        return
    if any(path.name != ".lock" for path in out.iterdir()):
        raise PcsError(f"{out}: is not empty; choose another --out.")
    write_json(listing, asked)


def _attack(name: str, base: str | None, seed: int = 0) -> Recipe:
    """A training recipe, with no more looks than a training needs.

    Raises:
        PcsError: it is for something else than images.
    """
    plain = recipes.load(name, backbone=base)
    if plain.modality != "image":
        raise PcsError(f'--attack "{name}": is for {plain.modality}; give an image recipe of `pcs recipes list`.')
    steps = sum(phase.steps for phase in plain.stretches())
    looks = {"every": steps, "images": 1, "prompts": ["a photo of {}"], "select": "last", "patience": None}
    return recipes.load(name, {"train": {"seed": seed}, "validation": looks}, backbone=base)


# -- the photos of each arm ----------------------------------------------------------------------------------


def _photos(out: Path, purify: str, base: str, arm: str) -> Path:
    return out / "photos" / "-".join(filter(None, (purify, _name(base) if purify == "vae" else "", arm)))


def _name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def _write_arms(question: Question, pairs: list[Pair], purify: str, backbone: Backbone, out: Path) -> None:
    """Write the photos that each arm is trained on, as a copier would have them."""
    wash = purifier(purify, backbone) if purify else lambda pixels: pixels
    for arm in ARMS:
        place = _photos(out, purify, backbone.fingerprint, arm)
        for number, pair in enumerate(pairs):
            path = place / f"{number:03}.png"
            if path.is_file():
                continue
            is_mixed = number >= len(pairs) - question.mixed
            levels = {"clean": pair.clean, "noise": pair.clean if is_mixed else pair.noisy(),
                      "protected": pair.clean if is_mixed else pair.protected}[arm]  # fmt: skip
            media.save_png(media.to_image(wash(levels / 255)), path)


@torch.no_grad()
def _base_losses(backbone: Backbone, pairs: list[Pair], noun: str) -> dict[str, float]:
    """Mean denoising loss of the untrained base on each arm, at the same times and noises."""
    draws, sums = Draws(0), dict.fromkeys(ARMS, 0.0)
    for number, pair in enumerate(pairs):
        for arm in ARMS:
            levels = {"clean": pair.clean, "noise": pair.noisy(), "protected": pair.protected}[arm]
            posterior = backbone.encode(media.square(media.to_image(levels / 255), backbone.resolution)[None])
            shape = posterior.mean.shape[1:]
            for start in range(0, BANK, 8):
                positions = [number * BANK + start + one for one in range(8)]
                latents, noise = (draws.normal(f"bank {what}", positions, shape).to(backbone.device) for what in "ab")
                t = backbone.schedule.timesteps(draws.uniform("bank time", positions).to(backbone.device))
                prompts = (f"a photo of {noun}",) * 8
                batch = Batch(posterior.rows([0] * 8).sample(latents), noise, t, prompts, tuple(positions),
                              torch.zeros(8, dtype=torch.bool, device=backbone.device))  # fmt: skip
                sums[arm] += float(denoise(backbone, batch).error.sum())
    return {arm: value / (BANK * len(pairs)) for arm, value in sums.items()}


# -- training and drawing ------------------------------------------------------------------------------------


def _compared(
    question: Question,
    setting: Setting,
    chosen: Recipe,
    references: tuple[media.Photo, ...],
    out: Path,
    machine: Machine,
    progress: Progress,
) -> dict[str, Any]:
    """Train all arms of one setting, let them draw, and judge what they drew."""
    values: dict[str, dict[str, list[float]]] = {arm: {} for arm in ARMS}
    groups: list[str] = []
    fingerprint = bases.fingerprint(bases.resolve(chosen.backbone), offline=machine.offline)
    for seed in range(question.seeds):
        for arm in ARMS:
            progress.note(f"{setting}: seed {seed}, {arm}")
            photos = _photos(out, setting.purify, fingerprint, arm)
            run = _trained(question, setting, photos, out / _run_name(setting, seed, arm), seed, machine, progress)
            judged = _judged(question, run, references, machine, progress)
            for metric, scores in judged.items():
                values[arm].setdefault(metric, []).extend(scores)
            if arm == ARMS[0]:
                groups += [f"{seed} {template}" for template in TEMPLATES for _ in range(question.count)]
    differences = {name: _differences(values, name, groups) for name in values["protected"]}
    return {
        "attack": setting.attack,
        "base": setting.base,
        "purify": setting.purify or None,
        "values": values,
        "groups": groups,
        "differences": differences,
        "verdict": _verdict(differences["dino_i"]),
    }


def _run_name(setting: Setting, seed: int, arm: str) -> str:
    words = (_name(setting.attack), _name(Path(setting.base).name), setting.purify or "plain", str(seed), arm)
    return str(Path("runs") / "-".join(words))


def _trained(
    question: Question, setting: Setting, photos: Path, run: Path, seed: int, machine: Machine, progress: Progress
) -> Artifact:
    recipe = _attack(setting.attack, setting.base, seed)
    concept = Concept.from_folder(photos, noun=question.noun, subject=recipe.data.subject)
    return personalize(recipe, concept, run, machine, resume=True, progress=progress)


def _judged(
    question: Question, run: Artifact, photos: tuple[media.Photo, ...], machine: Machine, progress: Progress
) -> dict[str, list[float]]:
    """Scores of every picture by metric, those that can run; likeness is to the clean photos."""
    gallery = Exam(TEMPLATES, question.count).sit(run, machine, progress)
    report = evaluate(Evidence(gallery, machine, photos, progress=progress), METRICS)
    wanted = len(gallery.pictures)
    return {name: list(one.scores.values) for name, one in report.results.items() if len(one.scores.values) == wanted}


# -- what it means -------------------------------------------------------------------------------------------


def _differences(values: dict[str, dict[str, list[float]]], metric: str, groups: list[str]) -> dict[str, Any]:
    """What the protected arm has more than the others, picture by picture of one noise, with 95 % intervals.

    Pictures of one training and prompt are resampled together.
    """
    found: dict[str, Any] = {}
    for other in ("clean", "noise"):
        pairs = zip(values["protected"][metric], values[other][metric], strict=True)
        scores = Scores.of_pictures([mine - theirs for mine, theirs in pairs], groups)
        found[other] = {"mean": scores.mean, "low": scores.low, "high": scores.high}
    return found


def _verdict(likeness: dict[str, Any]) -> str:
    """Weakened: less like the subject than after clean photos and than after noise, both beyond the interval."""
    return "weakened" if all(gap["high"] < 0 for gap in likeness.values()) else "no clear effect"


def _found(
    question: Question,
    pairs: list[Pair],
    losses: dict[str, Any],
    results: list[dict[str, Any]],
    perceptual: Perceptual,
) -> dict[str, Any]:
    tested = {one["purify"] for one in results}
    record = folder.read_record(question.protected)
    made = (
        record["recipe"] if record else {"title": "an unknown method", "backbone": "an unknown base", "components": {}}
    )
    steps = [name for name in NAMES if name not in tested]
    untested = [f"photos after {', '.join(steps)}"] if steps else []
    untested += [
        "other training recipes, other bases, other resolutions",
        "removal by diffusion purification or upscaling",
    ]
    if question.mixed == 0:
        untested.append("a set in which some photos are unprotected (--mix)")
    return {
        "format": 1,
        "clean": str(question.clean),
        "protected": str(question.protected),
        "noun": question.noun,
        "photos": [pair.told(perceptual) for pair in pairs],
        "lpips": perceptual.missing or "measured",
        "mixed": question.mixed,
        "seeds": question.seeds,
        "pictures_per_training": len(TEMPLATES) * question.count,
        "protected_by": {"title": made["title"], "base": made["backbone"], "surrogate": list(made["components"])},
        "base_loss": losses,
        "results": results,
        "verdict": results[0]["verdict"],
        "not_tested": untested,
    }


def mean_of(result: dict[str, Any], arm: str, metric: str) -> float:
    """A mean score of one arm, NaN where the metric could not run."""
    values = [value for value in result["values"][arm].get(metric, []) if math.isfinite(value)]
    return fmean(values) if values else math.nan


def pictures(out: Path, result: dict[str, Any], arm: str, seed: int = 0) -> list[Image.Image]:
    """What a training of an arm drew."""
    run = out / _run_name(Setting(result["attack"], result["base"], result["purify"] or ""), seed, arm)
    return [Image.open(path) for path in sorted((run / "evaluation" / "pictures").glob("*.png"))]
