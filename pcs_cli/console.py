"""The only place that prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from modalities.core.concept import Concept

PLAIN_SECONDS = 10.0
# Characters that a folded column has at least.
NARROWEST = 20


class Console:
    """What the user sees. `--json` makes stdout one JSON object; `--quiet` silences stderr but for errors."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self._rich: RichConsole | None = None

    @property
    def rich(self) -> RichConsole:
        """The console on stderr; colours and bars only on a terminal, none with NO_COLOR."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        return self._rich

    def setup(self, *, json: bool = False, quiet: bool = False) -> None:
        """Take the output options of the running command."""
        self.json, self.quiet = json, quiet

    # -- results ---------------------------------------------------------------------------------------------

    def result(self, value: dict[str, Any], lines: Iterable[str] = ()) -> None:
        """Give the command's result: the object with `--json`, else the lines."""
        if self.json:
            self.result_text(json.dumps(value, ensure_ascii=False, default=str))
        else:
            for line in lines:
                self.result_text(line)

    def result_text(self, text: str) -> None:
        """Write one line to stdout."""
        # File names may hold bytes that are no UTF-8: JSON's escapes stand for them, as in the files of a run.
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stdout.flush()

    def result_table(self, head: list[str], rows: list[list[str]], value: dict[str, Any]) -> None:
        """Give a table as the command's result: aligned columns, no borders, so that it can be grepped.

        On a terminal the last column is folded to its width; elsewhere a row stays one line.
        """
        if self.json:
            self.result(value)
            return
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
        place = sum(widths) + 2 * len(widths)
        room = max(NARROWEST, shutil.get_terminal_size().columns - place) if sys.stdout.isatty() else None
        for row in [head, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            folded = textwrap.wrap(row[-1], room, break_on_hyphens=False) if room else [row[-1]]
            self.result_text("  ".join([*cells, *folded[:1]]).rstrip())
            for rest in folded[1:]:
                self.result_text(" " * place + rest)

    # -- messages --------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Say one line to the user."""
        if not self.quiet:
            self.rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Say one line that the user should not miss."""
        if not self.quiet:
            self.rich.print(f"[yellow]note:[/yellow] {_escaped(text)}")

    def facts(self, title: str, rows: dict[str, str]) -> None:
        """Show names and values under a title."""
        if self.quiet:
            return
        width = max(len(name) for name in rows)
        self.rich.print(f"[bold]{_escaped(title)}[/bold]")
        for name, value in rows.items():
            self.rich.print(f"  [dim]{name.ljust(width)}[/dim]  {_escaped(value)}")

    def photos(self, concept: Concept) -> None:
        """Say which files of a concept are not learned from, and what is doubtful about the others."""
        for one in concept.subjects:
            for path, reason in one.skipped:
                self.warn(f"{path.name} is skipped: it {reason}.")
            for warning in one.warnings:
                self.warn(warning)

    def error(self, text: str, code: int) -> None:
        """Say what went wrong; with `--json` also on stdout."""
        self.rich.print(f"[bold red]error:[/bold red] {_escaped(text)}")
        if self.json:
            self.result({"error": text, "exit_code": code})

    def help(self, text: str, _code: int) -> None:
        """Show the help that a group without a command gives."""
        if text.strip():
            self.rich.print(text, markup=False)

    def interrupted(self, text: str, resume: str) -> None:
        """Say that the work was stopped, and how to go on."""
        self.rich.print(f"[yellow]stopped:[/yellow] {_escaped(text)}")
        if resume:
            self.rich.print(f"  go on with: {_escaped(resume)}")
        if self.json:
            self.result({"interrupted": text, "resume": resume, "exit_code": 130})

    @contextmanager
    def progress(self) -> Generator[Bars | Lines]:
        """Yield what long work reports to: bars with ETA on a terminal, plain lines in a pipe."""
        if self.quiet or not self.rich.is_terminal:
            yield Lines(self)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        with Progress(*columns, console=self.rich, transient=True) as bars:
            yield Bars(self, bars)


class Bars:
    """A `Progress` that draws rich bars."""

    def __init__(self, console: Console, bars: RichProgress) -> None:
        self._console = console
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, stage: str, total: int, done: int = 0) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(stage, total=total or None, completed=done, values="")

    def advance(self, steps: int = 1, **values: float) -> None:
        assert self._task is not None
        self._bars.update(self._task, advance=steps, values=_shown(values))

    def note(self, text: str) -> None:
        self._console.say(text)

    def warn(self, text: str) -> None:
        self._console.warn(text)


class Lines:
    """A `Progress` that writes a line now and then, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage, self._total, self._done, self._began_at = "", 0, 0, 0
        self._started: float | None = None
        self._spoken = 0.0

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done, self._began_at = stage, total, done, done
        self._started, self._spoken = None, time.monotonic()

    def advance(self, steps: int = 1, **values: float) -> None:
        self._done += steps
        now = time.monotonic()
        if self._started is None:
            # What comes before the first step is no measure of the others.
            self._started, self._began_at = now, self._done
            return
        if now - self._spoken < PLAIN_SECONDS:
            return
        self._spoken = now
        left = (now - self._started) / (self._done - self._began_at) * (self._total - self._done)
        self._console.say(f"{self._stage} {self._done}/{self._total}, {left:.0f} s left {_shown(values)}".rstrip())

    def note(self, text: str) -> None:
        self._console.say(text)

    def warn(self, text: str) -> None:
        self._console.warn(text)


def minutes(seconds: float) -> str:
    """A time to come, in words."""
    return "under a minute" if seconds < 60 else f"about {seconds / 60:.0f} min"


def _shown(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


console = Console()
