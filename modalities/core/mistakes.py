"""What is wrong with what a user wrote, in one line a mistake: its key, what was given, what is allowed."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ValidationError

from modalities.core.errors import PcsError, did_you_mean


def mistaken(mistakes: list[str], source: str) -> PcsError:
    """The error that names `source` and all its mistakes."""
    if len(mistakes) == 1:
        return PcsError(f"{source}: {mistakes[0]}")
    return PcsError(f"{source}: {len(mistakes)} mistakes:\n" + "\n".join(f"  {line}" for line in mistakes))


def explained(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """A line for each mistake in what should be a `model`, with `prefix` before its key."""
    lines: list[str] = []
    for one in error.errors(include_url=False):
        path = prefix + ".".join(str(key) for key in one["loc"])
        if one["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key; {did_you_mean(str(one['loc'][-1]), _fields(model, one['loc'][:-1]))}")
        elif one["type"] == "missing":
            lines.append(f"{path}: is missing.")
        else:
            reason = one["msg"].removeprefix("Value error, ")
            given = "" if ", not " in reason else f", not {one['input']!r}"
            lines.append(f"{path}: {reason[0].lower()}{reason[1:]}{given}.")
    return lines


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that the section at `loc` allows."""
    for key in loc:
        if isinstance(key, int):
            continue
        inner = model.model_fields[key].annotation
        inner = get_args(inner)[0] if get_args(inner) else inner
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
