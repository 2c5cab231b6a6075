"""``${…}`` in values: ``${env:NAME}``, ``${env:NAME:-default}``, ``${NAME}``, ``${file:path}``; ``$$`` is one ``$``.

The rules are the Collector's (confmap's env and file providers) but for two: a variable that is not set and has no
default is an error instead of an empty value, and what was put in is not looked through again, so that a secret may
hold any character.
"""

import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEEPEST = 20


class Expanded(str):
    """Text that came at least partly from ``${…}``. It may be a secret, whatever key it stands under."""

    whole: bool
    """The value was one ``${…}`` and nothing else, so a key that takes no text reads it as YAML."""
    source: str
    """The expression as the file has it, without its default."""


def expand(text: str, env: Mapping[str, str], _depth: int = 0) -> str:
    """The text with every ``${…}`` replaced; an Expanded where there was one.

    Raises ValueError, with a message that names the variable or file and never its content.
    """
    if "$" not in text:
        return text
    if _depth > _DEEPEST:
        raise ValueError("has defaults inside defaults that are nested too deeply")
    out: list[str] = []
    sources: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        out.append(text[at:dollar])
        follows = text[dollar + 1 : dollar + 2]
        if follows == "{":
            end = _closing(text, dollar + 1)
            body = text[dollar + 2 : end]
            out.append(_resolve(body, env, _depth))
            sources.append("${" + body.partition(":-")[0] + "}")
            at = end + 1
        else:
            out.append("$")
            at = dollar + (2 if follows == "$" else 1)
    out.append(text[at:])
    if not sources:
        return "".join(out)
    expanded = Expanded("".join(out))
    expanded.whole = text.startswith("${") and _closing(text, 1) == len(text) - 1
    expanded.source = " and ".join(sources)
    return expanded


def _closing(text: str, opening: int) -> int:
    """Where the brace at ``opening`` is closed; braces inside a default count."""
    depth = 0
    for at in range(opening, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
    raise ValueError("has a ${ that is never closed (a plain dollar sign is written $$)")


def _resolve(body: str, env: Mapping[str, str], depth: int) -> str:
    if _NAME.fullmatch(body):
        return _variable(body, None, env, depth)
    scheme, _, rest = body.partition(":")
    if scheme == "env":
        name, has_default, default = rest.partition(":-")
        return _variable(name, default if has_default else None, env, depth)
    if scheme == "file":
        return _file(rest)
    if rest.startswith("-"):
        raise ValueError(f"has a default without a scheme; write ${{env:{scheme}:-…}}")
    raise ValueError("has a ${…} that is neither ${env:NAME} nor ${file:path} (a plain dollar sign is written $$)")


def _variable(name: str, default: str | None, env: Mapping[str, str], depth: int) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"asks for the environment variable {name!r}, which is no name for one")
    value = env.get(name)
    if value is not None:
        return value
    if default is None:
        raise ValueError(f"environment variable {name} is not set; ${{env:{name}:-default}} would do without it")
    return str(expand(default, env, depth + 1))


def _file(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"file {path} cannot be read: it is not UTF-8 text") from error
    return text.removesuffix("\n").removesuffix("\r")
