"""Where a verb writes its page: what ``--out`` means, for every verb the same."""

from pathlib import Path

from numguard.errors import InputError
from numguard.report.inert_text import inert


def page_at(out: str, name: str) -> Path:
    """Return where a page goes, and make the folder for it.

    Parameters
    ----------
    out
        The file itself where it ends in ``.html`` and is no folder, else the folder for it.
    name
        Of the file in a folder.

    Raises
    ------
    InputError
        If there can be no such folder.
    """
    place = Path(out)
    try:
        page = place if place.suffix.lower() == ".html" and not place.is_dir() else place / name
        page.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(inert(page.parent, 200), "", "is a file; give a folder, or a path ending in .html") from None
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise InputError(inert(out, 200), "", f"cannot be made ({reason}); give another place with --out") from None
    return page
