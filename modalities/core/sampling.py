"""What changes of generation share: hearing the prompts, a picture that is denoised beside, going back to noise."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from modalities.core.backbone import Backbone
    from modalities.core.schedule import Schedule
    from modalities.core.studio import Studio


@contextmanager
def replaced(owner: Any, method: str, other: Callable[..., Any]) -> Generator[None]:
    """Inside the block `other` stands for a method; it is called with the method itself first."""
    own, is_replaced = getattr(owner, method), method in vars(owner)
    setattr(owner, method, lambda *args, **given: other(own, *args, **given))
    try:
        yield
    finally:
        if is_replaced:
            setattr(owner, method, own)
        else:
            delattr(owner, method)


@contextmanager
def hearing(pipeline: Any, hear: Callable[[list[str]], None]) -> Generator[None]:
    """Tell `hear` the prompts of every call of a pipeline, before the first step; it may have others encoded."""
    is_hearing = False

    def encode(own: Callable[..., Any], prompt: str | list[str], *args: Any, **given: Any) -> Any:
        nonlocal is_hearing
        encoded = own(prompt, *args, **given)
        if not is_hearing:
            is_hearing = True
            hear([prompt] if isinstance(prompt, str) else prompt)
            is_hearing = False
        return encoded

    with replaced(pipeline, "encode_prompt", encode):
        yield


def class_prompt(studio: Studio, prompt: str) -> str:
    """A prompt with the class word of each subject in place of its phrase."""
    for one in studio.concept.subjects:
        prompt = prompt.replace(one.phrase, one.noun)
    return prompt


def is_early(backbone: Backbone, call: tuple[tuple[Any, ...], dict[str, Any]], share: float) -> bool:
    """Whether a call of the denoiser, by its arguments, is at the noisiest `share` of the times."""
    return is_noisy(backbone, backbone.time_told(*call), share)


def is_noisy(backbone: Backbone, time: float, share: float) -> bool:
    """Whether a time of the base's schedule is among the noisiest `share` of its times."""
    return share > 0 and time >= (1 - share) * backbone.schedule.length


class Classes:
    """What a denoiser is told of the prompts of a call with the class word of each subject in place of its phrase."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._states: dict[str, Tensor] = {}

    @contextmanager
    def heard(self, pipeline: Any) -> Generator[None]:
        """Inside the block the prompts of every call of a pipeline are taken in."""
        with hearing(pipeline, self._hear):
            yield

    @property
    def count(self) -> int:
        """How many prompts the call has."""
        return len(next(iter(self._states.values())))

    def told(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a denoiser whose last rows say the classes; those before, of the empty prompt, stay."""
        return {name: self._in_place_of(name, value) for name, value in given.items()}

    def _hear(self, prompts: list[str]) -> None:
        with torch.no_grad():
            plain = [class_prompt(self._studio, prompt) for prompt in prompts]
            self._states = self._studio.backbone.embed(plain).tensors

    def _in_place_of(self, name: str, value: Any) -> Any:
        # Stable Diffusion XL is told some of it in a dictionary of its own.
        if isinstance(value, dict):
            return self.told(value)
        rows = self._states.get(name)
        return value if rows is None else torch.cat([value[: -len(rows)], rows.to(value)])


def latents_of(studio: Studio, path: Path) -> Float[Tensor, "1 c h w"]:
    """Clean latents of a picture file, cut to the square that the studio works on.

    Raises:
        PcsError: it is no picture that can be used.
    """
    from modalities.core import media
    from modalities.core.errors import PcsError

    try:
        photo = media.read_photo(path)
    except media.Unusable as reason:
        raise PcsError(f"{path}: {reason}.") from None
    posterior = studio.encode([photo])
    return posterior.sample(torch.zeros_like(posterior.mean))


@contextmanager
def beside(denoiser: Any, latents: Callable[[float], Tensor | None], states: Callable[[], Tensor]) -> Generator[None]:
    """Inside the block every call of a denoiser sees more items, the last ones, of which it does not tell.

    Args:
        denoiser: of a Stable Diffusion.
        latents: their noisy latents `(1 or k, c, h, w)` at a time; None for no more items.
        states: what the text encoder makes of their prompts, `(k, n, width)`.
    """
    count = 0

    def add(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        nonlocal count
        sample, t, *rest = args
        more = latents(float(t))
        if more is None:
            count = 0
            return None
        words = states()
        count = len(words)
        text = given["encoder_hidden_states"]
        given = given | {"encoder_hidden_states": torch.cat([text, words.to(text)])}
        return (torch.cat([sample, more.to(sample).expand(count, -1, -1, -1)]), t, *rest), given

    def drop(module: Any, args: Any, output: Any) -> Any:
        return (output[0][:-count], *output[1:]) if count else output

    # Before words that change with layer and time are encoded, so that theirs are too.
    handles = [
        denoiser.register_forward_pre_hook(add, with_kwargs=True, prepend=True),
        denoiser.register_forward_hook(drop),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inverted(studio: Studio, latents: Tensor, prompt: str, times: list[int]) -> dict[int, Tensor]:
    """Latents at each of the ascending `times` from which the sampler leads back (DDIM inversion).

    Song et al., ICLR 2021, section 4.3, https://arxiv.org/abs/2010.02502.
    """
    backbone, schedule = studio.backbone, studio.backbone.schedule
    words = backbone.conditioning([prompt])
    path: dict[int, Tensor] = {}
    clean = noisy = latents
    with torch.no_grad():
        for time in times[:1] + times:
            at = _at(time, latents)
            answer = backbone.predict(noisy, at, words).float()
            # The photo itself stands for what would be seen at the first time.
            clean = schedule.clean(noisy, answer, at) if path else latents
            noise = _noise(schedule, noisy, answer, at)
            later = next((one for one in times if one not in path), None)
            if later is not None:
                path[later] = noisy = schedule.noised(clean, noise, _at(later, latents))
    return path


def _at(time: int, like: Tensor) -> Tensor:
    return torch.tensor([time], device=like.device)


def _noise(schedule: Schedule, noisy: Tensor, answer: Tensor, at: Tensor) -> Tensor:
    """The noise that an answer implies."""
    clean = schedule.clean(noisy, answer, at)
    nothing, one = torch.zeros_like(noisy), torch.ones_like(noisy)
    return (noisy - schedule.noised(clean, nothing, at)) / schedule.noised(nothing, one, at)
