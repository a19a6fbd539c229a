"""The working directory by the name that the user gave it, and paths in it.

Where each release has a folder of its own, and a symbolic link, `current`, is moved from one to the next, os.getcwd()
is the release from the start for ever. The shell's $PWD is the name with the link in it, which leads to the new one.
"""

from __future__ import annotations

import os

from gserver.errors import ConfigError

__all__ = ["absolute", "enter", "moved_after_link", "name_entries", "place_of", "working_folder"]


def working_folder() -> str:
    """$PWD if it names the working directory, as `pwd -L` has it, else os.getcwd(); its last name if it was removed."""
    name = os.path.normpath(os.environ.get("PWD", ""))
    try:
        if os.path.isabs(name) and os.path.samestat(os.stat(name), os.stat(".")):
            return name
    except OSError:  # the name leads nowhere any more
        pass
    try:
        return os.getcwd()
    except OSError:
        return name if os.path.isabs(name) else os.sep


def absolute(path: str, folder: str | None = None) -> str:
    """`path` from the root on, in `folder` (default: the working directory) if it is relative. No link is resolved.

    So `..` behind a link stays, where it leads to another folder than the one that the link is in.
    """
    joined = os.path.join(working_folder() if folder is None else folder, path)
    short = os.path.normpath(joined)
    return short if ".." not in joined or os.path.realpath(short) == os.path.realpath(joined) else joined


def enter(folder: str) -> None:
    """Make it the working directory, by this name; ConfigError if that cannot be."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(f"cannot change to the directory {folder!r}: {error.strerror}") from None
    os.environ["PWD"] = folder


def place_of(path: str) -> str:
    """Where a file is made at `path`: the links in its folder are resolved. So it is found again if one is moved."""
    folder, name = os.path.split(absolute(path))
    return os.path.join(os.path.realpath(folder), name)


def moved_after_link(path: str, given: str) -> str:
    """Move the file at `path` to where `given` leads now, if a link in it was moved and that place is free.

    Returns where the file is then: where it was, if it cannot be moved.
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
    """In a list like sys.path, name the working directory as the user did, where Python has resolved it itself.

    Such entries are those of `python -m`, and the relative ones of the variable PYTHONPATH.
    """
    try:
        names = {os.path.abspath(part): absolute(part) for part in (".", *python_path.split(os.pathsep))}
    except OSError:  # it was removed
        return
    entries[:] = [names.get(entry, entry) for entry in entries]
