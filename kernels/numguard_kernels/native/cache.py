"""The folder in which compiled libraries are kept: the user's own, and nobody else's."""

import os
import stat
from pathlib import Path

_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CacheRefusedError(Exception):
    """A folder or file of the cache cannot be trusted or used; the message says why and what to do."""


def cache_folder() -> Path:
    """Return the folder, made with permissions for its owner alone where it was not there.

    ``$NUMGUARD_CACHE`` where it is set, else ``$XDG_CACHE_HOME/numguard``, else ``~/.cache/numguard``.

    Raises
    ------
    CacheRefusedError
        If it cannot be made, belongs to somebody else, or others may write to it: a library from there would run
        with the rights of this process.
    """
    given = os.environ.get("NUMGUARD_CACHE")
    above = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given) if given else (Path(above) if above else Path.home() / ".cache") / "numguard"
        if not folder.is_absolute():
            raise CacheRefusedError(f"the cache folder {folder} is a relative path; set NUMGUARD_CACHE to a full one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise CacheRefusedError(f"the cache folder cannot be made: {error}; set NUMGUARD_CACHE to another") from error
    require_private(folder)
    return folder


def require_private(path: Path) -> None:
    """Raise where a file or folder is not this user's, or others may write to it.

    Raises
    ------
    CacheRefusedError
        With the reason.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CacheRefusedError(f"{path} cannot be read: {error}") from error
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise CacheRefusedError(
            f"{path} belongs to user {found.st_uid}, not to {os.geteuid()} who runs this process; "
            "set NUMGUARD_CACHE to a folder of your own"
        )
    if stat.S_IMODE(found.st_mode) & _FOR_OTHERS:
        raise CacheRefusedError(
            f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o}); "
            "take the permission away (chmod go-w) or set NUMGUARD_CACHE to a private folder"
        )
