"""Reading the words of a verb."""

from __future__ import annotations

from collections.abc import Sequence

from qbench.errors import ConfigError


def take_option(flag: str, words: Sequence[str], wanted: str = "a path") -> tuple[str | None, list[str]]:
    """The value of ``flag VALUE`` or ``flag=VALUE`` (None if it is not given), and the other words.

    Raises:
        ConfigError: The flag has no value; says that ``wanted`` is missing.
    """
    for position, word in enumerate(words):
        name, joined, value = word.partition("=")
        if name != flag:
            continue
        used = 1 if joined else 2
        value = value if joined else (list(words)[position + 1 : position + 2] or [""])[0]
        if not value or value.startswith("-"):
            raise ConfigError(f"{flag}: {wanted} is missing after it.")
        return value, [*words[:position], *words[position + used :]]
    return None, list(words)


def whole_number(flag: str, text: str | None, default: int, lowest: int = 1) -> int:
    """The number given for a flag, or its default.

    Raises:
        ConfigError: It is no whole number, or below ``lowest``.
    """
    if text is None:
        return default
    if not text.isdecimal() or int(text) < lowest:
        raise ConfigError(f"{flag} {text}: a whole number from {lowest} up is needed.")
    return int(text)
