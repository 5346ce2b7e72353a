"""Pictures people want to look at: contact sheets, and one self-contained HTML page for a run."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from modalities.core import media
from modalities.core.files import write_text

if TYPE_CHECKING:
    from modalities.core.artifact import Artifact
    from modalities.core.studio import Studio
    from modalities.core.validation import Final

FINAL_IMAGES = 4
TILE = 160
GAP = 6
LABEL = 22
INK, PAPER = (40, 40, 40), (255, 255, 255)


def grid(images: list[Image.Image], columns: int) -> Image.Image:
    """Put pictures of one size side by side, row after row, without changing a pixel."""
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet


def contact_sheet(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Put labelled rows of pictures under one another, every picture on a tile of 160 pixels."""
    columns = max(len(images) for _, images in rows)
    font = ImageFont.load_default(size=15)
    width = max(columns * (TILE + GAP) + GAP, max(int(font.getlength(label)) for label, _ in rows) + 2 * GAP)
    sheet = Image.new("RGB", (width, len(rows) * (TILE + LABEL + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (label, images) in enumerate(rows):
        top = GAP + number * (TILE + LABEL + GAP)
        draw.text((GAP, top), label, fill=INK, font=font)
        for column, image in enumerate(images):
            sheet.paste(_tile(image), (GAP + column * (TILE + GAP), top + LABEL))
    return sheet


def _tile(image: Image.Image) -> Image.Image:
    """Fit a picture into a square tile; small ones are enlarged smoothly, as a viewer would."""
    factor = TILE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    tile = Image.new("RGB", (TILE, TILE), (238, 238, 238))
    fitted = image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)
    tile.paste(fitted, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def write_report(run: Artifact, studio: Studio, finals: list[Final], about: dict[str, Any]) -> None:
    """Write the contact sheet and the HTML page of a finished run."""
    concept = studio.concept
    rows = [(f"the photos of {one.phrase}", [photo.open() for photo in one.photos[:8]]) for one in concept.subjects]
    for final in finals:
        rows.append((f"{final.prompt}   (first: the base's {final.class_prompt})", [final.before, *final.after]))
    sheet = contact_sheet(rows)
    media.save_png(sheet, run.contact_sheet)
    write_text(run.report, _page(run, studio, sheet, about))


def _page(run: Artifact, studio: Studio, sheet: Image.Image, about: dict[str, Any]) -> str:
    lines = run.metrics()
    looks = [line for line in lines if "balance" in line]
    kept = about["kept_step"]
    title = f"{' and '.join(one.phrase for one in studio.concept.subjects)}: {studio.recipe.title}"
    curves = "".join(
        curve(name, [(look["step"], look[name]) for look in looks], kept)
        for name in ("loss", "subject", "text", "drift")
    )
    samples = "".join(
        f"<figure><img alt='previews at step {path.stem[5:]}' src='{_embedded(Image.open(path))}'>"
        f"<figcaption>step {int(path.stem[5:])}</figcaption></figure>"
        for path in sorted(run.samples.glob("step-*.png"))
    )
    facts = {
        "recipe": studio.recipe.title,
        "paper": studio.recipe.paper or "-",
        "base": studio.recipe.backbone,
        "photos": len(studio.concept.all_photos),
        "steps": f"{about['steps']}, kept {kept}",
        "seconds": about["seconds"],
        "peak memory": f"{about['peak_memory_mb']} MB",
    }
    return PAGE.format(
        title=html.escape(title),
        style=STYLE,
        facts="".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()),
        sheet=_embedded(sheet),
        looks=_table(looks, kept),
        curves=curves,
        samples=samples,
        recipe=html.escape(studio.recipe.dump()),
    )


def _table(looks: list[dict[str, Any]], kept: int) -> str:
    names = ["step", "loss", "subject", "text", "drift", "balance"]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f"<tr{' class=best' if look['step'] == kept else ''}>"
        + "".join(f"<td>{look[name] if name == 'step' else format(look[name], '.4f')}</td>" for name in names)
        + "</tr>"
        for look in looks
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def curve(name: str, points: list[tuple[float, float]], kept: int) -> str:
    """A small line chart as SVG, the kept step marked."""
    width, height, edge = 300, 130, 48
    low, high = min(y for _, y in points), max(y for _, y in points)
    last = max(x for x, _ in points) or 1
    span = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return edge + x / last * (width - edge - 8), height - 20 - (y - low) / span * (height - 38)

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    at = next((point for point in points if point[0] == kept), points[-1])
    x, y = place(*at)
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{name} over steps'>"
        f"<text x='{edge}' y='12'>{name}</text>"
        f"<text class=tick x='2' y='{place(0, high)[1] + 4:.0f}'>{high:.3g}</text>"
        f"<text class=tick x='2' y='{place(0, low)[1] + 4:.0f}'>{low:.3g}</text>"
        f"<text class=tick x='{width - 8}' y='{height - 4}' text-anchor='end'>{last:g} steps</text>"
        f"<polyline points='{path}'/><circle cx='{x:.1f}' cy='{y:.1f}' r='4'/></svg>"
    )


def _embedded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


STYLE = """:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ccc; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --line: #444; --mark: #fb923c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.best td { color: var(--mark); font-weight: 600; }
.curves, .samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
svg text { font-size: 12px; fill: var(--ink); } svg .tick { font-size: 10px; opacity: .7; }
polyline { fill: none; stroke: var(--ink); stroke-width: 1.5; } circle { fill: var(--mark); }
figure { margin: 0; } figure img { width: 100%; } table.facts td { text-align: left; }
figcaption { font-size: .85rem; opacity: .8; }
pre { overflow-x: auto; font-size: .85rem; }"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
</style></head><body>
<h1>{title}</h1>
<p><img alt="contact sheet" src="{sheet}"></p>
<table class=facts>{facts}</table>
<h2>While it trained</h2>
<p>Loss is measured at fixed noise; subject is the previews' similarity to the photos; text is their alignment with
the prompts; drift is the change of the base's answers to class prompts. The kept step is marked.</p>
<div class="curves">{curves}</div>
{looks}
<h2>Previews</h2><div class="samples">{samples}</div>
<h2>Recipe</h2><pre>{recipe}</pre>
</body></html>
"""
