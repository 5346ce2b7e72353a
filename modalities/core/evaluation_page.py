"""One self-contained page about evaluated pictures: the table, both axes as a plane, the pictures, the worst cases."""

from __future__ import annotations

import base64
import html
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from modalities.core.evaluate import AXES, Report
from modalities.core.files import write_text
from modalities.core.report import STYLE, curve

THUMBNAIL = 144
SHOWN_OF_PROMPT = 4
WORST = 6
LISTED = 400


def write_page(reports: list[Report], path: Path) -> None:
    """Write the page about one or several evaluations of the same subject."""
    parts = [
        f"<h1>{html.escape(', '.join(report.title for report in reports))}</h1>",
        _summary(reports),
        _plane(reports),
        *(_curves(report) for report in reports),
        _side_by_side(reports),
        *(_worst(report) for report in reports),
        *(_listing(report) for report in reports),
    ]
    title = f"Evaluation of {', '.join(report.title for report in reports)}"
    write_text(path, PAGE.format(title=html.escape(title), style=STYLE, body="\n".join(filter(None, parts))))


# -- the table -----------------------------------------------------------------------------------------------


def _summary(reports: list[Report]) -> str:
    names = list(dict.fromkeys(name for report in reports for name in report.results))
    titles = {name: result.metric.title for report in reports for name, result in report.results.items()}
    head = "".join(f"<th>{html.escape(titles[name])}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{html.escape(report.title)}</td><td>{len(report.evidence.gallery.pictures)}</td>"
        + "".join(_cell(report, name) for name in names)
        + "</tr>"
        for report in reports
    )
    return (
        "<p>Subject and text belong together: a model that repeats its photos has the highest subject score and the"
        " lowest text score. Intervals hold 95 %; click a column to sort.</p>"
        f"<table class=sort><thead><tr><th>what</th><th>pictures</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        + "".join(_remarks(report) for report in reports)
    )


def _cell(report: Report, name: str) -> str:
    result = report.results.get(name)
    if result is None:
        return "<td data-value='-inf'>not run</td>"
    scores = result.scores
    span = f"{scores.low:.3f} to {scores.high:.3f}" if math.isfinite(scores.low) else "no interval"
    failed = f", {scores.failed} failed" if scores.failed else ""
    value = scores.mean if math.isfinite(scores.mean) else "-inf"
    return f"<td data-value='{value}'>{scores.mean:.3f}<small>{span}<br>n {scores.n}{failed}</small></td>"


def _remarks(report: Report) -> str:
    said = [
        f"{result.metric.title}: {result.scores.remark}" for result in report.results.values() if result.scores.remark
    ]
    said += [f"{name} was not run: {why}" for name, why in report.absent.items()]
    said += [f"{one} is not a readable picture" for one in report.evidence.unreadable]
    sources = dict.fromkeys(result.checkpoint for result in report.results.values() if result.checkpoint != "none")
    said.append("looked through " + ", ".join(sources))
    return (
        f"<details><summary>{html.escape(report.title)}: remarks</summary><ul>"
        + "".join(f"<li>{html.escape(one)}</li>" for one in said)
        + "</ul></details>"
    )


# -- the plane of both axes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """A point of the plane. kind: "mean" of a gallery, "prompt" of it, or a "step" of its training."""

    text: float
    subject: float
    label: str
    kind: str


def _plane(reports: list[Report]) -> str:
    spots = [spot for report in reports for spot in _spots(report)]
    if not spots:
        return ""
    front = pareto([spot for spot in spots if spot.kind != "prompt"])
    return (
        "<h2>Subject against text</h2><p>Large: the mean of all pictures. Small: single prompts. Rings: steps of the"
        " training. The line joins what nothing else beats on both axes (the Pareto front).</p>" + _drawn(spots, front)
    )


def _spots(report: Report) -> list[Spot]:
    if not all(name in report.results and report.results[name].scores.values for name in AXES):
        return []
    text, subject = (report.results[name].scores for name in AXES)
    spots = [Spot(text.mean, subject.mean, report.title, "mean")]
    groups = report.evidence.groups
    for group in dict.fromkeys(groups):
        rows = [row for row, own in enumerate(groups) if own == group]
        means = [_mean([scores.values[row] for row in rows]) for scores in (text, subject)]
        spots.append(Spot(means[0], means[1], f"{report.title}: {group}", "prompt"))
    for look in report.evidence.history:
        if look["step"]:
            spots.append(Spot(look["text"], look["subject"], f"{report.title}, step {look['step']}", "step"))
    return [spot for spot in spots if math.isfinite(spot.text) and math.isfinite(spot.subject)]


def pareto(spots: list[Spot]) -> list[Spot]:
    """Those that no other beats on one axis without losing on the other, from left to right."""
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (-one.text, -one.subject)):
        if not front or spot.subject > front[-1].subject:
            front.append(spot)
    return front[::-1]


def _drawn(spots: list[Spot], front: list[Spot]) -> str:
    width, height, left, bottom = 640, 400, 52, 40
    lows = [min(getattr(spot, axis) for spot in spots) for axis in ("text", "subject")]
    highs = [max(getattr(spot, axis) for spot in spots) for axis in ("text", "subject")]
    spans = [(high - low) or 0.1 for low, high in zip(lows, highs, strict=True)]
    lows = [low - 0.08 * span for low, span in zip(lows, spans, strict=True)]
    spans = [1.16 * span for span in spans]

    def place(text: float, subject: float) -> tuple[float, float]:
        x = left + (text - lows[0]) / spans[0] * (width - left - 12)
        return x, height - bottom - (subject - lows[1]) / spans[1] * (height - bottom - 12)

    def ticks(low: float, span: float) -> list[float]:
        return [low + span * share for share in (0.1, 0.5, 0.9)]

    lines = [
        f"<div class=wide><svg class=plane viewBox='0 0 {width} {height}' role='img' aria-label='subject against text'>"
    ]
    for value in ticks(lows[0], spans[0]):
        x = place(value, lows[1])[0]
        lines.append(f"<text class=tick x='{x:.0f}' y='{height - 22}' text-anchor='middle'>{value:.3f}</text>")
    for value in ticks(lows[1], spans[1]):
        y = place(lows[0], value)[1]
        lines.append(f"<text class=tick x='{left - 6}' y='{y + 4:.0f}' text-anchor='end'>{value:.3f}</text>")
    lines.append(f"<path class=axis d='M{left} 12V{height - bottom}H{width - 12}'/>")
    lines.append(f"<text x='{(left + width) / 2:.0f}' y='{height - 4}' text-anchor='middle'>text (CLIP-T)</text>")
    lines.append(f"<text x='{left + 6}' y='22'>subject (DINO-I)</text>")
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(spot.text, spot.subject) for spot in front))
    lines.append(f"<polyline points='{path}'/>")
    sizes = {"mean": 7, "prompt": 3, "step": 4}
    for spot in spots:
        x, y = place(spot.text, spot.subject)
        told = html.escape(f"{spot.label}: text {spot.text:.3f}, subject {spot.subject:.3f}")
        lines.append(
            f"<circle class={spot.kind} cx='{x:.1f}' cy='{y:.1f}' r='{sizes[spot.kind]}'><title>{told}</title></circle>"
        )
        if spot.kind == "mean":
            side = "end" if x > width - 150 else "start"
            shift = -10 if side == "end" else 10
            lines.append(
                f"<text x='{x + shift:.0f}' y='{y - 8:.0f}' text-anchor='{side}'>{html.escape(spot.label)}</text>"
            )
    return "".join([*lines, "</svg></div>"])


def _curves(report: Report) -> str:
    looks = report.evidence.history
    if not looks:
        return ""
    kept = next((look["step"] for look in reversed(looks) if look.get("best")), looks[-1]["step"])
    drawn = "".join(
        curve(name, [(look["step"], look[name]) for look in looks], kept)
        for name in ("loss", "subject", "text", "drift")
    )
    return f"<h2>{html.escape(report.title)} while it trained</h2><div class=curves>{drawn}</div>"


# -- the pictures --------------------------------------------------------------------------------------------


def _side_by_side(reports: list[Report]) -> str:
    """Every prompt, the same noise in each column, one row a gallery."""
    prompts = list(dict.fromkeys(group for report in reports for group in report.evidence.groups))
    blocks: list[str] = []
    for prompt in prompts[: LISTED // SHOWN_OF_PROMPT]:
        rows: list[str] = []
        for report in reports:
            own = [row for row, group in enumerate(report.evidence.groups) if group == prompt][:SHOWN_OF_PROMPT]
            label = f"<figcaption>{html.escape(report.title)}</figcaption>" if len(reports) > 1 else ""
            rows.append(
                f"<figure>{label}<div class=strip>{''.join(_picture(report, row) for row in own)}</div></figure>"
            )
        blocks.append(f"<h3>{html.escape(_shown(prompt))}</h3>{''.join(rows)}")
    photos = [photo.open() for photo in reports[0].evidence.photos[:8]]
    references = "".join(
        f"<img alt='photo {number}' src='{embedded(image)}'>" for number, image in enumerate(photos, 1)
    )
    told = f"<h3>the photos</h3><div class=strip>{references}</div>" if photos else ""
    return f"<h2>Pictures</h2>{told}{''.join(blocks)}"


def _worst(report: Report) -> str:
    blocks: list[str] = []
    for result in report.results.values():
        values = result.scores.values
        if len(values) != len(report.evidence.gallery.pictures) or result.metric.axis == "quality":
            continue
        rows = [row for row, value in enumerate(values) if math.isfinite(value)]
        rows.sort(key=lambda row: values[row], reverse=not result.metric.higher_is_better)
        shown = "".join(
            f"<figure>{_picture(report, row)}<figcaption>{values[row]:.3f} "
            f"{html.escape(_shown(report.evidence.groups[row]))}</figcaption></figure>"
            for row in rows[:WORST]
        )
        end = "lowest" if result.metric.higher_is_better else "highest"
        blocks.append(f"<h3>{end} {html.escape(result.metric.title)}</h3><div class=cards>{shown}</div>")
    return f"<h2>{html.escape(report.title)}: worst cases</h2>{''.join(blocks)}" if blocks else ""


def _listing(report: Report) -> str:
    """Every picture with its scores, sortable."""
    pictures = report.evidence.gallery.pictures
    columns = {name: one for name, one in report.results.items() if len(one.scores.values) == len(pictures)}
    head = "".join(f"<th>{html.escape(one.metric.title)}</th>" for one in columns.values())
    rows: list[str] = []
    for row, picture in enumerate(pictures[:LISTED]):
        cells = "".join(_value(one.scores.values[row]) for one in columns.values())
        rows.append(f"<tr><td>{html.escape(picture.path.name)}</td>{cells}</tr>")
    more = f"<p>The first {LISTED} of {len(pictures)}.</p>" if len(pictures) > LISTED else ""
    return (
        f"<details><summary>{html.escape(report.title)}: every picture</summary>{more}<table class=sort><thead><tr>"
        f"<th>file</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></details>"
    )


def _value(value: float) -> str:
    return f"<td data-value='{value}'>{value:.3f}</td>" if math.isfinite(value) else "<td data-value='-inf'>failed</td>"


def _picture(report: Report, row: int) -> str:
    image = report.evidence.open(row)
    if image is None:
        return "<span class=gap>unreadable</span>"
    return f"<img alt='{html.escape(_shown(report.evidence.groups[row]), quote=True)}' src='{embedded(image)}'>"


def _shown(group: str) -> str:
    """The prompt, or the name of the file of a picture that has none."""
    return Path(group).name if "/" in group else group


def _mean(values: list[float]) -> float:
    good = [value for value in values if math.isfinite(value)]
    return sum(good) / len(good) if good else math.nan


def embedded(image: Image.Image) -> str:
    """A picture as a data address, small enough for a page with hundreds of them."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, format="WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}
small {{ display: block; opacity: .75; font-weight: 400; }}
h1, h2, h3, summary, figcaption, li {{ overflow-wrap: anywhere; }}
th {{ cursor: pointer; user-select: none; white-space: nowrap; }}
th[aria-sort=descending]::after {{ content: " ↓"; }} th[aria-sort=ascending]::after {{ content: " ↑"; }}
.strip, .cards {{ display: flex; flex-wrap: wrap; gap: .4rem; }}
.strip img, .cards img, .gap {{ width: 8rem; height: 8rem; object-fit: contain; }}
.gap {{ display: inline-grid; place-items: center; border: 1px dashed var(--line); font-size: .8rem; }}
.cards figure {{ width: 8rem; }} h3 {{ font-size: 1rem; margin: 1rem 0 .3rem; }}
.plane {{ width: 100%; min-width: 30rem; max-width: 40rem; }}
.wide {{ overflow-x: auto; }} .axis {{ fill: none; stroke: var(--line); }}
.plane polyline {{ stroke: var(--mark); stroke-dasharray: 4 3; }}
circle.prompt {{ fill: var(--ink); opacity: .45; }} circle.step {{ fill: none; stroke: var(--mark); }}
summary {{ cursor: pointer; margin: .6rem 0; }}
</style></head><body>
{body}
<script>
for (const table of document.querySelectorAll("table.sort")) {{
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {{
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {{
      const [x, y] = [value(a), value(b)], gap = Number(x) - Number(y);
      return Number.isNaN(gap) ? x.localeCompare(y) : gap;
    }});
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  }}));
}}
</script>
</body></html>
"""
