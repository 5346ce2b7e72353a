"""Where the subject is in its photos: from mask files, from alpha channels, or from the base's own attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core import media
from modalities.core.attention import maps, opened
from modalities.core.dense_crf import segment
from modalities.core.errors import PcsError
from modalities.core.step import denoise

if TYPE_CHECKING:
    from modalities.core.attention import Attend, Place
    from modalities.core.backbone import Backbone
    from modalities.core.media import MaskSource, Photo
    from modalities.core.studio import Studio

# Shares of the whole time at which the base is asked where the class is: where objects are made.
TIMES, DRAWS = (0.4, 0.5, 0.6), 4
LARGEST_MAP = 16
# Log-odds for the subject of attention that is one standard deviation above the threshold.
CERTAINTY = 4.0


def masks(studio: Studio, source: MaskSource) -> Float[Tensor, "views 1 side side"]:
    """Masks of every view of the concept's photos, 1 where the subject is, at the resolution of training.

    Raises:
        PcsError: a mask is missing, of another size than its photo, or empty where the photo is used.
    """
    views = (False, True) if studio.recipe.data.flip else (False,)
    owned = zip(studio.concept.all_photos, studio.concept.owners, strict=True)
    rows = [mask_of(studio, photo, owner.noun, source, mirrored=m) for photo, owner in owned for m in views]
    return torch.stack(rows)


def mask_of(
    studio: Studio, photo: Photo, noun: str, source: MaskSource, *, mirrored: bool = False
) -> Float[Tensor, "1 side side"]:
    """The mask of one photo, 1 where the subject is, at the resolution of training.

    Raises:
        PcsError: as `masks`.
    """
    if source == "attention":
        found = found_by_attention(studio, photo, noun)
        return found.flip(-1) if mirrored else found
    mask = media.square(media.read_mask(photo, source), studio.resolution, mirrored=mirrored)[:1]
    if not mask.any():
        raise PcsError(f"the mask of {photo.path} is empty where the photo is used.")
    return mask


def found_by_attention(studio: Studio, photo: Photo, noun: str) -> Float[Tensor, "1 side side"]:
    """What cross-attention takes for the class word, with what is alike to self-attention and up to the photo's edges.

    Spread by self-attention as in DiffSegmenter (Wang et al., 2023, section 3.2, https://arxiv.org/abs/2309.02773).
    Attention above Otsu's threshold, by which ViCo (Hao et al., 2023, section 3.3, https://arxiv.org/abs/2306.00971)
    cuts its own word's, speaks for the subject in a conditional random field over the pixels, see `dense_crf`.
    """
    backbone, prompt = studio.backbone, f"a photo of a {noun}"
    places, seen, alike = places_of(backbone, prompt, noun), list[Tensor](), list[Tensor]()
    count = len(TIMES) * DRAWS

    def look(place: Place, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if place.crosses:
            seen.append(maps(query, key)[..., places].mean((0, 1, 3)))
        elif query.shape[2] <= LARGEST_MAP**2:
            alike.append(maps(query, key).mean((0, 1)))
        return attend(query, key, value)

    posterior = studio.encode([photo])
    batch = studio.batch(posterior, [0] * count, [prompt] * count, range(count), purpose="mask")
    every = backbone.schedule.times
    times = every[[int(share * len(every)) for share in TIMES] * DRAWS]
    with torch.no_grad(), opened(backbone.denoiser, look):
        denoise(backbone, replace(batch, t=times.to(batch.t)))
    found = finest(seen).mean(0)
    own = [one for one in alike if len(one) == len(found)]
    spread = torch.stack(own).mean(0) @ found if own else found
    smooth = resized(spread[None], studio.resolution)[0]
    evidence = CERTAINTY * (smooth - otsu(smooth.flatten())) / smooth.std().clamp(min=1e-9)
    pixels = media.square(photo.open(), studio.resolution).to(smooth.device)
    found = segment(pixels, evidence)
    # Where nothing at all, or everything, is alike to the subject, edges say nothing.
    return (found if 0 < found.mean() < 1 else (evidence > 0).float())[None]


def finest(seen: list[Float[Tensor, " places"]]) -> Float[Tensor, "maps places"]:
    """The largest of attention maps of any size, but none larger than 16 x 16: these tell things, larger ones edges."""
    sizes = [len(one) for one in seen]
    best = max((size for size in sizes if size <= LARGEST_MAP**2), default=min(sizes))
    return torch.stack([one for one in seen if len(one) == best])


def resized(taken: Float[Tensor, "b places"], side: int) -> Float[Tensor, "b side side"]:
    """Attention of every place of a square map, as a map of another side."""
    own = round(taken.shape[1] ** 0.5)
    square = taken.float().unflatten(1, (1, own, own))
    return torch.nn.functional.interpolate(square, size=side, mode="bilinear", align_corners=False)[:, 0]


def otsu(values: Float[Tensor, " n"]) -> float:
    """The threshold that leaves the least variance on both of its sides (Otsu, 1979)."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64, device=values.device)
    total = ordered.cumsum(0)
    low = total[:-1] / below
    high = (total[-1] - total[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (high - low) ** 2
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)


def places_of(backbone: Backbone, prompt: str, words: str) -> list[int]:
    """At which places of an encoded prompt some of its words stand; none if they do not.

    Raises:
        PcsError: the base has several text encoders, which count differently.
    """
    if len(backbone.tokenizers) != 1:
        raise PcsError("words can only be found in the attention of a base with one text encoder.")
    (tokenizer,) = backbone.tokenizers.values()
    pipeline: Any = backbone.pipeline()
    ids, own = (
        tokenizer(pipeline.maybe_convert_prompt(text, tokenizer), add_special_tokens=False).input_ids
        for text in (prompt, words)
    )
    # One token for the start of the text stands before.
    starts = (start for start in range(len(ids)) if ids[start : start + len(own)] == own)
    return [1 + start + step for start in starts for step in range(len(own))]
