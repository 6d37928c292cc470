"""Is the data of a data set within reach? Asked before any work starts: this module imports neither torch nor numpy."""

from __future__ import annotations

import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path


def check_presence(
    name: str, data_dir: Path, sources: Sequence[str], download_from: str | None, *, timeout_s: float = 0.8
) -> str | None:
    """Say whether a data set can be loaded, without loading it.

    Args:
        name: The data set's name, for the message.
        data_dir: Where the user keeps data.
        sources: Files or folders, relative to ``data_dir``; any one of them means the data is there.
            Empty for data sets that need no files.
        download_from: ``host:port`` the data would be downloaded from, or None when it cannot be downloaded.
        timeout_s: How long to wait for the download host in all (name look-up included), in seconds.

    Returns:
        None when a source is readable, no source is needed, or the download host accepts a TCP connection;
        else one line naming the data set, the places looked in, what is wrong and the ways to get the data.
    """
    if not sources:
        return None
    problems = [path_problem(data_dir / source) for source in sources]
    if any(problem is None for problem in problems):
        return None
    unreadable = [problem for problem in problems if problem is not None and problem != "missing"]
    if unreadable:
        # A download would fail too, or silently put a second copy beside data the user already has.
        return missing_message(name, data_dir, sources, download_from, problem="; ".join(dict.fromkeys(unreadable)))
    if download_from is None:
        return missing_message(name, data_dir, sources, None)
    if host_answers(download_from, timeout_s):
        return None
    problem = f"and {download_from} does not answer, so it cannot be downloaded now"
    return missing_message(name, data_dir, sources, download_from, problem=problem)


def path_problem(path: Path) -> str | None:
    """Say what keeps ``path`` from being read: None (nothing), ``"missing"``, or a sentence naming the path."""
    for place in reversed([path, *path.parents]):
        try:
            is_folder = place.is_dir()
            if not is_folder and not place.exists():
                return "missing"
        except OSError as error:
            return f"{place} is unreadable ({error.strerror})"
        # Ancestors need only be passable; the path itself must be readable, and listable when it is a folder.
        needed = (os.R_OK | os.X_OK if is_folder else os.R_OK) if place == path else os.X_OK
        if place != path and not is_folder:
            return f"{place} is unreadable (not a folder)"
        if not os.access(place, needed):
            return f"{place} is unreadable (permission denied)"
    return None


def missing_message(
    name: str, data_dir: Path, sources: Sequence[str], download_from: str | None, *, problem: str = ""
) -> str:
    """Word the one-line message for data that is not there: what, where, what is wrong, and the ways to get it."""
    looked = " or ".join(sources)
    ways = [f"set data_dir=FOLDER to a folder that holds {looked}", f"put {looked} under {data_dir}"]
    if download_from is not None:
        ways.append(f"set dataset.download=true on a machine that can reach {download_from}")
    ways.append("use dataset=digits or dataset=synthetic, which need no files")
    reason = f" {problem}" if problem.startswith("and ") else f" ({problem})" if problem else ""
    return f"data set {name}: no readable data in {data_dir}, looked for {looked}{reason}. Ways on: {'; '.join(ways)}."


def host_answers(address: str, timeout_s: float) -> bool:
    """Whether ``host:port`` (or the proxy that stands before it) accepts a TCP connection within ``timeout_s``.

    Looking a name up cannot be interrupted, so all of it happens in a daemon thread that is left behind when late.
    """
    host, port = _through_proxy(address)
    answered: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((host, port), timeout=timeout_s):
                answered.append(True)
        except (OSError, UnicodeError):  # the latter: a host name that cannot be encoded
            return

    thread = threading.Thread(target=connect, name="qbench-presence", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(answered)


def _through_proxy(address: str) -> tuple[str, int]:
    """Name the host and port a download really talks to: those of ``address``, or of the proxy urllib would use."""
    host, _, port = address.rpartition(":")
    proxy = urllib.request.getproxies().get("https")
    if proxy is None or urllib.request.proxy_bypass(host):
        return host, int(port)
    parsed = urllib.parse.urlparse(proxy if "//" in proxy else f"//{proxy}")
    return (parsed.hostname, parsed.port or 3128) if parsed.hostname else (host, int(port))
