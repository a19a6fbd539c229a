"""The working directory by the user's name for it ($PWD), and paths below it.

A deployment may have one folder per release, and a symbolic link, `current`, that is moved to each new release.
os.getcwd() resolves the link, and so stays in the release of the start. $PWD contains the link, and so leads to the new
release.
"""

from __future__ import annotations

import os

from gserver.errors import ConfigError

__all__ = ["absolute", "enter", "moved_after_link", "name_entries", "place_of", "working_folder"]


def working_folder() -> str:
    """Return $PWD if it names the working directory (as `pwd -L` does), else os.getcwd().

    If the directory was removed, return its last name.
    """
    name = os.path.normpath(os.environ.get("PWD", ""))
    try:
        if os.path.isabs(name) and os.path.samestat(os.stat(name), os.stat(".")):
            return name
    except OSError:  # there is no such directory any more
        pass
    try:
        return os.getcwd()
    except OSError:
        return name if os.path.isabs(name) else os.sep


def absolute(path: str, folder: str | None = None) -> str:
    """Return `path` as an absolute path, without resolving links.

    A relative path starts in `folder` (default: the working directory). `..` after a link is kept where removing it
    would lead to another folder.
    """
    joined = os.path.join(working_folder() if folder is None else folder, path)
    short = os.path.normpath(joined)
    return short if ".." not in joined or os.path.realpath(short) == os.path.realpath(joined) else joined


def enter(folder: str) -> None:
    """Change the working directory and $PWD to `folder`; ConfigError if that fails."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(f"cannot change to the directory {folder!r}: {error.strerror}") from None
    os.environ["PWD"] = folder


def place_of(path: str) -> str:
    """Return `path` with the links in its folder resolved, so that the file is found again after a link is moved."""
    folder, name = os.path.split(absolute(path))
    return os.path.join(os.path.realpath(folder), name)


def moved_after_link(path: str, given: str) -> str:
    """Move the file at `path` to where `given` leads now, if a link in `given` was moved and nothing is there yet.

    Returns the path of the file afterwards: `path` if the file was not moved.
    """
    place = place_of(given)
    if place == path or os.path.lexists(place):
        return path
    try:
        os.rename(path, place)
    except OSError:  # on another file system, or not writable
        return path
    return place


def name_entries(entries: list[str], python_path: str) -> None:
    """Replace entries of a list like sys.path that Python has resolved, by the user's name for the directory.

    These are the entry of `python -m` and the relative entries of the variable PYTHONPATH.
    """
    try:
        names = {os.path.abspath(part): absolute(part) for part in (".", *python_path.split(os.pathsep))}
    except OSError:  # the directory was removed
        return
    entries[:] = [names.get(entry, entry) for entry in entries]
