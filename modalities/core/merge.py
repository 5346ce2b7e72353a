"""Several finished runs in one: their words side by side, their weight changes added or fused.

Adding is what any tool does with several LoRAs; each then also acts on the other's subject. Fusing looks for the one
change of every layer that does to each run's own inputs what the run's own change does, and nothing to the base's:

    min_D  sum_i mean |(D - D_i) x|^2 over the inputs x of run i  +  mean |D x|^2 over those of the base

which is the constrained merge of Custom Diffusion (Kumari et al., CVPR 2023, section 3.2, with its constraint as a
penalty) on the keys and values, and the gradient fusion of Mix-of-Show (Gu et al., NeurIPS 2023, section 4.2) on any
layer, both solved at once: with G_i the mean of x x^T, D = (sum_i D_i G_i) (sum_i G_i + G)^-1. The answer to low-rank
changes is a low-rank change again, of the sum of their ranks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from modalities.core import generate
from modalities.core import recipe as recipes
from modalities.core.artifact import FORMAT, Artifact, versions, write_tensors
from modalities.core.components.full_finetune import FullFinetune
from modalities.core.components.lora import Lora
from modalities.core.components.textual_inversion import TextualInversion
from modalities.core.components.token_mapper import TokenMapper
from modalities.core.components.token_table import TokenTable
from modalities.core.concept import Concept, fill, numbered, of_subject
from modalities.core.encoders import ImageEncoder
from modalities.core.errors import PcsError
from modalities.core.files import write_text
from modalities.core.layer_inputs import layer_of, second_moments
from modalities.core.machine import Machine
from modalities.core.media import Photo
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.core.portable import export
from modalities.core.progress import Progress
from modalities.core.recipe import Recipe
from modalities.core.studio import Studio

Method = Literal["fuse", "add"]
WORDS = (TextualInversion, TokenTable, TokenMapper)
LEARNERS = (*WORDS, Lora, FullFinetune)
# Added to the mean square of the inputs, so that directions that no picture used stay as the base has them.
RIDGE = 1e-3
PICTURES = 2


@dataclass(frozen=True)
class Share:
    """A run and what its weight changes are multiplied by."""

    run: Artifact
    weight: float = 1.0


@dataclass(frozen=True)
class Merged:
    """What several runs are together. subjects: as `Artifact.subjects` tells them. weights: as in a run folder."""

    recipe: Recipe
    subjects: list[dict[str, Any]]
    weights: dict[str, Tensor]
    base_fingerprint: str

    def studio(
        self, machine: Machine, progress: Progress | None = None, changes: dict[str, Any] | None = None
    ) -> Studio:
        """The base with everything in place, ready to generate; `changes` of the recipe are for this time only."""
        recipe = recipes.parse_to_draw(self.recipe.dump(), "the merged recipe", changes)
        studio = _bare(recipe, _concept(self.subjects), machine, progress)
        studio.load(self.weights)
        return studio

    def save(self, folder: Path, machine: Machine, facts: dict[str, Any]) -> Artifact:
        """Write a run folder that generates, with its portable files; `facts` are kept in run.json."""
        run = Artifact(folder)
        write_text(run.recipe_file, self.recipe.dump())
        write_tensors(run.weights_file, self.weights)
        first, *others = self.subjects
        about = {"format": FORMAT, "state": "finished", **first, "others": others}
        about |= {"base_fingerprint": self.base_fingerprint, "versions": versions(), **facts}
        run.write_about(about | {"portable": export(self.studio(machine), run.portable)})
        return run


@dataclass(frozen=True)
class Together:
    """Finished runs that fit together, with their recipes, what they learned, and the subjects under new words."""

    shares: list[Share]
    recipes: list[Recipe]
    learned: list[dict[str, Tensor]]
    subjects: list[dict[str, Any]]

    @classmethod
    def of(cls, shares: list[Share]) -> Together:
        """Read runs of one base, which learned by tokens, by LoRA or by fine-tuned weights of the same layers.

        Raises:
            PcsError: they do not fit together.
        """
        methods = [share.run.recipe() for share in shares]
        learned = [share.run.weights() for share in shares]
        _require_alike([share.run for share in shares], methods, learned)
        subjects = _subjects([share.run for share in shares], methods)
        _concept(subjects)
        return cls(shares, methods, learned, subjects)

    def concept(self) -> Concept:
        """The subjects' words; the slots {1}, {2}, … stand for them."""
        return _concept(self.subjects)

    def studio(self, machine: Machine, progress: Progress, changes: dict[str, Any] | None = None) -> Studio:
        """The base with the changes of all runs added."""
        return self.merged(machine, progress, method="add").studio(machine, progress, changes)

    def merged(self, machine: Machine, progress: Progress, *, method: Method) -> Merged:
        """Put the runs into one: "add" sums the changes, "fuse" solves for those that keep each run's own pictures."""
        first = self.shares[0].run
        bare = _bare(self.recipes[0], first.concept(), machine)
        own = bare.weights()
        seen = self._seen(bare, machine, progress) if method == "fuse" else None
        weights = self._words()
        for name in (name for name in self.learned[0] if not _is_word(name)):
            parts = [share.weight * one[name] for share, one in zip(self.shares, self.learned, strict=True)]
            if ".lora_B." in name:
                weights[name] = torch.cat([one[name] for one in self.learned], dim=1)
            elif ".lora_A." in name:
                downs = [_scale(recipe) * part for recipe, part in zip(self.recipes, parts, strict=True)]
                weights[name] = torch.cat(_turned(downs, seen, name))
            else:
                changes = [part - share.weight * own[name] for share, part in zip(self.shares, parts, strict=True)]
                weights[name] = own[name] + torch.stack(_turned(changes, seen, name)).sum(0)
        return Merged(_recipe(self.recipes), self.subjects, weights, first.about()["base_fingerprint"])

    def _seen(self, bare: Studio, machine: Machine, progress: Progress) -> list[dict[str, Tensor]]:
        """What the layers are given: of every run while it draws its subjects, then of the base and all classes."""
        progress.start("looking at what the layers see", len(self.shares) + 1)
        seen: list[dict[str, Tensor]] = []
        for share in self.shares:
            studio = share.run.studio(machine)
            templates = studio.recipe.validation.prompts
            seen.append(
                second_moments(studio, [one.prompt(text) for one in studio.concept.subjects for text in templates])
            )
            progress.advance()
        nouns = dict.fromkeys(one["noun"] for one in self.subjects)
        classes = [fill(text, noun) for noun in nouns for text in bare.recipe.validation.prompts]
        seen.append(second_moments(bare, classes))
        progress.advance()
        return seen

    def _words(self) -> dict[str, Tensor]:
        """The tokens of all subjects under the numbers that these now have."""
        words: dict[str, Tensor] = {}
        place = 0
        for share, weights in zip(self.shares, self.learned, strict=True):
            for number in range(1, 1 + len(share.run.subjects())):
                place += 1
                for name, value in weights.items():
                    if _is_word(name) and name == of_subject(_plain(name), number):
                        words[of_subject(_plain(name), place)] = value
        return words


def _concept(subjects: list[dict[str, Any]]) -> Concept:
    return Concept.together([Concept(one["noun"], one["phrase"]) for one in subjects])


def _bare(recipe: Recipe, concept: Concept, machine: Machine, progress: Progress | None = None) -> Studio:
    """The base with a recipe's components in place, as they are before they learn."""
    backbone = machine.backbone(recipe.backbone)
    return Studio(backbone, concept, recipe, training=False, cache=machine.cache, progress=progress)


def _require_alike(runs: list[Artifact], methods: list[Recipe], learned: list[dict[str, Tensor]]) -> None:
    first, known = runs[0], [kind.__module__.rpartition(".")[2] for kind in LEARNERS]
    for run, method, weights in zip(runs, methods, learned, strict=True):
        for part in sorted({name.partition(".")[0] for name in weights} - set(known)):
            raise PcsError(f"{run.folder}: learned by {part}, which cannot be merged; {', '.join(known)} can.")
        if run.about()["base_fingerprint"] != first.about()["base_fingerprint"]:
            raise PcsError(
                f"{run.folder}: was trained on another base than {first.folder} "
                f"({method.backbone}, {methods[0].backbone}); only runs of one base can be merged."
            )
        odd = sorted({_plain(name) for name in weights} ^ {_plain(name) for name in learned[0]})
        if odd:
            raise PcsError(f"{run.folder}: learned other layers than {first.folder} ({odd[0]}); use the same recipe.")
        if method.component("token_mapper") and method.train.seed != methods[0].train.seed:
            raise PcsError(
                f"{run.folder}: its network of words began from seed {method.train.seed} and that of {first.folder} "
                f"from {methods[0].train.seed}; only runs of one seed can be merged."
            )
        if _vectors(method) != _vectors(methods[0]):
            raise PcsError(
                f"{run.folder}: its token has {_vectors(method)} vectors and that of {first.folder} "
                f"{_vectors(methods[0])}; use the same recipe."
            )


def _word(method: Recipe) -> TextualInversion | TokenTable | TokenMapper | None:
    return next((part for part in method.components if isinstance(part, WORDS)), None)


def _vectors(method: Recipe) -> int:
    word = _word(method)
    return word.vectors if word else 0


def _subjects(runs: list[Artifact], methods: list[Recipe]) -> list[dict[str, Any]]:
    """All subjects, their phrases with the new words that tell them apart."""
    subjects: list[dict[str, Any]] = []
    target = _word(methods[0])
    for run, method in zip(runs, methods, strict=True):
        part = _word(method)
        for number, told in enumerate(run.subjects(), start=1):
            phrase = told["phrase"]
            if part and target:
                before, now = numbered(part.token, number), numbered(target.token, len(subjects) + 1)
                phrase = phrase.replace(before, now)
            subjects.append({"noun": told["noun"], "phrase": phrase, "photos": told["photos"]})
    return subjects


def _plain(name: str) -> str:
    """The name of a weight, without the number of the subject."""
    return re.sub(r"\.\d+$", "", name) if _is_word(name) else name


def _is_word(name: str) -> bool:
    return name.partition(".")[0] in [kind.__module__.rpartition(".")[2] for kind in WORDS]


def _recipe(methods: list[Recipe]) -> Recipe:
    """What generates: the first run's recipe, with what learned alone, and LoRA of the sum of all ranks."""
    loras = [part for method in methods for part in method.components if isinstance(part, Lora)]
    parts = [part.model_copy() for part in methods[0].components if isinstance(part, LEARNERS)]
    for part in parts:
        if isinstance(part, Lora):
            part.rank, part.alpha = sum(one.rank for one in loras), None
            part.text_encoder = sum(one.text_encoder for one in loras)
    return methods[0].model_copy(update={"title": "Merged subjects", "components": parts, "phases": []})


def _scale(recipe: Recipe) -> float:
    lora = recipe.component("lora")
    return lora.scale if isinstance(lora, Lora) else 1.0


def _turned(changes: list[Tensor], seen: list[dict[str, Tensor]] | None, name: str) -> list[Tensor]:
    """Changes `(out, in, ...)` turned so that each acts on its own run's inputs alone, as far as these differ."""
    layer = layer_of(name)
    if seen is None or not name.endswith(".weight") or layer not in seen[0]:
        return changes
    moments = [one[layer].cpu() for one in seen]
    total = torch.stack(moments).sum(0)
    total += RIDGE * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype)
    return [
        torch.linalg.solve(total, moment @ change.flatten(1).double().T).T.reshape(change.shape).float()
        for change, moment in zip(changes, moments, strict=False)
    ]


# -- did it work -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Likeness:
    """How like the photos of subject j the pictures of subject i are, `(i, j)`: drawn by its own run, and merged.

    sheet: the pictures behind it, rows with a label.
    """

    alone: list[list[float]]
    merged: list[list[float]]
    sheet: list[tuple[str, list[Image.Image]]]


def compare(
    shares: Sequence[Share], merged: Studio, photos: Sequence[Sequence[Photo]], machine: Machine, progress: Progress
) -> Likeness:
    """Draw every subject with its own run and with all together, from the same noise; see whom they are like.

    Args:
        shares: what was merged.
        merged: opened.
        photos: of every subject, in the order of the merged concept.
        machine: where to compute, with the encoder that judges.
        progress: told where the work stands.
    """
    templates = merged.recipe.validation.prompts
    progress.start("drawing every subject", len(photos) * 2)
    encoder = ImageEncoder(machine.subject_encoder, machine.device.torch, offline=machine.offline)
    judges = [SubjectSimilarity(encoder, [photo.open() for photo in some]) for some in photos]
    alone: list[list[Image.Image]] = []
    for share in shares:
        studio = share.run.studio(machine)
        for one in studio.concept.subjects:
            alone.append(generate.previews(studio, [one.prompt(text) for text in templates], PICTURES))
            progress.advance()
    together: list[list[Image.Image]] = []
    rows: list[tuple[str, list[Image.Image]]] = []
    for number, one in enumerate(merged.concept.subjects):
        together.append(generate.previews(merged, [one.prompt(text) for text in templates], PICTURES))
        progress.advance()
        rows.append((f"the photos of {one.phrase}", [photo.open() for photo in photos[number]][:8]))
        rows += [(f"{one.phrase}, its own run", alone[number]), (f"{one.phrase}, merged", together[number])]
    tables = [[[mean(judge.score(images)) for judge in judges] for images in drawn] for drawn in (alone, together)]
    return Likeness(tables[0], tables[1], rows)
