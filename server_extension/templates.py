"""The notebook template of a launch, put into the workspace once."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from maestro_core.names import slug

MAX_NAME = 30  # of a template, as of all names (maestro_core.names)
#: of an image or an installed project; a checkout's own folder comes first
INSTALLED = Path("share", "maestro", "templates", "notebooks")


def folders() -> Iterator[Path]:
    """Where templates are looked for: the source tree, then the prefix (as ``jupyterhub._data`` does)."""
    yield Path(__file__).resolve().parent.parent / "templates" / "notebooks"
    yield Path(sys.prefix) / INSTALLED


def find_template(name: str, places: Iterable[Path] | None = None) -> Path | None:
    """The file of a template.

    Args:
        name: as the launch names it (``start-here``): the slug of the file's name (``Start here.ipynb``).

    Returns:
        The notebook, or None if there is none of that name.
    """
    files = (file for place in places or folders() for file in sorted(place.glob("*.ipynb")))
    return next((file for file in files if slug(file.stem, MAX_NAME) == name), None)


def place_template(template: Path, workspace: Path) -> bool:
    """Copy a template into the workspace unless a file of its name is there.

    The copy appears complete or not at all, and never replaces a file, whoever else puts one there meanwhile.

    Returns:
        Whether it was copied.

    Raises:
        OSError: the workspace cannot be written.
    """
    target = workspace / template.name
    if os.path.lexists(target):
        return False
    handle, temporary = tempfile.mkstemp(prefix=".maestro-", suffix=".tmp", dir=workspace)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(template.read_bytes())
        # mkstemp makes it the user's alone; in a workspace it is its members'.
        Path(temporary).chmod(0o660)
        return _rename_if_free(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _rename_if_free(source: str, target: Path) -> bool:
    """A hard link fails where a file is, a rename would replace it; some network volumes know no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # the name is ours now
        except FileExistsError:
            return False
        os.replace(source, target)
    return True
