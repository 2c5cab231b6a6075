"""Writing config files and reading them back."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from grafter.components import Config, load
from grafter.config.problems import ConfigError

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and gives its path."""

    def write(text: str, name: str = "config.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def read(write: Write) -> Callable[..., Config]:
    """Loads the texts as files a.yaml, b.yaml, … in an environment of its own."""

    def read(*texts: str, sets: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Config:
        paths = [write(text, f"{chr(97 + at)}.yaml") for at, text in enumerate(texts)]
        return load(paths, sets, env or {})

    return read


@pytest.fixture
def problems(read: Callable[..., Config], tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of the texts, as lines without the directory; the texts must have some."""

    def problems(*texts: str, sets: Sequence[str] = (), env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(*texts, sets=sets, env=env)
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return problems
