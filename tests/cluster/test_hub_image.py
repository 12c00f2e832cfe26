"""The Hub's image: it holds what the chart asks of it, and runs the project's composition as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, build_image, until

NAME = "maestro-hub"
LOOK = """
import json, os, pathlib, shutil
import asyncpg, jupyterhub, jupyterhub_idle_culler, kubespawner, psycopg2, pycurl
from maestro_hub_services.installation import data_path
pages = data_path("templates", "pages")
print(json.dumps({
    "jupyterhub": jupyterhub.__version__, "home": str(pathlib.Path.home()), "folder": os.getcwd(), "uid": os.getuid(),
    "tini": shutil.which("tini"), "htmx": (pages / "static/vendor/htmx.min.js").is_file(),
    "proxy": data_path("node_modules", "configurable-http-proxy").is_dir(), "policy": os.environ["MAESTRO_POLICY"],
}))
"""
ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8888/hub/health', timeout=5).status)"


@pytest.fixture(scope="module")
def hub(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a pod that runs the image as it is."""
    image = build_image(cluster, tmp_path_factory.mktemp("image"), "hub")
    container: dict[str, Any] = {"name": "hub", "image": image, "imagePullPolicy": "IfNotPresent"}
    spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 5}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec})
    cluster.run("wait", "--for=condition=Ready", f"pod/{NAME}", "--timeout=90s", timeout=120)
    yield NAME
    cluster.run("delete", "pod", NAME)


def test_it_holds_what_the_chart_and_the_services_need(cluster: Cluster, hub: str) -> None:
    found = json.loads(cluster.run("exec", hub, "--", "python3", "-c", LOOK))
    assert found.pop("jupyterhub").startswith("6.1.")
    assert found == {
        "home": "/home/jovyan",
        "folder": "/srv/jupyterhub",
        "uid": 1000,
        "tini": "/usr/bin/tini",
        "htmx": True,
        "proxy": True,
        "policy": "/usr/local/etc/jupyterhub/maestro.yaml",
    }


def test_it_runs_as_it_is(cluster: Cluster, hub: str) -> None:
    def answers() -> bool:
        try:
            return "200" in cluster.run("exec", hub, "--", "python3", "-c", ASK)
        except AssertionError:
            assert cluster.json("get", "pod", hub)["status"]["phase"] == "Running", cluster.run("logs", hub)
            return False

    until(answers, 120, "answer of the Hub")
    assert "Traceback" not in cluster.run("logs", hub)
