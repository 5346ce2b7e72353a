"""The two ways a command may end early: the user's mistake, and an interruption that can be resumed."""

import difflib
from collections.abc import Iterable


class PcsError(Exception):
    """A mistake that the user can mend: one line that says what was given, what is allowed, what to do.

    Anything else that escapes is a bug of ours and keeps its traceback. `exit_code` is 2 when nothing was
    started, 1 when work had begun and failed (`RunFailed`).
    """

    exit_code = 2


class RunFailed(PcsError):
    """Work that had started and could not go on (NaN loss, disk full); what was done so far is kept."""

    exit_code = 1


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM and its state is on disk. `resume` is the command to go on."""

    exit_code = 130

    def __init__(self, message: str, resume: str = "") -> None:
        super().__init__(message)
        self.resume = resume


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the nearest allowed name, else the list of allowed names."""
    names = sorted(set(allowed))
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return "allowed: " + ", ".join(names) if names else "none are allowed here"
