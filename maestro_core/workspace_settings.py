"""What a workspace is set up with: the amounts of its servers, its disk, its kernels' environment, its packages.

Written in the API's JSON or in a YAML file of either form that the project began with:

- ``resources`` (cpu, memory, gpu, gpu_type, disk), ``environment`` (``python_version``, ``jupyter_version``, and every
  other key a variable of kernels), ``packages``, ``security`` (channels and lists of packages), ``experiment``,
  ``capture`` (whether what runs becomes a run);
- ``package_management``: the same as ``security``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .environment import check_environment
from .errors import MaestroError
from .executions import DEFAULT_CAPTURE, Capture, check_capture
from .experiments import check_experiment
from .jobs import check_runnable
from .packages import PackagePolicy, normal_name
from .resources import Cpu, Gpu, GpuType, Memory, Resources, format_memory, show_memory

#: of one list of a workspace's package rules, and the lists
MAX_RULES = 300
RULE_LISTS = ("trusted_channels", "blocked_packages", "approval_required", "allowlist", "startup_blocked_packages")
MAX_PACKAGES = 500
#: keys of ``environment`` that are no variables
VERSIONS = ("python_version", "jupyter_version")
#: the version of JupyterLab that there is
LATEST = "latest"
_PYTHON = re.compile(r"3\.[0-9]{1,2}(?:\.[0-9]{1,2})?")


class WorkspaceResources(BaseModel):
    """What a server gets here when nobody asks for something else, and how large the volume is.

    Attributes:
        cpu: cores; memory, disk: bytes; gpu: count; gpu_type: as the profiles name it. None: not set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: Cpu | None = None
    memory: Memory | None = None
    gpu: Gpu | None = None
    gpu_type: GpuType = None
    disk: Memory | None = None

    @property
    def amounts(self) -> Resources | None:
        """The amounts of a server, or None when none is set (a disk is of the workspace)."""
        written = self.model_dump(exclude_none=True, exclude={"disk"})
        return Resources(**written) if written else None

    def show(self) -> str:
        """For people: ``2 cpu, 4 GiB; disk 20 GiB``."""
        amounts = self.amounts
        parts = [amounts.show()] if amounts else []
        return "; ".join([*parts, f"disk {show_memory(self.disk)}"] if self.disk else parts)


class WorkspaceEnvironment(BaseModel):
    """Versions, and the variables of kernels and terminals (:mod:`maestro_core.environment` says which names).

    Attributes:
        python_version: ``3.11``; a server whose image has another one says so.
        jupyter_version: ``latest``, which is what the image or the machine has; nothing else can be had.
        variables: never of the server itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python_version: str | None = None
    jupyter_version: str | None = None
    variables: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _split(cls, data: Any) -> Any:
        """A mapping in which variables stand beside the versions, or below ``variables``."""
        if not isinstance(data, Mapping):
            return data
        versions = {key: data[key] for key in VERSIONS if data.get(key) is not None}
        beside = {key: value for key, value in data.items() if key not in (*VERSIONS, "variables")}
        below = data.get("variables") or {}
        if not isinstance(below, Mapping):
            return {**versions, "variables": check_environment(below)}
        return {**versions, "variables": check_environment({**below, **beside})}

    @field_validator("python_version", mode="before")
    @classmethod
    def _python(cls, value: Any) -> str:
        text = str(value).strip()
        if not _PYTHON.fullmatch(text) or (isinstance(value, float) and len(text) < 4):
            # YAML reads 3.10 as the number 3.1
            raise ValueError("a version of Python is written in quotes, like '3.11'")
        return text

    @field_validator("jupyter_version", mode="before")
    @classmethod
    def _jupyter(cls, value: Any) -> str:
        text = str(value).strip()
        if text != LATEST:
            raise ValueError(
                f"JupyterLab comes with the image or the machine, in one version: write '{LATEST}', or leave it out"
            )
        return text


class WorkspaceSettings(BaseModel):
    """All of it; a section that is left out sets nothing.

    Attributes:
        packages: what the workspace's environment is to have: names, maybe with versions and extras.
        security: channels and lists of packages, over those of ``maestro.yaml``; can only tighten them.
        experiment: the linked MLflow experiment, where runs go when a launch names none; None: that of its own name.
        entrypoint: the notebook or script that a job runs which names none; a path below the workspace.
        capture: whether stretches of cells become runs by themselves; None: where somebody asks for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resources: WorkspaceResources | None = None
    environment: WorkspaceEnvironment | None = None
    packages: tuple[str, ...] | None = Field(default=None, max_length=MAX_PACKAGES)
    security: PackagePolicy | None = None
    experiment: str | None = None
    entrypoint: str | None = Field(default=None, max_length=1000)
    capture: Capture | None = None

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, data: Any) -> Any:
        """``package_management`` is the other form's word for ``security``."""
        if not isinstance(data, Mapping) or "package_management" not in data:
            return data
        if data.get("security") is not None:
            raise ValueError("security and package_management mean the same; write one of them")
        rest = {key: value for key, value in data.items() if key != "package_management"}
        return {**rest, "security": data["package_management"]}

    @field_validator("security", mode="before")
    @classmethod
    def _short_lists(cls, value: Any) -> Any:
        """Every question about the workspace's packages reads them: they stay short."""
        for name in RULE_LISTS if isinstance(value, Mapping) else ():
            entries = value.get(name)
            if isinstance(entries, list | tuple) and len(entries) > MAX_RULES:
                raise ValueError(f"{name} takes at most {MAX_RULES} entries in a workspace")
        return value

    @field_validator("packages", mode="before")
    @classmethod
    def _packages(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
            raise ValueError("this is a list of packages, each on a line of its own after '- '")
        return tuple(check_requirement(entry) for entry in value)

    @field_validator("security")
    @classmethod
    def _security(cls, value: PackagePolicy | None) -> PackagePolicy | None:
        if value is not None and "index" in value.model_fields_set:
            raise ValueError("where packages come from is set in maestro.yaml alone; leave index out")
        if value is not None and "reviewers" in value.model_fields_set:
            raise ValueError("who decides about packages is set in maestro.yaml alone; leave reviewers out")
        return value

    @field_validator("experiment", mode="before")
    @classmethod
    def _experiment(cls, value: Any) -> str | None:
        return None if value is None else check_link(value)

    @field_validator("entrypoint")
    @classmethod
    def _entrypoint(cls, value: str | None) -> str | None:
        return None if value is None else check_runnable(value)

    @field_validator("capture", mode="before")
    @classmethod
    def _capture(cls, value: Any) -> Capture | None:
        return None if value is None else check_capture(value)

    @property
    def captures(self) -> Capture:
        """Whether what runs here becomes runs."""
        return self.capture or DEFAULT_CAPTURE

    @property
    def variables(self) -> dict[str, str]:
        """The variables of kernels and terminals."""
        return dict(self.environment.variables) if self.environment else {}

    @property
    def amounts(self) -> Resources | None:
        """What a server gets here when nobody asks for something else."""
        return self.resources.amounts if self.resources else None

    @property
    def disk(self) -> int | None:
        """The size of the volume in bytes, or None where the workspace does not say."""
        return self.resources.disk if self.resources else None

    def stored(self) -> dict[str, Any]:
        """As JSON with what was written alone; :meth:`read` reads it back."""
        return self.model_dump(mode="json", exclude_none=True, exclude_unset=True, include=set(SECTIONS))

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> WorkspaceSettings:
        """What :meth:`stored` made."""
        return cls.model_validate(stored) if stored else _NOTHING

    def changed(self, sections: Mapping[str, Any]) -> WorkspaceSettings:
        """The same with other sections; None empties one."""
        return WorkspaceSettings(**{name: sections.get(name, getattr(self, name)) for name in SECTIONS})


SECTIONS = tuple(WorkspaceSettings.model_fields)
_NOTHING = WorkspaceSettings()


def check_link(experiment: Any) -> str:
    """The name of an experiment that a workspace may be linked to.

    Raises:
        MaestroError: ``invalid_name``: MLflow takes no such name.
        ValueError: it is a number, as MLflow's ids are, and would make another experiment beside the one meant.
    """
    name = check_experiment(experiment)
    if name.isdigit():
        raise ValueError(f"{name[:40]} reads like the number that MLflow gave an experiment; link it by its name")
    return name


def check_requirement(entry: Any) -> str:
    """A package that an environment may ask for: a name, maybe with versions and extras.

    Raises:
        ValueError: it is something else; an address or a condition would mean another thing on every machine.
    """
    try:
        wanted = Requirement(str(entry)[:200])
    except InvalidRequirement:
        normal_name(str(entry))  # its sentence is about the name, where that is what is wrong
        raise ValueError(
            f"{str(entry)[:60]!r} is no package; write a name, maybe with versions, like 'numpy<2'"
        ) from None
    if wanted.url or wanted.marker:
        raise ValueError(f"{str(entry)[:60]!r}: write a name and versions, without address and conditions")
    normal_name(wanted.name)
    return str(wanted)


def check_disk(settings: WorkspaceSettings, limit: int | None, workspace: str) -> int | None:
    """The size of a workspace's volume in bytes: its disk, else the limit; None where neither is set.

    Raises:
        MaestroError: ``quota_exceeded`` when its disk is more than ``max_storage_per_workspace``.
    """
    disk = settings.disk
    if disk is not None and limit is not None and disk > limit:
        raise MaestroError(
            "quota_exceeded",
            f"{workspace} asks for a disk of {show_memory(disk)}, and {show_memory(limit)} is the most for a workspace "
            "(max_storage_per_workspace); ask for less, or ask an admin for more.",
            {"limit": "max_storage_per_workspace", "value": limit, "asked": disk, "shown": format_memory(disk)},
        )
    return limit if disk is None else disk
