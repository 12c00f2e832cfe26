"""The cluster tier: the same system with its notebook servers on the cluster of KUBECONFIG.

========================  ================================================================================
``cluster``               the admin's kubectl on a namespace of this session, removed at the end
``maestro_kubeconfig``    a kubeconfig with the rights of ``rbac.yaml`` alone: what the Hub gets
``address``               this machine as pods reach it (``MAESTRO_TEST_ADDRESS``, else the node's address)
``singleuser_image``      ``images/singleuser`` on the node (``MAESTRO_TEST_SINGLEUSER_IMAGE`` names a ready one)
``dataset``               the name of a dataset: a claim that holds ``flowers.csv``
``start_hub``             starts that Hub, and again after its end
``maestro``               a Hub on this machine that starts pods there (``tests/system/house.py``)
========================  ================================================================================
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import ROOT, Cluster, build_image, fill_claim, node_address, service_account_kubeconfig
from tests.system.house import Maestro, Run

HERE = Path(__file__).parent
#: the whole of a first run may build an image, which no single test's limit covers
IMAGE_SECONDS = 900
_LITTLE = {"cpu": 0.2, "memory": "512Mi"}
#: besides those of our own ``maestro.yaml``: one that is soon idle, and two that never start (``hub_config.py``)
PROFILES = [
    {"name": "brief", "idle": 1, **_LITTLE},
    {"name": "nowhere", "node_selector": {"maestro.example.org/place": "nowhere"}, **_LITTLE},
    {"name": "imageless", "image": "localhost/no-such-image:1", **_LITTLE},
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without KUBECONFIG the whole tier is one skipped line; with it, the first test has time to build the image."""
    mine = [item for item in items if HERE in item.path.parents]
    if os.environ.get("KUBECONFIG"):
        for item in mine:
            item.add_marker(pytest.mark.timeout(IMAGE_SECONDS))
    elif mine:
        mine[0].add_marker(pytest.mark.skip(reason="KUBECONFIG is not set: the cluster tests have no cluster"))
        items[:] = [item for item in items if item not in mine[1:]]
        config.hook.pytest_deselected(items=mine[1:])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The admin's kubectl on a namespace made for this session."""
    cluster = Cluster(f"maestro-test-{secrets.token_hex(3)}", os.environ["KUBECONFIG"])
    cluster.run("create", "namespace", cluster.namespace)
    yield cluster
    cluster.run("delete", "namespace", cluster.namespace, timeout=120)


@pytest.fixture(scope="session")
def maestro_kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Hub and the service reach the API server with."""
    return service_account_kubeconfig(cluster, tmp_path_factory.mktemp("kubeconfig"))


@pytest.fixture(scope="session")
def address(cluster: Cluster) -> str:
    """This machine as pods reach it."""
    return os.environ.get("MAESTRO_TEST_ADDRESS") or node_address(cluster)


@pytest.fixture(scope="session")
def singleuser_image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of notebook servers, on the cluster's node."""
    return build_image(cluster, tmp_path_factory.mktemp("image"), "singleuser")


@pytest.fixture(scope="session")
def dataset(cluster: Cluster, singleuser_image: str) -> str:
    """A dataset that everyone may read: the claim of the same name."""
    fill_claim(cluster, "flowers", singleuser_image, "flowers.csv", "name,petals\ndaisy,34\n")
    return "flowers"


@pytest.fixture(scope="session")
def start_hub(
    cluster: Cluster,
    maestro_kubeconfig: Path,
    address: str,
    singleuser_image: str,
    dataset: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Run]:
    """Starts the Hub of ``maestro``, and after its end again on its state, with further variables."""
    folder = tmp_path_factory.mktemp("maestro")
    policy = yaml.safe_load((ROOT / "maestro.yaml").read_text())
    policy |= {"datasets": [{"name": dataset, "claim": dataset}], "retention": {"archived_days": 0}}
    policy["profiles"] += PROFILES
    (folder / "maestro.yaml").write_text(yaml.safe_dump(policy))
    environment = {
        "MAESTRO_PROVIDER": "kubernetes",
        "MAESTRO_HOST": address,
        "MAESTRO_POLICY": str(folder / "maestro.yaml"),
        "MAESTRO_NAMESPACE": cluster.namespace,
        "MAESTRO_STORAGE_SIZE": "100Mi",
        "MAESTRO_CULL_SECONDS": "5",
        "MAESTRO_SINGLEUSER_IMAGE": singleuser_image,
        "MAESTRO_JOB_IMAGE": singleuser_image,
        "KUBECONFIG": str(maestro_kubeconfig),
    }

    def start(**variables: str) -> Run:
        config = str(HERE / "hub_config.py")
        return Run(folder / "state", "--config", config, environment=environment | variables)

    return start


@pytest.fixture(scope="session")
def maestro(start_hub: Callable[..., Run]) -> Iterator[Maestro]:
    """Hub, proxy and services on this machine, with the Hub's rights on the cluster alone; pods are its servers."""
    run = start_hub()
    found = None
    try:
        found = Maestro(run, run.state.parent / "maestro.yaml")
        yield found
    finally:
        (found.run if found else run).stop()
