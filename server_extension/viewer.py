"""A viewer's server: the workspace is read-only, and their private home stands beside it in the file browser.

The kernel keeps the workspace as it is (the volume is mounted read-only): what is refused here would fail anyway, and
this says why, in one sentence, and where else to save. Nothing here decides what a viewer may do.
"""

from __future__ import annotations

import os
import posixpath
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado import web
from traitlets import Instance, Unicode, default

from maestro_core.environment import VIEWER_HOME

from .contents import LaunchContents


def inside_home(path: str) -> str | None:
    """The part of an API path below the private home (empty for the home itself), or None if it is not in there."""
    first, _, rest = path.strip("/").partition("/")
    return rest if first == VIEWER_HOME else None


def _seen_from_workspace(path: str) -> str:
    return f"{VIEWER_HOME}/{path.strip('/')}".rstrip("/")


class HomeContents(LaunchContents):
    """The private home as a root of its own, so that Jupyter's own checks keep paths inside."""

    def emit(self, data: dict[str, Any]) -> None:
        """Called for each thing that is done: events name paths as everybody sees them."""
        super().emit({key: _seen_from_workspace(value) if "path" in key else value for key, value in data.items()})

    def shown(self, model: dict[str, Any]) -> dict[str, Any]:
        """A model with the path that the workspace's browser shows."""
        path = _seen_from_workspace(model["path"])
        shown = model | {"path": path, "name": posixpath.basename(path)}
        if model["type"] == "directory" and model.get("content"):
            shown["content"] = [self.shown(entry) for entry in model["content"]]
        return shown


class ViewerContents(LaunchContents):
    """Contents of the workspace's folder, and of the viewer's home in ``My home/``; only there can be written.

    A folder of the workspace that has this name is hidden by it.
    """

    home_dir = Unicode(help="The viewer's private home.")
    workspace = Unicode(help="The workspace's name, for sentences.")
    home = Instance(HomeContents)

    @default("home_dir")
    def _default_home_dir(self) -> str:
        return os.environ["HOME"]

    @default("workspace")
    def _default_workspace(self) -> str:
        return os.environ.get("MAESTRO_WORKSPACE", "this workspace")

    @default("home")
    def _default_home(self) -> HomeContents:
        return HomeContents(parent=self, root_dir=self.home_dir)

    def _get_os_path(self, path: str) -> str:
        """Called for every path by all that the manager does."""
        below = inside_home(path)
        return str(self.home._get_os_path(below) if below is not None else super()._get_os_path(path))

    def _writable(self, path: str) -> str:
        """The path below the home; the home itself is neither replaced nor renamed nor removed."""
        below = inside_home(path)
        if not below:
            raise web.HTTPError(
                403,
                f"You are viewer of {self.workspace}, its files are read-only for you: save into {VIEWER_HOME}, "
                'or press "Save a Copy to My Home" in the File menu.',
            )
        return below

    async def get(self, path: str, content: bool = True, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A file or folder; the listing of the root shows the home too."""
        below = inside_home(path)
        if below is not None:
            return self.home.shown(await self.home.get(below, content, *args, **kwargs))
        model: dict[str, Any] = await super().get(path, content, *args, **kwargs)
        if content and not path.strip("/"):
            others = [entry for entry in model["content"] if entry["name"] != VIEWER_HOME]
            model["content"] = [*others, await self.get(VIEWER_HOME, False)]
        return model

    async def is_hidden(self, path: str) -> bool:
        """Whether a file is none of those that are shown."""
        below = inside_home(path)
        return bool(await (super().is_hidden(path) if below is None else self.home.is_hidden(below)))

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save into the home.

        Raises:
            web.HTTPError: 403, it is not in there.
        """
        return self.home.shown(await self.home.save(model, self._writable(path)))

    async def delete(self, path: str) -> None:
        """Delete a file of the home and what was remembered of it.

        Raises:
            web.HTTPError: 403, it is not in there.
        """
        await self.home.delete(self._writable(path))

    async def rename(self, old_path: str, new_path: str) -> None:
        """Rename a file within the home, with what was remembered of it.

        Raises:
            web.HTTPError: 403, one of the two is not in there.
        """
        await self.home.rename(self._writable(old_path), self._writable(new_path))

    async def copy(self, from_path: str, to_path: str | None = None) -> dict[str, Any]:
        """Copy into the home, from the workspace too.

        Raises:
            web.HTTPError: 403, it would not be in there.
        """
        target = posixpath.dirname(from_path.strip("/")) if to_path is None else to_path
        if inside_home(target) is None:
            self._writable(target)
        copied: dict[str, Any] = await super().copy(from_path, to_path)
        return copied

    async def copy_home(self, path: str, model: dict[str, Any] | None) -> str:
        """Copy a document of the workspace into the home, under a name that is free there.

        Args:
            path: of the document.
            model: what is in the user's window (contents model with type, format, content); None for what is on disk.

        Returns:
            The copy's path.

        Raises:
            web.HTTPError: it cannot be read, or not be saved.
        """
        name = posixpath.basename(path.strip("/"))
        if model is None:
            return str((await self.copy(path, VIEWER_HOME))["path"])
        name = await self.increment_filename(name, VIEWER_HOME, insert="-Copy")  # the same one, if it is free
        return str((await self.save(model, f"{VIEWER_HOME}/{name}"))["path"])

    # -- checkpoints of what is in the home lie beside it -------------------------------------------------------------

    async def create_checkpoint(self, path: str) -> dict[str, Any]:
        """Remember a file as it is; one of the workspace, where Jupyter has room for it."""
        below = inside_home(path)
        made: dict[str, Any] = await (
            super().create_checkpoint(path) if below is None else self.home.create_checkpoint(below)
        )
        return made

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        """What was remembered of a file."""
        below = inside_home(path)
        found: list[dict[str, Any]] = await (
            super().list_checkpoints(path) if below is None else self.home.list_checkpoints(below)
        )
        return found

    async def restore_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Bring a file of the home back as it was.

        Raises:
            web.HTTPError: 403, it is not in there.
        """
        await self.home.restore_checkpoint(checkpoint_id, self._writable(path))

    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Forget what was remembered of a file."""
        below = inside_home(path)
        await (
            super().delete_checkpoint(checkpoint_id, path)
            if below is None
            else self.home.delete_checkpoint(checkpoint_id, below)
        )


class ViewerKernels(AsyncMappingKernelManager):
    """Kernels of notebooks in ``My home/`` start there."""

    def cwd_for_path(self, path: str, **kwargs: Any) -> str:
        """The folder in which a notebook's kernel starts."""
        below = inside_home(path)
        if below is None:
            return str(super().cwd_for_path(path, **kwargs))
        home = os.environ["HOME"]
        folder = os.path.normpath(os.path.join(home, below))
        if not folder.startswith(home + os.sep):
            return home
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return folder
