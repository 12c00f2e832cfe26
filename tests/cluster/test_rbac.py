"""What Maestro may do on a cluster is what it needs there, and not more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster


@pytest.fixture
def maestro(cluster: Cluster, maestro_kubeconfig: Path) -> Cluster:
    """kubectl with the rights of the Hub."""
    return Cluster(cluster.namespace, str(maestro_kubeconfig))


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "delete"])
@pytest.mark.parametrize("kind", ["pods", "persistentvolumeclaims"])
def test_pods_and_volumes_are_maestros_to_make_and_remove(maestro: Cluster, verb: str, kind: str) -> None:
    assert maestro.run("auth", "can-i", verb, kind).strip() == "yes"


@pytest.mark.parametrize("verb", ["get", "list", "create", "patch", "delete"])
def test_jobs_are_maestros_to_start_and_end(maestro: Cluster, verb: str) -> None:
    assert maestro.run("auth", "can-i", verb, "jobs.batch").strip() == "yes"


def test_tokens_of_jobs_are_written_and_never_read_back(maestro: Cluster) -> None:
    assert maestro.run("auth", "can-i", "create", "secrets").strip() == "yes"


def test_running_pods_are_resized_and_not_otherwise_changed(maestro: Cluster) -> None:
    assert maestro.run("auth", "can-i", "patch", "pods", "--subresource=resize").strip() == "yes"
    with pytest.raises(AssertionError):
        maestro.run("auth", "can-i", "patch", "pods")


def test_maestros_own_network_policy_is_changed_and_no_other(maestro: Cluster) -> None:
    for verb in ("get", "update", "delete"):
        assert maestro.run("auth", "can-i", verb, "networkpolicies/maestro-servers").strip() == "yes"
        with pytest.raises(AssertionError):
            maestro.run("auth", "can-i", verb, "networkpolicies/singleuser")


@pytest.mark.parametrize(
    "question",
    [
        ("create", "pods", "--subresource=exec"),
        ("get", "secrets"),
        ("list", "nodes"),
        ("create", "serviceaccounts", "--subresource=token"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("list", "pods", "--all-namespaces"),
    ],
)
def test_everything_else_is_closed(maestro: Cluster, question: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):  # `can-i` ends with 1 for "no"
        maestro.run("auth", "can-i", *question)
