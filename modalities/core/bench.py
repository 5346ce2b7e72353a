"""Every recipe on every subject of a benchmark: trained, drawn, judged, each once, however often it is stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL.Image import Image

from modalities.core import generate, media
from modalities.core import recipe as recipes
from modalities.core.artifact import Artifact
from modalities.core.concept import Concept, fill
from modalities.core.dataset import Dataset, Subject
from modalities.core.errors import Interrupted, PcsError
from modalities.core.evaluate import Report, evaluate
from modalities.core.evidence import Evidence, Gallery, Picture, photos_of
from modalities.core.exam import Exam
from modalities.core.files import read_json, slug, write_json
from modalities.core.machine import Machine
from modalities.core.metric import Scores
from modalities.core.personalize import Plan, personalize, plan
from modalities.core.progress import Progress, stop_on_signals
from modalities.core.recipe import Recipe

MANIFEST = "benchmark.json"
# Prompts of a subject on which drift is measured.
CLASS_PROMPTS = 4
SURVEY = Path(__file__).with_name("survey_table1.csv")


@dataclass(frozen=True)
class Job:
    """One recipe on one subject."""

    recipe: str
    subject: Subject
    folder: Path

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"


@dataclass(frozen=True)
class Bench:
    """A benchmark folder: the manifest, and a folder for each job.

    images: pictures of each prompt. seed: of their noise; picture k of a prompt and a subject always starts from the
    same, whatever the recipe, the shard and what was drawn before.
    """

    folder: Path
    dataset: Dataset
    images: int = 4
    seed: int = 0

    @classmethod
    def open(cls, folder: Path, images: int = 4, seed: int = 0) -> Bench:
        """Open what `pcs bench init` made.

        Raises:
            PcsError: there is none.
        """
        return cls(folder, Dataset.open(folder / MANIFEST), images, seed)

    def jobs(self, chosen: Sequence[str], shard: tuple[int, int] = (0, 1)) -> list[Job]:
        """All jobs of some recipes, or every n-th of them for one of n machines."""
        every = [
            Job(name, subject, self.folder / "jobs" / slug(name) / subject.name)
            for name in chosen
            for subject in self.dataset.subjects
        ]
        return every[shard[0] :: shard[1]]

    def plans(self, chosen: Sequence[str], machine: Machine, base: str | None) -> dict[str, Plan]:
        """What one job of each recipe takes, tried on the first subject."""
        subject = self.dataset.subjects[0]
        found: dict[str, Plan] = {}
        for name in chosen:
            method = recipes.load(name, {}, backbone=base)
            found[name] = plan(method, _concept(method, subject), machine)
        return found

    def run(self, job: Job, machine: Machine, base: str | None, metrics: Sequence[str], progress: Progress) -> None:
        """Train, draw and judge one job, as far as that is not done.

        Raises:
            PcsError: it was done by other numbers of the recipe, or on another base.
            Interrupted: it was asked to stop; what was done is kept.
        """
        method = recipes.load(job.recipe, {}, backbone=base)
        made_by = hashlib.sha256(method.dump().encode()).hexdigest()
        if job.scores.is_file():
            told = read_json(job.scores)
            if told.get("recipe", made_by) != made_by:
                raise PcsError(f"{job.folder}: was done by other numbers of {job.recipe}; delete it to do it again.")
            known = {*told["metrics"], *told["not_run"]}
            if told.get("images", self.images) >= self.images and set(metrics) <= known:
                return
        concept = _concept(method, job.subject)
        run = personalize(method, concept, job.folder / "run", machine, resume=True, progress=progress)
        self._draw(job, run, machine, progress)
        classes = Exam(job.subject.prompts[:CLASS_PROMPTS], 1).class_pictures(run, machine)
        report = self.judged(job, machine, metrics, progress, classes)
        told = {
            name: {**one.line(), "values": [_finite(value) for value in one.scores.values]}
            for name, one in report.results.items()
        }
        megabytes = run.weights_file.stat().st_size / 1e6
        facts = {"base": method.backbone, "seconds": run.about()["seconds"], "megabytes": megabytes}
        facts |= {"recipe": made_by, "images": self.images}
        write_json(job.scores, {"metrics": told, "not_run": report.absent, **facts})

    def judged(
        self,
        job: Job,
        machine: Machine,
        metrics: Sequence[str],
        progress: Progress,
        classes: Callable[[], tuple[list[Image], list[Image]]] | None = None,
    ) -> Report:
        """What metrics say of the pictures of a job; `classes` draws the class, which drift needs."""
        noun, drawn = job.subject.noun, [one for one in self.pictures(job) if one[2].is_file()]
        pictures = tuple(Picture(path, fill(template, noun)) for template, _, path in drawn)
        gallery = Gallery(f"{job.recipe}, {job.subject.name}", pictures)
        photos = photos_of(Path(job.subject.photos))
        return evaluate(Evidence(gallery, machine, photos, classes, progress=progress), metrics)

    def pictures(self, job: Job) -> Iterator[tuple[str, int, Path]]:
        """Template, number and file of every picture of a job."""
        for template in job.subject.prompts:
            for number in range(self.images):
                yield template, number, job.folder / "pictures" / f"{slug(template)}-{_key(template)}" / f"{number}.png"

    def _draw(self, job: Job, run: Artifact, machine: Machine, progress: Progress) -> None:
        concept, wanted = run.concept(), list(self.pictures(job))
        missing = [one for one in wanted if not one[2].is_file()]
        if missing:
            studio = run.studio(machine, progress)
            progress.start(f"drawing {job.subject.name}", len(wanted), done=len(wanted) - len(missing))
            with stop_on_signals() as stop:
                for template, number, path in missing:
                    seed = self._noise(job.subject, template)
                    picture = generate.of_studio(studio, concept.prompt(template), seed=seed, index=number)
                    told = {"prompt": concept.prompt(template), "class_prompt": concept.class_prompt(template)}
                    media.save_png(picture, path, told)
                    progress.advance()
                    if stop:
                        raise Interrupted(f"{job.folder}: stopped; what was done is kept.")

    def _noise(self, subject: Subject, template: str) -> int:
        """The seed of a prompt's pictures."""
        digest = hashlib.sha256(f"{self.seed}/{subject.name}/{template}".encode()).digest()
        return int.from_bytes(digest[:6], "big")


def _concept(method: Recipe, subject: Subject) -> Concept:
    return Concept.from_folder(Path(subject.photos), noun=subject.noun, subject=method.data.subject)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -- tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A recipe on one kind of subjects.

    done: how many of its jobs are finished. scores: by metric. seconds: to learn a subject, and megabytes of what was
    learned, both the mean.
    """

    recipe: str
    title: str
    base: str
    kind: str
    done: int
    subjects: int
    scores: dict[str, Scores]
    seconds: float
    megabytes: float


def table(bench: Bench, chosen: Sequence[str]) -> list[Row]:
    """Scores over all pictures of all finished jobs; whole subjects are resampled for the intervals."""
    rows: list[Row] = []
    for name in chosen:
        for kind in ("object", "face"):
            jobs = [job for job in bench.jobs([name]) if (job.subject.kind == "face") == (kind == "face")]
            if not jobs:
                continue
            found = [(job, json.loads(job.scores.read_text("utf-8"))) for job in jobs if job.scores.is_file()]
            base = ", ".join(dict.fromkeys(told["base"] for _, told in found))
            costs = [
                fmean([told[cost] for _, told in found]) if found else math.nan for cost in ("seconds", "megabytes")
            ]
            title = recipes.load(name, {}).title
            rows.append(Row(name, title, base, kind, len(found), len(jobs), _pooled(found), *costs))
    return rows


def _pooled(found: list[tuple[Job, dict[str, Any]]]) -> dict[str, Scores]:
    names = dict.fromkeys(name for _, told in found for name, one in told["metrics"].items() if one["values"])
    pooled: dict[str, Scores] = {}
    for name in names:
        values, groups = [], []
        for job, told in found:
            own = told["metrics"].get(name, {"values": []})["values"]
            values += [math.nan if value is None else value for value in own]
            groups += [job.subject.name] * len(own)
        pooled[name] = Scores.of_pictures(values, groups)
    return pooled


@dataclass(frozen=True)
class Published:
    """A row of the survey's Table 1. fidelity: CLIP-I for objects, FaceNet similarity for faces."""

    kind: str
    method: str
    backbone: str
    clip_t: float
    fidelity: float


def survey_table1() -> list[Published]:
    """What the survey of personalized content synthesis printed (Table 1, https://arxiv.org/abs/2405.05538)."""
    with SURVEY.open(encoding="utf-8") as file:
        return [
            Published(row["type"], row["method"], row["backbone"], float(row["clip_t"]), float(row["fidelity"]))
            for row in csv.DictReader(file)
        ]


def compared(rows: list[Row]) -> list[list[str]]:
    """The survey's table with our numbers beside: method, both bases, theirs and ours on both axes, the differences.

    A method without a finished job says "not run"; nothing of ours is filled from the survey.
    """
    lines: list[list[str]] = []
    for published in survey_table1():
        names = (_letters(published.method), published.kind)
        mine = next((row for row in rows if (_letters(row.title), row.kind) == names), None)
        cells = [published.kind, published.method, published.backbone, mine.base if mine and mine.done else ""]
        fidelity = "clip_i" if published.kind == "object" else "face"
        for theirs, name in ((published.clip_t, "clip_t"), (published.fidelity, fidelity)):
            score = mine.scores.get(name) if mine and mine.done else None
            ours = f"{score.mean:.3f}" if score else "not run"
            cells += [f"{theirs:.3f}", ours, f"{score.mean - theirs:+.3f}" if score else ""]
        lines.append(cells)
    return lines


def _letters(title: str) -> str:
    """A title without spaces and case, which the survey sets in its own way."""
    return title.replace(" ", "").lower()


def parse_shard(text: str) -> tuple[int, int]:
    """Read "2/8", the third of eight shards, counted from 0.

    Raises:
        PcsError: it is not of that form.
    """
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise PcsError(f'--shard "{text}": write I/N with I from 0 to N-1, e.g. 0/8.')
    return int(number), int(count)
