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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes import pip_settings
from sources import sources
from steps import digest

ROOT = Path(__file__).resolve().parent.parent
BUILDERS = ("buildah", "podman", "docker")
CERTIFICATES = Path("/etc/ssl/certs")
# As root, perhaps inside a container: no user namespace and no network of its own to give to a build.
ROOT_BUILDAH = (["--storage-driver", "overlay"], ["--isolation", "chroot", "--network", "host"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build an image once for each content, and print its name.")
    parser.add_argument("image", choices=sorted(path.parent.name for path in ROOT.glob("images/*/Dockerfile")))
    parser.add_argument("--base", default="python:3.11-slim", help="what it is built on (default %(default)s)")
    parser.add_argument("--archive", type=Path, help="also write the image to this file (docker-archive)")
    parser.add_argument("--builder", choices=BUILDERS, default=next(filter(shutil.which, BUILDERS), None))
    options = parser.parse_args()
    if options.builder is None:
        sys.exit("No program builds images here; install one of buildah, podman or docker.")
    try:
        name = build(options.builder, options.image, options.base)
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
    with _pip_conf() as conf:
        command = [builder, *general, "build", *building, *([] if builder == "docker" else ["--layers"])]
        command += ["--build-arg", f"BASE={base}", "--secret", f"id=pip.conf,src={conf}"]
        if builder != "docker" and CERTIFICATES.is_dir():
            command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        npmrc = Path.home() / ".npmrc"
        if npmrc.is_file():
            command += ["--secret", f"id=npmrc,src={npmrc}"]
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


@contextmanager
def _pip_conf() -> Iterator[Path]:
    """pip's settings of this machine as far as they hold inside a build: addresses, certificates, no local folders."""
    own = ROOT / ".setup/tools/bin/python"
    settings = pip_settings([str(own) if own.exists() else sys.executable, "-m", "pip"])
    lines = ["[global]"]
    for name in ("index-url", "extra-index-url", "find-links", "trusted-host"):
        places = [place for place in settings.get(name, "").split() if name == "trusted-host" or "://" in place]
        places = [place for place in places if not place.startswith("file:")]
        if places:
            lines.append(f"{name} = {' '.join(places)}")
    if settings.get("cert", "").startswith(f"{CERTIFICATES}/"):
        lines.append(f"cert = {settings['cert']}")
    with tempfile.NamedTemporaryFile("w", prefix="maestro-pip-", suffix=".conf") as conf:  # mode 0600
        conf.write("\n".join(lines) + "\n")
        conf.flush()
        yield Path(conf.name)


if __name__ == "__main__":
    main()
