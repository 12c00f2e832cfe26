"""Whether a node could take a profile now, as the form of a real cluster says it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from tests.cluster.cluster import Cluster, until
from tests.system.house import Maestro, Person

NODES = Path(__file__).with_name("nodes.yaml")
UNKNOWN = "Whether a node has room is not known"
#: a look at the nodes is believed for ten seconds
SECONDS = 30


def rooms(person: Person) -> dict[str, str]:
    """What the spawn form says of each profile."""
    page = BeautifulSoup(person.get(f"hub/spawn/{person.name}").text, "html.parser")
    said = {}
    for choice in page.find_all("input", attrs={"name": "profile"}):
        label = page.find("label", attrs={"for": choice["id"]}) or choice.find_parent("label")
        said[str(choice["value"])] = " ".join(label.get_text(" ").split()) if label else ""
    return said


@pytest.fixture
def granted(cluster: Cluster, maestro: Maestro) -> str:
    """The rules of ``nodes.yaml``, for the service account of this session."""
    return yaml.safe_dump_all(_bound_to(one, cluster.namespace) for one in yaml.safe_load_all(NODES.read_text()))


def _bound_to(rule: dict[str, object], namespace: str) -> dict[str, object]:
    if rule["kind"] == "ClusterRoleBinding":
        rule["subjects"] = [{"kind": "ServiceAccount", "name": "maestro", "namespace": namespace}]
    return rule


def test_the_form_says_what_a_node_could_take_once_it_may_look(
    cluster: Cluster, maestro: Maestro, granted: str
) -> None:
    nora = maestro.person("nora")
    shown = rooms(nora)
    assert UNKNOWN in shown["small"] and UNKNOWN in shown["nowhere"]
    cluster.run("apply", "-f", "-", stdin=granted)
    try:
        seen = until(
            lambda: (found := rooms(nora)) and UNKNOWN not in found["small"] and found, SECONDS, "look at nodes"
        )
    finally:
        cluster.run("delete", "-f", "-", stdin=granted)
    assert "A node has room for it now" in seen["small"]
    assert "No node has room for it now" in seen["nowhere"]
