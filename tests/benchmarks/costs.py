"""What each of the recipes that are given costs: all learn the same photos, one after another: `make bench-methods`.

Seconds are the processor's, of the whole command, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = "| recipe | processor seconds | steps | peak memory MB |\n| --- | --- | --- | --- |"


def main() -> None:
    """Train by every recipe and print a row for each."""
    photos = ROOT / "docs" / "example-photos" / "mug"
    sys.stdout.write(HEAD + "\n")
    for recipe in sys.argv[1:]:
        sys.stdout.write(row(recipe, photos) + "\n")
        sys.stdout.flush()


def row(recipe: str, photos: Path) -> str:
    """Train in a folder that goes again."""
    before = spent()
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "image", str(photos), "--noun", "mug", "-r", recipe, "-o", f"{folder}/run", "--json", "-q"]
        alone = os.environ | {"OMP_NUM_THREADS": "1", "PCS_CACHE": f"{folder}/cache"}
        command = [sys.executable, "-m", "pcs_cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    told = json.loads(done.stdout)
    return f"| {recipe} | {spent() - before:.0f} | {told['steps']} | {told['peak_memory_mb']} |"


def spent() -> float:
    """Seconds that finished children kept a processor busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
