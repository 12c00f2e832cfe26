"""``maestro.yaml`` as a whole: profiles, quotas, package rules, datasets, egress, members, retention.

The service reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .egress import Egress
from .errors import MaestroError
from .lifecycle import MemberRules, Retention
from .models import read_model
from .names import check_name
from .packages import PackagePolicy
from .profiles import Allow, Image, Profile
from .quota import PoolQuota, Quota, Quotas, WorkspaceQuota

MAX_POLICY_BYTES = 1024 * 1024


class Dataset(BaseModel):
    """One entry of ``datasets``: mounted read-only at ``/datasets/<name>`` for those in its groups (empty: everyone).

    Attributes:
        claim: a PersistentVolumeClaim (Kubernetes); path: a directory (one machine).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    claim: str | None = Field(default=None, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    path: str | None = Field(default=None, max_length=1000, pattern=r"^/")
    groups: tuple[str, ...] = ()

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_name(value, "dataset")


class Policy(BaseModel):
    """The policy in force. Immutable; a changed file makes another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profiles: tuple[Profile, ...] = (Profile(name="small", title="Small"),)
    images: tuple[Image, ...] = ()
    quotas: Quotas = Quotas()
    packages: PackagePolicy = PackagePolicy()
    datasets: tuple[Dataset, ...] = ()
    egress: Egress = Egress()
    members: MemberRules = MemberRules()
    retention: Retention = Retention()

    @field_validator("profiles")
    @classmethod
    def _unique(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        names = [profile.name for profile in profiles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the profile name {twice[0]!r} stands twice")
        if not profiles:
            raise ValueError("at least one profile is needed")
        return profiles

    @field_validator("images")
    @classmethod
    def _unique_images(cls, images: tuple[Image, ...]) -> tuple[Image, ...]:
        names = [image.name for image in images]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the image name {twice[0]!r} stands twice")
        return images

    @model_validator(mode="after")
    def _known_images(self) -> Policy:
        known = {image.name for image in self.images}
        for profile in self.profiles:
            unknown = [name for name in profile.allow.images if name not in known]
            if unknown:
                raise ValueError(f"the profile {profile.name!r} allows the image {unknown[0]!r}, which no entry of "
                                 "'images' has")  # fmt: skip
        return self

    @property
    def revision(self) -> str:
        """A short hash of the content: equal policies have equal revisions."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def parse_policy(text: str, name: str = "maestro.yaml") -> Policy:
    """Read the YAML text of a policy; an empty file is the default policy.

    Raises:
        MaestroError: ``invalid_policy``, one sentence with the file's name and the line or key that is wrong.
    """
    if len(text.encode()) > MAX_POLICY_BYTES:
        raise MaestroError("invalid_policy", f"{name} is larger than 1 MiB; a policy is a short file.")
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise MaestroError(
            "invalid_policy", f"{name}{line}: {error.problem or 'not YAML'}; mend the file, it is read again by itself."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise MaestroError(
            "invalid_policy", f"{name} is not YAML; mend the file, it is read again by itself."
        ) from None
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise MaestroError("invalid_policy", f"{name} holds no sections; it starts with keys like 'profiles:'.")
    try:
        return read_model(Policy, data, "invalid_policy")
    except MaestroError as error:
        place = "" if "field" in error.details and error.code == "invalid_policy" else _place(data)
        raise MaestroError(
            "invalid_policy", f"{name}: {place}{error.message}", {"field": place.rstrip(": ")} | error.details
        ) from None


def _place(data: Mapping[Any, Any]) -> str:
    """Where one of our own rules (a name, an amount) refused: ``quotas.everyone.max_cpu_per_notebook: ``, or nothing.

    Those rules raise their own sentence, which knows no place; so each key is looked at alone.
    """
    for path, model, entry in _entries(data):
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            try:
                model.model_validate({key: value})
            except MaestroError:
                return f"{path}.{key}: "
            except ValidationError:
                continue  # what is missing beside it
    return ""


def _entries(data: Mapping[Any, Any]) -> Iterator[tuple[str, type[BaseModel], Any]]:
    models: dict[str, type[BaseModel]] = {"profiles": Profile, "datasets": Dataset, "images": Image}
    for section, model in models.items():
        entries = data.get(section)
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            if section == "profiles":
                yield f"{section}.{number}.allow", Allow, _mapping(entry).get("allow")
            yield f"{section}.{number}", model, entry
    quotas = _mapping(data.get("quotas"))
    yield "quotas.everyone", Quota, quotas.get("everyone")
    for level, limits in (("groups", Quota), ("users", Quota), ("workspaces", WorkspaceQuota)):
        for name, entry in _mapping(quotas.get(level)).items():
            yield f"quotas.{level}.{name}", limits, entry
    pools = _mapping(quotas.get("pools"))
    yield "quotas.pools.everyone", PoolQuota, pools.get("everyone")
    for name, entry in _mapping(pools.get("groups")).items():
        yield f"quotas.pools.groups.{name}", PoolQuota, entry


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


class _UniqueKeys(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands twice, which YAML forbids and PyYAML overlooks."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
