"""What an audit found, as a table and as one self-contained page: photos before and after, pictures, numbers."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from PIL import Image

from modalities.core import media
from modalities.core.evaluate import metric_named
from modalities.core.files import write_text
from modalities.core.report import STYLE, contact_sheet
from protect.audit import ARMS, Question, mean_of, pictures
from protect.pair import paired

AMPLIFIED = 12
SHOWN_PHOTOS, SHOWN_PICTURES = 6, 8
LARGEST_SIDE = 512
TITLES = {"clean": "clean photos", "noise": "random noise", "protected": "protected photos"}
TEXT = (
    "Protection here means: training a personal model on these files, with the methods and models we tested, worked "
    "worse in our test. It does not make a photo unusable, and it can be undone.",
    "Published work removes such perturbations with ordinary steps (noise plus upscaling, diffusion purification, "
    "sometimes blur or JPEG), and a new model or method may ignore them. It may raise the cost for a casual copier; it "
    "will not stop a determined one.",
    "It does nothing for photos already published, for a set in which some photos are unprotected, for face-reference "
    "tools that need no training (IP-Adapter/InstantID-like, face swap), nor for recognition or search.",
    "The change is visible at higher strength; look at the photos before publishing. Keep your originals. Do not use "
    "it as your only safeguard; if you are being targeted, use the platform's report route and legal help.",
)


def title(result: dict[str, Any]) -> str:
    """One setting in words."""
    photos = f"photos after {result['purify']}" if result["purify"] else "photos as they are"
    attack = Path(result["attack"]).name if result["attack"].endswith((".yaml", ".yml")) else result["attack"]
    return f"{attack} on {Path(result['base']).name}, {photos}"


def rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of one setting's table: every metric, the arms, and the paired differences."""
    table: list[list[str]] = []
    for name, gaps in result["differences"].items():
        means = [f"{mean_of(result, arm, name):.3f}" for arm in ARMS]
        spans = [f"{gaps[other]['mean']:+.3f} ({_span(gaps[other])})" for other in ("clean", "noise")]
        table.append([metric_named(name).title, *means, *spans])
    return ["metric", "clean", "noise", "prot.", "- clean (95 %)", "- noise (95 %)"], table


def _span(gap: dict[str, float]) -> str:
    return f"{gap['low']:+.3f} {gap['high']:+.3f}"


def write_page(found: dict[str, Any], question: Question, out: Path) -> None:
    """Write `audit.html` and `contact-sheet.png`."""
    pairs = paired(question.clean, question.protected)
    before_after = [(pair.name, *(media.to_image(one / 255) for one in (pair.clean, pair.protected))) for pair in pairs]
    sheet = contact_sheet(_sheet_rows(found, before_after, out))
    media.save_png(sheet, out / "contact-sheet.png")
    trainings = "1 training" if found["seeds"] == 1 else f"{found['seeds']} trainings"
    body = [
        f"<h1>Audit: {html.escape(found['verdict'])}</h1>",
        f"<p>{html.escape(title(found['results'][0]))}; {trainings} of each kind, "
        f"{found['pictures_per_training']} pictures from each, {len(pairs)} photos, {found['mixed']} of them without "
        "protection. "
        "Likeness is DINO-I to the clean photos; differences are of pictures from the same noise, with 95 % intervals "
        "over trainings and prompts.</p>",
        f"<p>{html.escape(_made_by(found))}</p>",
        *(_table(result) for result in found["results"]),
        _base_losses(found["base_loss"]),
        f"<p><b>Not tested:</b> {html.escape('; '.join(found['not_tested']))}. Not tested means not known.</p>",
        "<h2>The photos</h2><p>Drag to compare: left of the line the photo, right of it the protected file. Below, "
        f"their difference, {AMPLIFIED} times as strong, on grey.</p><div class=photos>",
        *(_slider(name, _cut(before), _cut(after)) for name, before, after in before_after[:SHOWN_PHOTOS]),
        "</div>",
        _changes(found),
        "<h2>What the trained models drew</h2>",
        f"<p><img alt='contact sheet' src='{_embedded(sheet)}'></p>",
        "<h2>What this means, and what not</h2>",
        *(f"<p>{html.escape(one)}</p>" for one in TEXT),
    ]
    write_text(out / "audit.html", PAGE.format(style=STYLE, body="\n".join(body)))


def _made_by(found: dict[str, Any]) -> str:
    """What the protection was made against, so that a reader sees which trainings it could not know."""
    made = found["protected_by"]
    surrogate = f"with {' and '.join(made['surrogate'])}" if made["surrogate"] else "untrained"
    known = f"Protected by {made['title']}, against {Path(made['base']).name} {surrogate}."
    others = sorted({Path(one["base"]).name for one in found["results"] if one["base"] != made["base"]})
    return f"{known} " + (f"Held out: {', '.join(others)}." if others else "No other base was tried: the easiest case.")


def _table(result: dict[str, Any]) -> str:
    return f"<h2>{html.escape(title(result))}: {html.escape(result['verdict'])}</h2>" + _as_table(*rows(result))


def _as_table(head: list[str], table: list[list[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"


def change_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of how far every file is from its photo; no column for what was not measured."""
    columns = {"largest": ("largest", "{:.3g}"), "mean": ("mean, levels", "{:.2f}"), "psnr": ("PSNR, dB", "{:.1f}")}
    if found["lpips"] == "measured":
        columns["lpips"] = ("LPIPS", "{:.3f}")
    table = [
        [one["name"], *("-" if one[key] is None else how.format(one[key]) for key, (_, how) in columns.items())]
        for one in found["photos"]
    ]
    return ["photo", *(name for name, _ in columns.values())], table


def _changes(found: dict[str, Any]) -> str:
    missing = "" if found["lpips"] == "measured" else f"<p>LPIPS is not measured: {html.escape(found['lpips'])}</p>"
    return "<h2>How large the change is</h2>" + _as_table(*change_rows(found)) + missing


def _base_losses(losses: dict[str, dict[str, float]]) -> str:
    lines = [
        f"{html.escape(Path(base).name)}: " + ", ".join(f"{TITLES[arm]} {value:.4f}" for arm, value in own.items())
        for base, own in losses.items()
    ]
    return f"<p>Denoising loss of the untrained base: {'; '.join(lines)}.</p>"


def _sheet_rows(
    found: dict[str, Any], before_after: list[tuple[str, Image.Image, Image.Image]], out: Path
) -> list[tuple[str, list[Image.Image]]]:
    listed = before_after[:SHOWN_PICTURES]
    rows_: list[tuple[str, list[Image.Image]]] = [
        ("the photos", [before for _, before, _ in listed]),
        ("the protected files", [after for _, _, after in listed]),
        (f"their difference, {AMPLIFIED} times", [amplified(before, after) for _, before, after in listed]),
    ]
    for result in found["results"]:
        for arm in ARMS:
            drawn = pictures(out, result, arm)
            every = max(1, len(drawn) // SHOWN_PICTURES)
            after = f", after {result['purify']}" if result["purify"] else ""
            rows_.append((f"learned from {TITLES[arm]}{after}", drawn[::every][:SHOWN_PICTURES]))
    return [(label, images) for label, images in rows_ if images]


def amplified(before: Image.Image, after: Image.Image) -> Image.Image:
    """The difference of two pictures, stronger, on grey."""
    gap = media.to_pixels(after) - media.to_pixels(before)
    return media.to_image((0.5 + AMPLIFIED * gap).clamp(0, 1))


def _slider(name: str, before: Image.Image, after: Image.Image) -> str:
    alt = html.escape(name, quote=True)
    return (
        f"<figure class=pair><div class=both><img alt='{alt}, the photo' src='{_embedded(before)}'>"
        f"<img class=after alt='{alt}, protected' src='{_embedded(after)}'>"
        f"<input type=range min=0 max=100 value=50 aria-label='how much of {alt} is shown unprotected'></div>"
        f"<img class=gap alt='difference' src='{_embedded(amplified(before, after))}'>"
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
    )


def _cut(image: Image.Image) -> Image.Image:
    """The middle of a large photo at its own size: scaled down, the change would not be what it is."""
    width, height = (min(side, LARGEST_SIDE) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _embedded(image: Image.Image) -> str:
    """A picture as a data address, without loss: a change of a few levels is what is to be seen."""
    data = io.BytesIO()
    image.convert("RGB").save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of a protection</title><style>
{style}
.photos {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }}
.both {{ position: relative; --cut: 50%; line-height: 0; }}
.pair img {{ width: 100%; image-rendering: auto; }} .both .after {{ position: absolute; inset: 0;
  clip-path: inset(0 0 0 var(--cut)); }}
.both::after {{ content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut);
  border-left: 2px solid var(--mark); }}
.both input {{ position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0; cursor: ew-resize; z-index: 1; }}
.both:focus-within {{ outline: 2px solid var(--mark); }}
figcaption {{ overflow-wrap: anywhere; }} th, td {{ white-space: nowrap; }}
</style></head><body>
{body}
<script>
for (const knob of document.querySelectorAll(".both input"))
  knob.addEventListener("input", () => knob.parentElement.style.setProperty("--cut", knob.value + "%"));
</script>
</body></html>
"""
