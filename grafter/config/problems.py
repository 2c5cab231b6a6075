"""What is wrong with a config, one line each, all at once."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Loc = tuple[str | int, ...]
"""Keys and list positions from the root, or from the model that names them."""


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


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or worth knowing, that no single key can tell; where it stands in a file is the loader's to say.

    Of a model's own findings the places are below the model.
    """

    loc: Loc
    message: str
    also: tuple[Loc, ...] = ()
    """Other places that have a share in it."""
    warning: bool = False
    """The config can be used all the same."""

    def below(self, loc: Loc) -> "Finding":
        """The same, of a model that stands at ``loc``."""
        return Finding((*loc, *self.loc), self.message, tuple((*loc, *other) for other in self.also), self.warning)


class ConfigError(Exception):
    """The config cannot be used. ``problems`` are in the order of the files and of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def path_of(loc: Loc) -> str:
    """``receivers.otlp.protocols.grpc.tokens.0``."""
    return ".".join(map(str, loc))


def nearest(word: str, known: Iterable[str], *, otherwise: bool = True) -> str:
    """``; did you mean …?`` with the closest known name; where none is close, the known names if ``otherwise``."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {folded[close[0]]}?"
    return f"; known here: {', '.join(names)}" if names and otherwise else ""
