"""The cluster of KUBECONFIG as the tests see it: kubectl with JSON answers, a namespace, images for its node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.system.house import Maestro, Person

ROOT = Path(__file__).resolve().parents[2]
#: the tests' own cluster, where it lies beside the checkout: a base image, and a way to load images
KUBE = ROOT.parent / "shared" / "kube"
RBAC = Path(__file__).with_name("rbac.yaml")
#: selects notebook servers
PODS = "component=singleuser-server"
POLL_SECONDS = 0.2

T = TypeVar("T")


def until(probe: Callable[[], T | None], seconds: float, what: str) -> T:
    """What ``probe`` returns as soon as that is true.

    Raises:
        AssertionError: it is not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < end, f"no {what} within {seconds:.0f} s"
        time.sleep(POLL_SECONDS)
    return found


class Cluster:
    """kubectl on one namespace."""

    def __init__(self, namespace: str, kubeconfig: str) -> None:
        self.namespace = namespace
        self.kubeconfig = kubeconfig

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """What kubectl prints.

        Raises:
            AssertionError: kubectl failed; with what it said.
        """
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """What kubectl answers with ``-o json``."""
        return json.loads(self.run(*arguments, "-o", "json"))

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that the selector selects."""
        found: list[dict[str, Any]] = self.json("get", kind, "--selector", selector)["items"]
        return found

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.run("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def inside(self, pod: str, *command: str) -> str:
        """What a command in a notebook server's container prints.

        Raises:
            AssertionError: it failed; with what it said.
        """
        return self.run("exec", pod, "--container", "notebook", "--", *command)


def fill_claim(cluster: Cluster, name: str, image: str, file: str, content: str) -> None:
    """Make a claim that holds one file, by a pod of the given image."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Mi"}}},
    }
    container = {
        "name": "writer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", 'printf %s "$CONTENT" > "$FILE"'],
        "env": [{"name": "CONTENT", "value": content}, {"name": "FILE", "value": f"/data/{file}"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-writer"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"fsGroup": 100},
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    }
    cluster.apply(claim, pod)
    try:
        cluster.run(
            "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}-writer", "--timeout=90s", timeout=120
        )
    except AssertionError as error:
        raise AssertionError(cluster.run("describe", "pod", f"{name}-writer")) from error
    cluster.run("delete", "pod", f"{name}-writer")


def node_address(cluster: Cluster) -> str:
    """The node's own address. On the tests' cluster it is this machine's, as pods reach it."""
    (node, *_) = cluster.json("get", "nodes", "--selector", "type!=kwok,type!=fake")["items"]
    return next(str(entry["address"]) for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")


def node_has_image(cluster: Cluster, image: str) -> bool:
    nodes = cluster.json("get", "nodes")["items"]
    return any(image in entry.get("names", ()) for node in nodes for entry in node["status"].get("images", ()))


def build_image(cluster: Cluster, folder: Path, image: str) -> str:
    """An image of ``images/`` on the cluster's node, built and loaded only when its content changed; its name.

    ``MAESTRO_TEST_SINGLEUSER_IMAGE``, ``MAESTRO_TEST_HUB_IMAGE`` name what the cluster has already.
    """
    if given := os.environ.get(f"MAESTRO_TEST_{image.upper()}_IMAGE"):
        return given
    assert KUBE.is_dir(), f"no {KUBE} to load an image with: name one that the cluster has (see build_image)"
    base = _output(KUBE / "base-image", timeout=400)
    script = [sys.executable, ROOT / "scripts/image.py", image]
    name = _output(*script, "--base", base, timeout=600)
    if not node_has_image(cluster, name):
        archive = folder / f"{image}.tar"
        _output(*script, "--built", name, "--archive", archive, timeout=300)
        _output(KUBE / "image", archive, timeout=300)
        archive.unlink()
    return name


def _output(*command: str | Path, timeout: float) -> str:
    """The last line that a program prints; its stderr goes where pytest shows it."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command[0]} ended with code {done.returncode}"
    return done.stdout.strip().splitlines()[-1]


def service_account_kubeconfig(cluster: Cluster, folder: Path) -> Path:
    """A kubeconfig that holds what ``rbac.yaml`` grants in the namespace, and nothing else.

    ``cluster`` is the admin's; the token is made by the API server and lives two hours.
    """
    cluster.run("apply", "-f", str(RBAC))
    token = cluster.run("create", "token", "maestro", "--duration", "2h").strip()
    server = cluster.json("config", "view", "--raw", "--minify", "--flatten")["clusters"][0]["cluster"]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": "maestro", "user": {"token": token}}],
        "contexts": [{"name": "t", "context": {"cluster": "tests", "user": "maestro", "namespace": cluster.namespace}}],
        "current-context": "t",
    }
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def cli(maestro: Maestro, person: Person, *arguments: str, home: Path) -> dict[str, Any]:
    """What the CLI prints as JSON, run by a person with a token of theirs.

    Raises:
        AssertionError: it failed; with what it said.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "MAESTRO_URL": maestro.url,
        "MAESTRO_TOKEN": person.token(),
        "XDG_CONFIG_HOME": str(home),
    }
    program = [sys.executable, "-m", "notebooks.cli", *arguments, "--json"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{maestro.log()[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found
