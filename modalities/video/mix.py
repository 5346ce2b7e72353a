"""What other runs and files bring to a generation: their LoRAs by the names of their layers, and their words."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modalities.core.artifact import Artifact, read_tensors
from modalities.core.concept import fill, spelled
from modalities.core.errors import PcsError
from modalities.core.vocabulary import add_words
from modalities.video.lora_files import FILES, LoraFile, Match, folded_in, match, read

if TYPE_CHECKING:
    from modalities.core.studio import Studio

IMAGE_LORA = Path("portable") / "lora-diffusers.safetensors"


@dataclass(frozen=True)
class Guest:
    """A run folder or a LoRA file, and how strongly it is to work.

    Raises:
        PcsError: there is no such folder or file.
    """

    path: Path
    weight: float

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise PcsError(f"--with {self.path}: is not there; give a run folder or a .safetensors LoRA.")


@dataclass(frozen=True)
class Company:
    """Guests that have been matched to a base.

    Attributes:
        matches: what each file changes, with its weight.
        phrase: what stands for the guests' subject, if they have one.
        remarks: a line for each file, "…: 32/32 modules matched".
    """

    matches: tuple[tuple[Match, float], ...]
    phrase: str | None
    remarks: list[str]

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the guests' changes are in the base."""
        with folded_in(self.matches):
            yield

    def spell(self, prompt: str, run: Artifact) -> str:
        """Fill the slot of a prompt with the subject of the run, or else of its guests.

        Raises:
            PcsError: the prompt has a slot, and there is no subject.
        """
        if "{}" not in prompt:
            return prompt
        about = run.about()
        phrase = about["phrase"] if about["photos"] else self.phrase
        if phrase is None:
            raise PcsError(
                f'{run.folder}: learned no subject that could fill the {{}} of "{prompt}"; name what moves instead, '
                "or add --with a run that learned from photos."
            )
        return fill(prompt, phrase)


def require_video(run: Artifact) -> None:
    """Check that a run was made by `pcs video customize`.

    Raises:
        PcsError: it is a run of pictures, or was not finished.
    """
    if run.recipe().modality != "video":
        raise PcsError(
            f"{run.folder}: is a run of pictures; use `pcs generate`, or bring it to a run of clips with --with."
        )
    if run.about()["state"] != "finished":
        raise PcsError(
            f"{run.folder}: is not finished; go on with `pcs video customize … --out {run.folder} --resume`."
        )


def bring(studio: Studio, guests: Sequence[Guest], host: Artifact) -> Company:
    """Match guests to the base of a studio, and teach it their words.

    Raises:
        PcsError: a guest holds nothing, was trained on another base, or fits nowhere.
    """
    matches: list[tuple[Match, float]] = []
    remarks: list[str] = []
    phrase: str | None = None
    for guest in guests:
        files, own_phrase = _files(guest, host)
        phrase = phrase or own_phrase
        for file in files:
            found = match(file, studio.backbone)  # pyright: ignore
            matches.append((found, guest.weight))
            left = f"; not here: {', '.join(found.unmatched[:3])}" if found.unmatched else ""
            remarks.append(f"{file.path}: {found}{left}")
        words = _teach(guest, studio)
        if not files and (not words or _learned_more(guest.path)):
            raise PcsError(f"--with {guest.path}: holds no LoRA that a video base could take, but something else.")
    return Company(tuple(matches), phrase, remarks)


def _files(guest: Guest, host: Artifact) -> tuple[list[LoraFile], str | None]:
    """The LoRA files of a guest, and the phrase of its subject."""
    if guest.path.is_file():
        return [read(guest.path)], None
    run = Artifact.open(guest.path)
    about = run.about()
    phrase = about["phrase"] if about["photos"] else None
    if run.recipe().modality == "video":
        if about["base_fingerprint"] != host.about()["base_fingerprint"]:
            raise PcsError(
                f"--with {guest.path}: was trained on {run.recipe().backbone}, {host.folder} on "
                f"{host.recipe().backbone}; appearance and motion must be of one base."
            )
        paths = [guest.path / name for name in dict.fromkeys(FILES.values())]
    else:
        paths = [guest.path / IMAGE_LORA]
    return [read(path) for path in paths if path.is_file()], phrase


def _learned_more(run: Path) -> bool:
    """Whether a run has learned something beside words of the base's text encoders."""
    return not all(name.startswith("learned_embeds") for name in Artifact.open(run).about().get("portable", []))


def _teach(guest: Guest, studio: Studio) -> bool:
    """Add the words that a run has learned; return whether there were any.

    Raises:
        PcsError: one of them has another meaning already.
    """
    if not guest.path.is_dir():
        return False
    backbone, found = studio.backbone, False
    for name, encoder in backbone.text_encoders.items():
        path = guest.path / "portable" / f"{name.replace('text_encoder', 'learned_embeds')}.safetensors"
        if not path.is_file():
            continue
        for token, rows in read_tensors(path)[0].items():
            if token in backbone.tokenizers[name].get_vocab():
                raise PcsError(
                    f"--with {guest.path}: its word {token} is that of another run here; train one with another word, "
                    '--set components.textual_inversion.token="<other>" --set data.subject="<other> {noun}".'
                )
            table = rows.reshape(-1, rows.shape[-1])
            add_words(backbone.tokenizers[name], encoder, spelled(token, len(table)), table.to(backbone.device))
            found = True
    backbone.forget_text()
    return found
