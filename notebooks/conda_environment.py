"""A conda environment inside a running notebook server: made with py-rattler, and registered as a kernel.

It lies on the server's own disk beside the environment of kernels, and ends with the server. What was asked for, and
which files that meant, is kept in ``conda.yml`` in the workspace, from which the next server builds the same again.
Every file comes through the package index, which decides.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from maestro_core.conda import conda_channel
from maestro_core.errors import MaestroError

if TYPE_CHECKING:
    from rattler import RepoDataRecord

#: the record, in the workspace's folder; conda itself can read its channels and dependencies
RECORD = "conda.yml"
#: what a kernel needs; installed with the first package
KERNEL_PACKAGES = ("python", "ipykernel")
_HEAD = "# Kept by 'maestro install W PACKAGE --conda'. 'maestro install W --conda' builds it in another server.\n"
_NO_KERNEL = re.compile(r"No candidates were found for (?:python|ipykernel) ")
_REASON = re.compile(r"\(403 (.*?)\) for url", re.DOTALL)
#: what a name, a version and a build do not have: such a line would say where the package lies
_NO_PIN = re.compile(r"[\[\]:/]")
_TOKEN = re.compile(r"/t/[^/\s]+")


@dataclass(frozen=True)
class Place:
    """Where the environment of one server lies.

    Attributes:
        folder: the environment. cache: of packages. kernels: where Jupyter finds kernels.
        record: the workspace's ``conda.yml``. writable: whether it may be changed (a viewer's may not).
        alias: where channels lie; holds the server's index token. channels: those that are looked in.
    """

    workspace: str
    folder: Path
    cache: Path
    kernels: Path
    record: Path
    writable: bool
    alias: str = field(repr=False)
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Installed:
    """What an installation did.

    Attributes:
        packages: name -> version, of all that is in the environment. changed: the names that are new or of another
            version than before.
        kernel: whether notebooks can use it.
        differs: names that are not what the workspace's record had, though nobody asked for another.
    """

    packages: dict[str, str]
    changed: tuple[str, ...]
    kernel: bool
    differs: tuple[str, ...]


def place_of(environ: Mapping[str, str], workspace: str) -> Place:
    """The place in the server that this runs in.

    Raises:
        MaestroError: ``invalid_request`` outside of a server of that workspace; ``upstream_unavailable`` where it has
            no index.
    """
    here = environ.get("MAESTRO_WORKSPACE", "")
    names = {here, environ.get("MAESTRO_WORKSPACE_ID"), "personal" if here.startswith("u-") else here}
    if not environ.get("MAESTRO_LAUNCH_ID") or workspace not in names:
        raise MaestroError(
            "invalid_request",
            f"A conda environment is made inside a notebook server of {workspace}: run this in a notebook or terminal "
            "there.",
        )
    told = _read_yaml(Path(environ.get("CONDARC", "")))
    if not told.get("channel_alias"):
        raise MaestroError(
            "upstream_unavailable", "This server has no package index with conda channels; ask an admin."
        )
    base = Path(environ["MAESTRO_ENV"])
    return Place(
        workspace=here,
        folder=base / "conda",
        cache=base / "var" / "conda",
        kernels=base / "var" / "jupyter" / "kernels",
        record=Path(environ["MAESTRO_WORKSPACE_DIR"]) / RECORD,
        writable=environ.get("MAESTRO_ROLE") != "viewer",
        alias=str(told["channel_alias"]),
        channels=tuple(str(name) for name in told.get("channels") or ()),
    )


def install(place: Place, packages: Sequence[str]) -> Installed:
    """Add packages to the environment, or, without any, build what the workspace's record says.

    Args:
        packages: as conda writes them: ``numpy``, ``numpy>=2``, ``pytorch::pytorch``.

    Raises:
        MaestroError: ``package_blocked`` with the policy's sentence; ``conflict`` when no set of packages fits, with
            the solver's explanation; ``invalid_request``; ``upstream_unavailable``.
    """
    if importlib.util.find_spec("rattler") is None:
        raise MaestroError(
            "conflict",
            "The Python of this server has no py-rattler, which installs from conda's channels; tell an admin.",
        )
    if packages and not place.writable:
        raise MaestroError(
            "forbidden",
            f"A viewer cannot add packages to {place.workspace}; 'maestro install {place.workspace} --conda' builds "
            "what it has.",
        )
    return asyncio.run(_install(place, packages))


async def _install(place: Place, packages: Sequence[str]) -> Installed:
    import rattler

    record = _read_yaml(place.record)
    asked = _merged([str(it) for it in record.get("dependencies") or () if isinstance(it, str)], packages)
    asked = [_by_name(spec) for spec in asked]
    if not asked:
        raise MaestroError("invalid_request", f"Nothing was installed with conda in {place.workspace}; name a package.")
    told = [_channel(str(name)) for name in record.get("channels") or ()]
    channels = list(dict.fromkeys([*place.channels, *told, *_channels(asked)]))
    subdir = str(rattler.Subdir.current())
    locked = _locked(record, subdir)
    pins = {name: pin for name, (pin, _) in locked.items() if name not in {_name(it) for it in packages}}
    here = [rattler.PrefixRecord.from_path(path) for path in (place.folder / "conda-meta").glob("*.json")]
    before = {it.name.normalized: str(it.version) for it in here}
    found, kernel = await _solve(place, channels, asked, pins)
    _check_hashes(found, locked)
    try:
        await rattler.install(found, place.folder, cache_dir=place.cache, show_progress=False)
    except Exception as error:
        raise _refusal(error) from None
    if kernel:
        register_kernel(place)
    if place.writable:
        _write_record(place, channels, asked, {**_locks(record), subdir: _lock_lines(found)})
    now = {it.name.normalized: str(it.version) for it in found}
    return Installed(
        packages=now,
        changed=tuple(sorted(name for name in now if before.get(name) != now[name])),
        kernel=kernel,
        differs=tuple(
            sorted(name for name, pin in pins.items() if name in now and pin.split(" ")[1] != f"=={now[name]}")
        ),
    )


async def _solve(
    place: Place, channels: Sequence[str], asked: Sequence[str], pins: Mapping[str, str]
) -> tuple[list[RepoDataRecord], bool]:
    """The packages, and whether a kernel is among them: as recorded if that can be, else the newest that fit.

    A channel without ipykernel still installs: then there is no kernel.
    """
    import rattler
    from rattler.exceptions import SolverError

    alias = rattler.ChannelConfig(channel_alias=place.alias.rstrip("/") + "/")
    gateway = rattler.Gateway(cache_dir=place.cache)
    failure: Exception | None = None
    attempts = [(KERNEL_PACKAGES, pins), (KERNEL_PACKAGES, {}), ((), pins), ((), {})]
    for kernel, constraints in attempts if pins else attempts[1::2]:
        if failure is not None and not kernel and not _NO_KERNEL.search(str(failure)):
            break
        try:
            found = await rattler.solve(
                [rattler.Channel(name, alias) for name in channels],
                [*(_at(place.alias, it) for it in asked), *(name for name in kernel if name not in map(_name, asked))],
                gateway=gateway,
                virtual_packages=rattler.VirtualPackage.detect(),
                constraints=list(constraints.values()),
            )
        except SolverError as error:
            failure = error
        except Exception as error:
            raise _refusal(error) from None
        else:
            return found, bool(kernel)
    raise _refusal(failure)


def register_kernel(place: Place) -> Path:
    """Write the kernel ``conda``: the environment's own Python, with the variables that this server's kernels have.

    Returns:
        The kernel's folder.
    """
    folder = place.kernels / "conda"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        variables = dict(json.loads((place.kernels / "python3" / "kernel.json").read_text())["env"])
    except (OSError, ValueError, KeyError):
        variables = {}
    variables.pop("VIRTUAL_ENV", None)
    variables |= {"CONDA_PREFIX": str(place.folder), "CONDA_DEFAULT_ENV": "conda"}
    variables["PATH"] = f"{place.folder}/bin:{variables.get('PATH', os.defpath)}"
    spec = {
        "argv": [str(place.folder / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"conda ({place.workspace})",
        "language": "python",
        "env": variables,
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=2) + "\n")
    return folder


def _refusal(error: Exception | None) -> MaestroError:
    """What rattler says, as the sentence of the index if it refused, and without the token."""
    text = _TOKEN.sub("/t/***", str(error)).strip()
    refused = _REASON.search(text)
    if refused:
        return MaestroError("package_blocked", refused.group(1).strip())
    if type(error).__name__ == "SolverError":
        return MaestroError("conflict", f"These packages cannot be installed together. {text}")
    if type(error).__name__ in ("InvalidMatchSpecError", "InvalidChannelError"):
        return MaestroError("invalid_request", f"{text} is no package as conda writes it, like 'numpy' or 'numpy>=2'.")
    return MaestroError("upstream_unavailable", f"The packages could not be fetched: {text}")


def _merged(asked: Iterable[str], more: Iterable[str]) -> list[str]:
    """Both, by name; what is asked for now takes the place of what was asked for before."""
    by_name = {_name(it): it for it in asked}
    for spec in more:
        by_name[_name(spec)] = spec
    return list(by_name.values())


def _name(spec: str) -> str:
    import rattler

    try:
        name = rattler.MatchSpec(spec).name
    except Exception as error:
        raise _refusal(error) from None
    return str(name.normalized) if name else ""


def _channel(text: str) -> str:
    """A channel's name; an address would be asked instead of the index, and the policy by nobody."""
    try:
        return conda_channel(text)
    except ValueError:
        raise MaestroError(
            "invalid_request",
            f"{text[:100]!r} is no channel of this server's index; write a channel's name, like 'conda-forge'.",
        ) from None


def _by_name(spec: str) -> str:
    """A spec that names its package and at most, before ``::``, a channel.

    Raises:
        MaestroError: ``invalid_request`` if it says in any other way where the package lies.
    """
    import rattler

    channel, separator, rest = spec.rpartition("::")
    try:
        wanted = rattler.MatchSpec(rest)
        elsewhere = wanted.channel is not None or "://" in str(wanted)
    except Exception as error:
        raise _refusal(error) from None
    if elsewhere:
        raise MaestroError(
            "invalid_request",
            f"{spec[:100]!r} leads past this server's index; name the package alone, like 'numpy' or "
            "'conda-forge::numpy'.",
        )
    return f"{_channel(channel)}::{rest}" if separator else spec


def _at(alias: str, spec: str) -> str:
    """A spec whose channel, if it names one, is an address: a name would mean rattler's own place of channels."""
    channel, separator, rest = spec.rpartition("::")
    return f"{alias.rstrip('/')}/{channel.strip()}::{rest}" if separator else spec


def _channels(specs: Iterable[str]) -> list[str]:
    """The channels that are written before packages (``pytorch::pytorch``)."""
    return [spec.partition("::")[0].strip() for spec in specs if "::" in spec]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (ValueError, yaml.YAMLError):
        raise MaestroError("invalid_request", f"{path} cannot be read as YAML; correct or delete it.") from None
    return told if isinstance(told, dict) else {}


def _locks(record: Mapping[str, Any]) -> dict[str, list[str]]:
    locks = record.get("locked")
    return {str(name): list(map(str, lines or ())) for name, lines in locks.items()} if isinstance(locks, dict) else {}


def _locked(record: Mapping[str, Any], subdir: str) -> dict[str, tuple[str, str]]:
    """name -> (pin, SHA-256), as the record has them for this platform; lines that are none are left out."""
    found = {}
    for line in _locks(record).get(subdir, ()):
        parts = line.split(" ")
        if len(parts) == 4 and all(parts) and not _NO_PIN.search("".join(parts[:3])):
            name, version, build, digest = parts
            found[name] = (f"{name} =={version} {build}", digest)
    return found


def _lock_lines(found: Iterable[RepoDataRecord]) -> list[str]:
    return sorted(f"{it.name.normalized} {it.version} {it.build} {_digest(it)}" for it in found)


def _digest(record: RepoDataRecord) -> str:
    return f"sha256:{record.sha256.hex()}" if record.sha256 else "-"


def _check_hashes(found: Iterable[RepoDataRecord], locked: Mapping[str, tuple[str, str]]) -> None:
    """A package of the recorded version and build has to be the recorded file."""
    for it in found:
        pin, digest = locked.get(it.name.normalized, ("", ""))
        if pin == f"{it.name.normalized} =={it.version} {it.build}" and digest != _digest(it):
            raise MaestroError(
                "conflict",
                f"{it.name.normalized} {it.version} is another file now than the one that {RECORD} names, so nothing "
                "was installed; if that is right, delete its line there.",
            )


def _write_record(place: Place, channels: list[str], asked: list[str], locks: Mapping[str, list[str]]) -> None:
    content = {"name": "conda", "channels": channels, "dependencies": asked, "locked": dict(locks)}
    draft = place.record.with_name(f".{RECORD}.new")
    draft.write_text(_HEAD + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    draft.replace(place.record)
