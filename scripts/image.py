"""Build an image of ``images/`` once for each content: ``scripts/image.py singleuser [--base I] [--archive F]``.

Prints the image's name, whose tag is a hash over what goes in; an image that is there already is not built again.
Takes the first of buildah, podman and docker that is installed, and hands it pip's settings for the build alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from indexes import pip_settings
from sources import sources
from steps import digest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".setup/tools/bin/python"
BUILDERS = ("buildah", "podman", "docker")
CERTIFICATES = Path("/etc/ssl/certs")
# As root, perhaps inside a container: no user namespace and no network of its own to give to a build.
ROOT_BUILDAH = (["--storage-driver", "overlay"], ["--isolation", "chroot", "--network", "host"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build an image once for each content, and print its name.")
    parser.add_argument("image", choices=sorted(path.parent.name for path in ROOT.glob("images/*/Dockerfile")))
    parser.add_argument("--base", default="python:3.11-slim", help="what it is built on (default %(default)s)")
    parser.add_argument("--built", metavar="NAME", help="do not build; take this one, whatever the sources are by now")
    parser.add_argument("--archive", type=Path, help="also write the image to this file (docker-archive)")
    parser.add_argument("--builder", choices=BUILDERS, default=next(filter(shutil.which, BUILDERS), None))
    options = parser.parse_args()
    if options.builder is None:
        sys.exit("No program builds images here; install one of buildah, podman or docker.")
    try:
        name = options.built or build(options.builder, options.image, options.base)
        if options.archive:
            save(options.builder, name, options.archive)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{options.builder} ended with code {error.returncode}; what it said stands above.")
    print(name)


def build(builder: str, image: str, base: str) -> str:
    """The name of the image, built if it is not there.

    Raises:
        subprocess.CalledProcessError: the builder failed; its output is on stderr.
    """
    recipe = [Path("images", image, "Dockerfile"), Path(".dockerignore"), Path("package-lock.json")]
    locks = [path.relative_to(ROOT) for path in sorted(ROOT.glob("requirements/*.lock"))]
    name = f"localhost/maestro-{image}:{digest(*recipe, *locks, *sources(ROOT), root=ROOT, salt=base)[:16]}"
    general, building = ROOT_BUILDAH if builder == "buildah" and os.geteuid() == 0 else ([], [])
    inspect = [builder, *general, "inspect", *([] if builder == "docker" else ["--type", "image"]), name]
    if subprocess.run(inspect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        return name
    settings = pip_settings([str(TOOLS) if TOOLS.exists() else sys.executable, "-m", "pip"])
    with _secret(_pip_conf(settings)) as pip_conf, _secret(_npmrc(settings)) as npmrc:
        command = [builder, *general, "build", *building, *([] if builder == "docker" else ["--layers"])]
        command += ["--build-arg", f"BASE={base}"]
        command += ["--secret", f"id=pip.conf,src={pip_conf}", "--secret", f"id=npmrc,src={npmrc}"]
        if builder != "docker" and CERTIFICATES.is_dir():
            command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        command += ["--file", f"images/{image}/Dockerfile", "--tag", name, "."]
        subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return name


def save(builder: str, name: str, archive: Path) -> None:
    """Write the image to a file that any container engine loads.

    Raises:
        subprocess.CalledProcessError: the builder failed.
    """
    archive.unlink(missing_ok=True)  # a docker-archive is not added to
    if builder == "buildah":
        general = ROOT_BUILDAH[0] if os.geteuid() == 0 else []
        command = [
            builder,
            *general,
            "push",
            "--quiet",
            "--disable-compression",
            name,
            f"docker-archive:{archive}:{name}",
        ]
    else:
        command = [builder, "save", "--output", str(archive), name]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _pip_conf(settings: Mapping[str, str]) -> str:
    """pip's settings of this machine as far as they hold inside a build: addresses, certificates, no local folders."""
    lines = ["[global]"]
    for name in ("index-url", "extra-index-url", "find-links", "trusted-host"):
        places = [place for place in settings.get(name, "").split() if name == "trusted-host" or "://" in place]
        places = [place for place in places if not place.startswith("file:")]
        if places:
            lines.append(f"{name} = {' '.join(places)}")
    certificate = _mounted_certificate(settings)
    return "\n".join([*lines, f"cert = {certificate}" if certificate else "", ""])


def _npmrc(settings: Mapping[str, str]) -> str:
    """The user's own npm settings, with the certificate that pip uses unless they name one."""
    own = Path.home() / ".npmrc"
    text = own.read_text() if own.is_file() else ""
    certificate = _mounted_certificate(settings)
    return text if "cafile" in text or not certificate else f"{text}\ncafile={certificate}\n"


def _mounted_certificate(settings: Mapping[str, str]) -> str:
    """pip's certificate where a build sees it too."""
    certificate = settings.get("cert", "")
    return certificate if certificate.startswith(f"{CERTIFICATES}/") else ""


@contextmanager
def _secret(content: str) -> Iterator[Path]:
    """A file for the time of a build that its owner alone can read."""
    with tempfile.NamedTemporaryFile("w", prefix="maestro-build-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


if __name__ == "__main__":
    main()
