"""`pcs video`: look at clips, learn appearance and motion, make clips, judge them."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.console import console, minutes
from pcs_cli.options import Base, DryRun, Json, Offline, Out, Quiet, Resume, Set, recipe_for, resumable, weighted
from pcs_cli.video_eval import evaluate

if TYPE_CHECKING:
    from modalities.core.artifact import Artifact
    from modalities.core.personalize import Plan
    from modalities.core.recipe import Recipe
    from modalities.video.clips import Clip
    from modalities.video.concept import VideoConcept

app = typer.Typer(help="Clips: learn a subject and a motion, and show the one doing the other.", no_args_is_help=True)

app.command("eval")(evaluate)


@app.callback()
def group() -> None:
    """Clips: learn a subject and a motion, and show the one doing the other."""


@app.command()
def inspect(
    clip: Annotated[Path, typer.Argument(help="A video file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG for the contact sheet; CLIP-frames.png here if not given.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell what a clip truly holds, and which of its frames each base would see; loads no model.

    Example: pcs video inspect dance.mp4
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core import media
    from modalities.core.report import contact_sheet
    from modalities.video.clips import as_images, read_clip, remarks
    from modalities.video.motion import motion_of

    one = read_clip(clip)
    seen = _frames_by_base(one)
    motion = motion_of(one)
    facts: dict[str, Any] = {
        "clip": str(clip),
        "width": one.width,
        "height": one.height,
        "seconds": round(one.seconds, 3),
        "frames": len(one.times),
        "frames_per_second": round(one.frames_per_second, 3),
        "variable_frame_rate": one.is_uneven,
        "rotation": one.rotation,
        "sound": one.has_sound,
        "cuts": [one.times[cut] for cut in one.cuts],
        **motion,
        "bases": seen,
        "remarks": remarks(one),
    }
    sheet = out or Path(f"{clip.stem}-frames.png")
    picked = one.spread(8)
    media.save_png(contact_sheet([(clip.name, as_images(one.read(picked, 160)))]), sheet)
    for line in facts["remarks"]:
        console.warn(line)
    console.result(facts | {"sheet": str(sheet)}, _told(facts, sheet))


def _told(facts: dict[str, Any], sheet: Path) -> list[str]:
    """The facts as lines of at most 80 columns."""
    rate = "variable" if facts["variable_frame_rate"] else "even"
    lines = [
        f"picture   {facts['width']}x{facts['height']}, {'with' if facts['sound'] else 'no'} sound",
        f"time      {facts['seconds']:.2f} s, {facts['frames']} frames, "
        f"{facts['frames_per_second']:.2f} a second ({rate})",
        f"cuts      {', '.join(f'{time:.2f} s' for time in facts['cuts'][:6]) or 'none'}",
        f"motion    {facts['motion']:.2f} % of the width per frame, {facts['moving_share']:.0%} of the picture moves",
        f"camera    {facts['camera']:.2f} % of the width per frame",
    ]
    width = max(10, *(len(name) + 2 for name in facts["bases"]))
    for name, one in facts["bases"].items():
        said = one if isinstance(one, str) else f"{len(one)} frames: {', '.join(map(str, one))}"
        line = f"{name:<{width}}{said}"
        lines.append(line if len(line) <= 80 else f"{line[:78]} …")
    return [*lines, f"sheet     {sheet}"]


def _frames_by_base(clip: Clip) -> dict[str, list[int] | str]:
    """Which frames each known base would take, or why it cannot; from their descriptions alone."""
    from modalities.core import bases
    from modalities.core.errors import PcsError

    seen: dict[str, list[int] | str] = {}
    for name in bases.entries():
        told = bases.entry(name).get("clip")
        if not told:
            continue
        try:
            seen[name] = list(clip.choose(told["frames"], told["frames_per_second"]))
        except PcsError as why:
            seen[name] = f"{str(why).partition(': ')[2].partition(';')[0]}; {_fitting(clip, told)}"
    return seen


def _fitting(clip: Clip, told: dict[str, Any]) -> str:
    """The most frames of a clip that a base could take at its own speed, in words."""
    from modalities.core.errors import PcsError

    for frames in range(told["frames"] - told["step"], 1, -told["step"]):
        try:
            clip.choose(frames, told["frames_per_second"])
        except PcsError:
            continue
        return f"{frames} fit"
    return "none fit"


@app.command()
def customize(
    photos: Annotated[Path | None, typer.Option(help="Folder with 3 to 10 photos of one subject.")] = None,
    clip: Annotated[
        list[Path] | None, typer.Option(help="A clip of the motion. May be repeated for more of the same motion.")
    ] = None,
    noun: Annotated[str | None, typer.Option(help="What is on the photos, in a word: dog, backpack, man.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help='What the clip shows, with what moves in braces: "a {duck} jumping on the grass".'),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A name of `pcs recipes list`, or a YAML file.")
    ] = "video/motiondirector",
    base: Base = None,
    changes: Set = [],  # noqa: B006
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a subject from photos, a motion from clips, or both.

    Writes a run folder: appearance.safetensors, motion.safetensors, clips as mp4 and gif, a contact sheet and
    report.html. Photos and clips are only read.

    Example: pcs video customize --photos photos/rex --noun dog --clip jump.mp4 --prompt "a {duck} jumping"
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import personalize
    from modalities.core.artifact import Artifact

    chosen = recipe_for("video", recipe, changes, base)
    concept = _concept(chosen, photos, noun, clip or [], prompt or [])
    from modalities.video.customize import narrowed, require_same_clips, require_video_base
    from modalities.video.session import VideoSession

    chosen = narrowed(chosen, photos=bool(concept.photos), clips=bool(concept.clips))
    require_video_base(chosen, offline=machine.offline)
    console.photos(concept)
    folder = out or machine.runs / "-".join(_names(photos, clip or []))
    if resume:
        require_same_clips(Artifact(folder), concept)
    place = machine.machine()
    if dry_run:
        with console.progress() as progress:
            made = personalize.plan(chosen, concept, place, progress, VideoSession)
        _tell_plan(chosen, concept, folder, made)
        console.result(asdict(made))
        return
    with console.progress() as progress, resumable(folder):
        run = personalize.personalize(
            chosen,
            concept,
            folder,
            place,
            resume=resume,
            progress=progress,
            announce=lambda plan: _tell_plan(chosen, concept, folder, plan),
            session=VideoSession,
        )
    _tell_result(run, concept)


def _names(photos: Path | None, clips: list[Path]) -> list[str]:
    """What a run is called after what it learns from."""
    return [*([photos.resolve().name] if photos else []), *(path.stem for path in clips[:1])]


def _concept(
    recipe: Recipe, photos: Path | None, noun: str | None, clips: list[Path], prompts: list[str]
) -> VideoConcept:
    """Read photos and clips.

    Raises:
        PcsError: neither is given, or the words that they need are not.
    """
    from modalities.core.concept import Concept, checked_noun
    from modalities.core.errors import PcsError
    from modalities.video.concept import with_clips

    if photos is None and not clips:
        raise PcsError("give --photos for a subject, --clip for a motion, or both.")
    if photos is not None and noun is None:
        raise PcsError("--photos needs --noun, the class word of the subject, for example --noun dog.")
    if clips and not prompts:
        raise PcsError('--clip needs --prompt, what the clip shows: --prompt "a {duck} jumping on the grass".')
    if prompts and not clips:
        raise PcsError("--prompt says what a clip shows, but there is no --clip.")
    word = checked_noun(noun) if noun else "thing"
    subject = Concept(word, word)
    if photos is not None:
        size = recipe.data.resolution or 0
        subject = Concept.from_folder(photos, noun=word, subject=recipe.data.subject, resolution=size)
    return with_clips(subject, clips, prompts)


def _tell_plan(recipe: Recipe, concept: VideoConcept, folder: Path, plan: Plan) -> None:
    subject = {"subject": f"{concept.phrase}, {len(concept.photos)} photos"} if concept.photos else {}
    motion = {"motion": "; ".join(dict.fromkeys(concept.captions))} if concept.clips else {}
    console.facts(
        recipe.title,
        subject
        | motion
        | {
            "base": recipe.backbone,
            "device": plan.device,
            "learns": f"{plan.learned:,} numbers in {', '.join(plan.learners)}",
            "plan": f"{plan.steps} steps, {minutes(plan.seconds)}, {plan.memory_mb / 1000:.1f} GB memory",
            "writes": f"{folder}, up to {plan.disk_mb:.0f} MB",
        },
    )


def _tell_result(run: Artifact, concept: VideoConcept) -> None:
    about = run.about()
    template = (concept.templates or ("a {} in the snow",))[0] if concept.photos else concept.captions[0]
    learned = [str(run.folder / name) for name in about["learned"]]
    previews = [str(run.folder / name) for name in about["previews"]]
    console.result(
        {
            "run": str(run.folder),
            "steps": about["steps"],
            "scores": {name: value for name, value in about["kept"].items() if name.endswith("loss")},
            "seconds": about["seconds"],
            "peak_memory_mb": about["peak_memory_mb"],
            "learned": learned,
            "previews": previews,
            "contact_sheet": str(run.contact_sheet),
            "report": str(run.report),
        },
        [
            f"run            {run.folder}  ({about['steps']} steps, {about['seconds']:.0f} s)",
            *(f"learned        {path}" for path in learned),
            *(f"clip           {path}" for path in previews),
            f"contact sheet  {run.contact_sheet}",
            f"report         {run.report}",
            f"next           pcs video generate {shlex.quote(str(run.folder))} {shlex.quote(template)}",
        ],
    )


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A run folder of `pcs video customize`.")],
    prompts: Annotated[list[str], typer.Argument(help="What to show; {} is the subject of the photos.")],
    beside: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN[:WEIGHT]", help="Another run, of images too, or a LoRA file; 1 in full."),
    ] = None,
    noise_prior: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the learned clip's own noise to start from.")
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Clips for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    out: Out = None,
    grid: Annotated[bool, typer.Option("--grid", help="Also write a contact sheet of all frames.")] = False,
    changes: Set = [],  # noqa: B006
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make clips with what a run has learned; each is written as mp4 and gif.

    Example: pcs video generate runs/jump "a {} jumping in the snow" --with runs/rex:0.8 --grid
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import media
    from modalities.core.artifact import Artifact
    from modalities.core.files import require_writable, slug
    from modalities.core.recipe_text import changes_of
    from modalities.core.report import contact_sheet
    from modalities.video import mix
    from modalities.video.clips import as_images, save_previews
    from modalities.video.generate import clip_of_studio
    from modalities.video.session import read_inversion

    artifact = Artifact.open(run)
    mix.require_video(artifact)
    others = [mix.Guest(*weighted(text)) for text in beside or []]
    folder = out or run / "clips"
    require_writable(folder, megabytes=5)
    written: list[Path] = []
    rows: list[tuple[str, list[media.Image.Image]]] = []
    with console.progress() as progress:
        studio = artifact.studio(machine.machine(), progress, changes_of([*changes, *_prior(noise_prior)]))
        company = mix.bring(studio, others, artifact)
        for remark in company.remarks:
            progress.note(remark)
        spelled = [company.spell(prompt, artifact) for prompt in prompts]
        noise = read_inversion(artifact)
        progress.start("generating", len(spelled) * count)
        with company.in_place():
            for prompt in spelled:
                for index in range(count):
                    frames = clip_of_studio(studio, prompt, seed=seed, index=index, inverted=noise)
                    path = folder / f"{slug(prompt)}-seed{seed}-{index:03}.mp4"
                    about = {"prompt": prompt, "seed": str(seed), "index": str(index), "run": str(run)}
                    written += save_previews(frames, path, artifact.about()["frames_per_second"], about)
                    rows.append((f"{prompt}   ({index})", as_images(frames)))
                    progress.advance()
    if grid:
        written.append(folder / f"sheet-seed{seed}.png")
        media.save_png(contact_sheet(rows), written[-1])
    clips = [str(path) for path in written if path.suffix == ".mp4"]
    sheet = str(written[-1]) if grid else None
    console.result({"clips": clips, "sheet": sheet, "matched": company.remarks}, [str(path) for path in written])


def _prior(share: float | None) -> list[str]:
    return [] if share is None else [f"components.initial_noise.inverted={share}"]
