"""The console of all verbs."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 120  # of output that goes to a file or a pipe, where rich would assume 80


def make_console() -> Console:
    """Colour and width of the terminal; plain and ``PLAIN_WIDTH`` wide elsewhere. Honours NO_COLOR."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
