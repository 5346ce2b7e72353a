"""What the embedded base learns from: rendered pictures and clips, their captions, and the tokenizer of these.

All of it is kept in the cache under keys of what it depends on, and made once.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import CLIPTokenizer

from modalities.core.errors import Interrupted
from modalities.core.files import replacing
from modalities.core.progress import Progress, StopRequest
from modalities.mini import captions, denoiser, encoders, shards
from modalities.mini.motion import FRAMES
from modalities.mini.settings import BuildRecipe, Lesson
from modalities.mini.tokenizer import train_tokenizer
from modalities.mini.world import Scene


class Stock:
    """Pictures and words of one build recipe. Each property makes its result once."""

    def __init__(
        self,
        recipe: BuildRecipe,
        folder: Path,
        progress: Progress,
        stop: StopRequest,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        self.recipe, self.folder, self.progress, self.stop, self.device, self.processes = (
            recipe,
            folder,
            progress,
            stop,
            device,
            processes,
        )

    @cached_property
    def pictures_folder(self) -> Path:
        return self._pictures_folder("pictures", Scene.random)

    @cached_property
    def pictures(self) -> shards.Pictures:
        """All training pictures of the first ring, rendered."""
        return self.first_pictures(self.recipe.world.pictures)

    def first_pictures(self, count: int) -> shards.Pictures:
        """The first `count` of them; no others are rendered."""
        return self._rendered(self.pictures_folder, shards.training_scene, count)

    @cached_property
    def varied_folder(self) -> Path:
        return self._pictures_folder("varied", Scene.varied)

    @cached_property
    def varied(self) -> shards.Pictures:
        """All training pictures of the second ring."""
        return self._rendered(self.varied_folder, shards.varied_scene, self.recipe.world.varied)

    @cached_property
    def frames_folder(self) -> Path:
        return self._pictures_folder("frames", lambda index: shards.frame_scene(0, index))

    @cached_property
    def frames(self) -> shards.Pictures:
        """The frames of all training clips, one after the other."""
        return self._rendered(self.frames_folder, shards.frame_scene, self.recipe.world.clips * FRAMES)

    @cached_property
    def families(self) -> shards.Pictures:
        """Pictures of the same individuals in other contexts and views."""
        settings = self.recipe.subject_encoder
        folder = self.stage_folder("families", self.pictures_folder.name, settings.views)
        scene_of = partial(encoders.family_scene, views=settings.views)
        return self._rendered(folder, scene_of, settings.families * settings.views)

    def _pictures_folder(self, name: str, sample: Callable[[int], Scene]) -> Path:
        key = (shards.fingerprint(self.recipe.size, sample), self.recipe.size, self.recipe.seed)
        return self.stage_folder(name, *key)

    def _rendered(self, folder: Path, scene_of: Callable[[int, int], Scene], count: int) -> shards.Pictures:
        work = shards.Rendering(folder, partial(scene_of, self.recipe.seed), count, self.recipe.size)
        if not work.run(self.processes, self.progress, self.stop):
            self.interrupt("rendering")
        return shards.Pictures.open(folder, count)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, learned from the captions of the first pictures."""
        count, seed = min(3000, self.recipe.world.pictures), self.recipe.seed
        said = [text for i in range(count) for text in shards.captions_of(i, seed, 4)]
        return train_tokenizer([*said, *captions.all_words() * 4], self.recipe.vocabulary)

    @cached_property
    def worded_tokenizer(self) -> CLIPTokenizer:
        """The same with a token for each word of motion that learns with the temporal layers."""
        tokenizer = copy.deepcopy(self.tokenizer)
        words = chain.from_iterable(words for stretch in self.recipe.motion_words for words in stretch.added.values())
        tokenizer.add_tokens([AddedToken(word, single_word=True) for word in words])
        return tokenizer

    def tokens_of(
        self,
        captions_of: Callable[[int, int, int], list[str]],
        pictures: int,
        count: int,
        tokenizer: CLIPTokenizer | None = None,
    ) -> np.ndarray:
        """Token ids (pictures, count, POSITIONS) int16 of `captions_of(index, seed, count)`, written down once."""
        tokenizer = tokenizer or self.tokenizer
        seed, words = self.recipe.seed, vocabulary_of(tokenizer)
        said = [captions_of(i, seed, count) for i in range(min(200, pictures))]
        path = self.stage_folder("tokens", said, words, pictures) / "tokens.npy"
        if not path.exists():
            self.progress.start("captions", pictures)
            tokens = np.empty((pictures, count, denoiser.POSITIONS), np.int16)
            for i in range(pictures):
                if self.stop:
                    self.interrupt("captioning")
                tokens[i] = denoiser.token_ids(tokenizer, captions_of(i, seed, count))
                self.progress.advance()
            save_array(tokens, path)
        return np.load(path)

    def first_captions(self, lesson: Lesson) -> np.ndarray:
        """Tokenized captions of the first ring for one lesson."""

        def said(index: int, seed: int, count: int) -> list[str]:
            return shards.captions_of(index, seed, count, lesson.named_views)

        return self.tokens_of(said, self.recipe.world.pictures, lesson.captions)

    def varied_captions(self, lesson: Lesson) -> np.ndarray:
        """Tokenized captions of the second ring for one lesson."""
        return self.tokens_of(shards.varied_captions_of, self.recipe.world.varied, lesson.captions)

    def stage_folder(self, stage: str, *key: Any) -> Path:
        """A folder of the cache for a stage with these settings."""
        plain = json.dumps(key, default=lambda settings: settings.model_dump(), sort_keys=True)
        return self.folder / f"{stage}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"

    def interrupt(self, stage: str) -> NoReturn:
        raise Interrupted(f"mini: stopped while {stage}; what was done is kept.", "pcs base build mini")


def vocabulary_of(tokenizer: CLIPTokenizer) -> list[str]:
    """All tokens in order, which decide all that a tokenizer does, whatever it was asked before."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def save_array(array: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        np.save(temporary, array)
