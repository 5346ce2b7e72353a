"""How much of each subject is left when runs are merged, by adding and by fusing: `make bench-merge`.

Takes the finished runs of `make bench-methods`, merges the first two, four and six of them in the order of their names,
and writes a table of likeness to each subject's own photos and to the others'.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

COUNTS = (2, 4, 6)
HEAD = "| runs | subjects | | own photos | others' photos | seconds |\n| --- | --- | --- | --- | --- | --- |"


def main() -> None:
    """Merge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=Path, help="the folder `jobs` of a finished `pcs bench run`")
    parser.add_argument("recipes", nargs="*", default=["image-dreambooth-lora", "image-custom-diffusion"])
    asked = parser.parse_args()
    sys.stdout.write(HEAD + "\n")
    for recipe in asked.recipes:
        runs = sorted((asked.jobs / recipe).glob("*/run"))
        for count in COUNTS:
            for line in rows(recipe, runs[:count]):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


def rows(recipe: str, runs: list[Path]) -> list[str]:
    """The subjects alone, added and fused."""
    lines: list[str] = []
    for method in ("add", "fuse"):
        told, seconds = merged(runs, method)
        if not lines:
            lines.append(row(recipe, runs, "each by its own run", told["alone"], ""))
        lines.append(row(recipe, runs, f"--method {method}", told["together"], f"{seconds:.0f}"))
    return lines


def merged(runs: list[Path], method: str) -> tuple[dict[str, list[list[float]]], float]:
    """What `pcs merge --json` says, and the CPU seconds it took."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with tempfile.TemporaryDirectory() as folder:
        words = ["merge", *map(str, runs), "--method", method, "-o", f"{folder}/merged", "--json", "--quiet"]
        done = subprocess.run([sys.executable, "-m", "pcs_cli", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def row(recipe: str, runs: list[Path], how: str, likeness: list[list[float]], seconds: str) -> str:
    """One line: mean likeness to own photos, and to all others'."""
    places = range(len(likeness))
    own = mean(likeness[i][i] for i in places)
    others = mean(likeness[i][j] for i in places for j in places if i != j)
    names = " ".join(run.parent.name for run in runs)
    return f"| {recipe} | {names} | {how} | {own:.3f} | {others:.3f} | {seconds} |"


if __name__ == "__main__":
    main()
