"""What is wrong with a config, one line each, all at once."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. As text: ``file:line: path.of.key: what is wrong, and the nearest right name``."""

    file: str
    """As it was named on the command line; ``--set`` for what came from there; empty when no file has a share in it."""
    line: int
    """From 1; 0 where there is none."""
    path: str
    """Keys joined by dots; empty for the file as a whole."""
    message: str
    """Never holds a secret, nor what an environment variable or a file brought in."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(Exception):
    """The config cannot be used. ``problems`` are in the order of the files and of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the closest known name, or the known names where none is close."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {folded[close[0]]}?"
    return f"; known here: {', '.join(names)}" if names else ""
