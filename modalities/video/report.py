"""The page of a customized run: the clip, what came of it, and how it learned."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modalities.core.files import write_text
from modalities.core.report import STYLE, curve

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalities.core.artifact import Artifact
    from modalities.core.studio import Studio

CURVES = {"photo_loss": "loss on photos", "clip_loss": "loss on clips", "motion_loss": "its moving part"}


def write_report(run: Artifact, studio: Studio, looks: Sequence[Any], sheet: Image, about: dict[str, Any]) -> None:
    """Write report.html, one file with everything in it."""
    title = f"{', '.join(about['captions']) or studio.concept.phrase}: {studio.recipe.title}"
    facts = {
        "recipe": studio.recipe.title,
        "paper": studio.recipe.paper or "-",
        "base": studio.recipe.backbone,
        "photos": len(studio.concept.photos),
        "clips": ", ".join(path.rpartition("/")[2] for path in about["clips"]) or "-",
        "frames": f"{about['frames']} at {about['frames_per_second']:g} a second",
        "steps": about["steps"],
        "seconds": about["seconds"],
        "peak memory": f"{about['peak_memory_mb']} MB",
        "files": ", ".join(about["learned"]),
    }
    curves = "".join(
        curve(name, [(look.step, getattr(look, field)) for look in looks], about["kept_step"])
        for field, name in CURVES.items()
        if getattr(looks[-1], field) is not None
    )
    movies = "".join(
        _figure((run.folder / path).read_bytes(), path) for path in about["previews"] if path.endswith(".gif")
    )
    steps = "".join(
        _figure(path.read_bytes(), f"step {int(path.stem[5:])}") for path in sorted(run.samples.glob("step-*.gif"))
    )
    page = PAGE.format(
        title=html.escape(title),
        style=STYLE,
        sheet=_png(sheet),
        facts="".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()),
        movies=movies,
        curves=curves,
        steps=steps,
        recipe=html.escape(studio.recipe.dump()),
    )
    write_text(run.report, page)


def _figure(gif: bytes, caption: str) -> str:
    data = base64.b64encode(gif).decode()
    words = html.escape(caption)
    return f"<figure><img alt='{words}' src='data:image/gif;base64,{data}'><figcaption>{words}</figcaption></figure>"


def _png(image: Image) -> str:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
figure img {{ image-rendering: auto; }}
</style></head><body>
<h1>{title}</h1>
<p><img alt="contact sheet" src="{sheet}"></p>
<table class=facts>{facts}</table>
<h2>Clips</h2><div class="samples">{movies}</div>
<h2>While it trained</h2>
<p>Losses are measured at fixed noise, on what stays after training. The first clip is the base's own.</p>
<div class="curves">{curves}</div>
<div class="samples">{steps}</div>
<h2>Recipe</h2><pre>{recipe}</pre>
</body></html>
"""
