"""The mounts of a plan, checked before anybody applies them: where they may lie, and which are read-only whatever."""

from __future__ import annotations

import posixpath
import re
from typing import Literal

from .errors import MaestroError
from .launches import DATASETS_DIR, HOME_DIR, WORKSPACE_DIR, LaunchPlan, Mount
from .names import valid_name

_MOUNT_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,48}[a-z0-9])?")


def checked_mounts(plan: LaunchPlan, kind: Literal["directory", "claim"]) -> tuple[Mount, ...]:
    """The plan's mounts, each fit to be applied; a viewer's workspace and every dataset are read-only whatever it says.

    Args:
        plan: what the service decided.
        kind: what this deployment can mount: ``directory`` (one machine) or ``claim`` (Kubernetes).

    Raises:
        MaestroError: ``conflict`` for a mount that belongs to the other kind of deployment; ``internal`` for a place
            inside, a source or a name that no plan of ours has.
    """
    seen: set[str] = set()
    checked = []
    for mount in plan.mounts:
        if mount.kind != kind:
            raise MaestroError(
                "conflict",
                f"{mount.name!r} cannot be mounted here: it is a {mount.kind}, and servers of this Hub take a {kind}; "
                "ask an admin to correct it in maestro.yaml.",
                {"mount": mount.name},
            )
        _check_place(mount)
        if mount.target in seen:
            raise _mistake(f"two mounts at {mount.target}")
        seen.add(mount.target)
        forced = mount.target.startswith(DATASETS_DIR + "/") or (mount.target == WORKSPACE_DIR and plan.read_only)
        checked.append(mount.model_copy(update={"read_only": True}) if forced else mount)
    if not {WORKSPACE_DIR, HOME_DIR} <= seen:
        raise _mistake("no workspace or no home among the mounts")
    return tuple(checked)


def _check_place(mount: Mount) -> None:
    if not _MOUNT_NAME.fullmatch(mount.name):
        raise _mistake(f"a mount named {mount.name[:40]!r}")
    dataset = mount.target.removeprefix(DATASETS_DIR + "/")
    if mount.target not in (WORKSPACE_DIR, HOME_DIR) and (dataset == mount.target or not valid_name(dataset)):
        raise _mistake(f"a mount at {mount.target[:80]!r}")
    if mount.kind == "directory":
        if not _clean_absolute(mount.source) or mount.sub_path:
            raise _mistake(f"the directory {mount.source[:80]!r}")
    elif not _clean_relative(mount.sub_path):
        raise _mistake(f"the path {mount.sub_path[:80]!r} below a claim")


def _clean_absolute(path: str) -> bool:
    return path.startswith("/") and len(path) > 1 and posixpath.normpath(path) == path and path.isprintable()


def _clean_relative(path: str) -> bool:
    if path == "":
        return True
    return not path.startswith(("/", "..")) and posixpath.normpath(path) == path and path.isprintable()


def _mistake(what: str) -> MaestroError:
    return MaestroError("internal", f"The plan of this launch has {what}, which no plan has; nothing was started.")
