"""The closed network of a server's pod: packages come through the index, what ``maestro.yaml`` allows is reached, and
nothing else is; each refused address answers a pod that no policy selects, so that the silence is the policy's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import package_kit as kit
from tests.cluster.cluster import KUBE, PODS, Cluster, cli, until
from tests.system.house import Maestro, Person
from tests.system.singleuser import NotebookServer

#: an address of nobody (RFC 5737), which the tests' own cluster answers at while these tests run
INTERNET = "203.0.113.7"
#: a pod that no policy selects
STRANGER = "stranger"
METADATA = "169.254.169.254"
#: seconds in which a change of the file counts for what runs, with what the cluster needs besides
COUNTS_SECONDS = 20
#: prints which of the addresses in its argument take a connection
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(target):
    try:
        socket.create_connection(target, 2).close()
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(dict(zip(targets, pool.map(reached, map(tuple, targets.values()))))))
"""
Targets = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def upstream(maestro: Maestro) -> Iterator[kit.Upstream]:
    """The index behind Maestro's own: a wheel that the policy allows, and one that it blocks."""
    with kit.upstream_and_authority() as (upstream, _):
        upstream.add("small-model", "1.0", ("small-weights",))
        upstream.add("small-weights", "1.4")
        upstream.add("big-model", "1.0")

        def change(policy: dict[str, Any]) -> None:
            policy["packages"]["index"] = {"upstream": upstream.url}
            policy["packages"]["blocked_packages"] = [{"package": "big-model", "reason": "use small-model"}]

        with maestro.ruled(change):
            yield upstream


@pytest.fixture(scope="module")
def depot(cluster: Cluster, singleuser_image: str) -> str:
    """Address of a pod of somebody else, which serves on port 8000; its Service ``depot`` on port 80."""
    container = {
        "name": "web",
        "image": singleuser_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "http.server", "8000", "--directory", "/tmp"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
    }
    metadata = {"name": STRANGER, "labels": {"app": "depot"}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    ports = [{"port": 80, "targetPort": 8000}]
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "depot"},
            "spec": {"selector": {"app": "depot"}, "ports": ports},
        },
    )
    cluster.run("wait", "--for=condition=Ready", f"pod/{STRANGER}", "--timeout=60s", timeout=90)
    return str(cluster.json("get", "pod", STRANGER)["status"]["podIP"])


@pytest.fixture(scope="module")
def internet() -> Iterator[bool]:
    """Whether the address of nobody is somewhere while these tests run: on this machine, where that is the node."""
    here = KUBE.is_dir() and os.geteuid() == 0
    address = ["ip", "address"], [f"{INTERNET}/32", "dev", "lo"]
    with contextlib.ExitStack() as stack:
        if here:
            subprocess.run([*address[0], "replace", *address[1]], check=True)
            stack.callback(subprocess.run, [*address[0], "del", *address[1]], check=True)
        yield here


@pytest.fixture(scope="module")
def targets(
    depot: str, internet: bool, address: str, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Targets]:
    """Everything that is not for servers: the upstream, another pod, the internet, the cluster's API, the metadata."""
    folder = tmp_path_factory.mktemp("nothing")
    api = cluster.json("get", "service", "kubernetes", "--namespace", "default")["spec"]
    command = ["python3", "-m", "http.server", "0", "--bind", "0.0.0.0", "--directory", str(folder)]
    with subprocess.Popen([*command[:1], "-u", *command[1:]], stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        port = int(stub.stdout.readline().split(" port ")[1].split()[0])
        yield {
            "an index on this machine": (address, port),
            "another pod": (depot, 8000),
            "another pod's Service": ("depot", 80),
            "the internet": (INTERNET, port),
            "the cluster's API": (api["clusterIP"], api["ports"][0]["port"]),
            "the metadata": (METADATA, 80),
        }
        stub.terminate()


@pytest.fixture(scope="module")
def nina(maestro: Maestro) -> Person:
    return maestro.person("nina")


@pytest.fixture(scope="module")
def pod(
    maestro: Maestro, cluster: Cluster, nina: Person, upstream: kit.Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The pod of a server; ended with these tests."""
    home = tmp_path_factory.mktemp("client")
    session = cli(maestro, nina, "launch", "--memory", "1Gi", home=home)
    (found,) = cluster.items("pods", f"{PODS},maestro.launch={session['session_id']}")
    yield found["metadata"]["name"]
    cli(maestro, nina, "stop", session["session_id"], home=home)
    until(lambda: not cluster.items("pods", PODS), 60, "end of the pod")


def reached(cluster: Cluster, pod: str, targets: Targets) -> set[str]:
    """What a program in a pod reaches."""
    found: dict[str, bool] = json.loads(cluster.run("exec", pod, "--", "python3", "-c", PROBE, json.dumps(targets)))
    return {name for name, yes in found.items() if yes}


def test_a_server_reaches_nothing_but_what_it_needs(
    cluster: Cluster, pod: str, targets: Targets, internet: bool
) -> None:
    answers = {"an index on this machine", "another pod", "another pod's Service", "the cluster's API"}
    answers |= {"the internet"} if internet else set()
    until(lambda: reached(cluster, STRANGER, targets) >= answers, 30, "answer at the addresses themselves")
    assert reached(cluster, pod, targets) == set()


async def test_packages_come_through_the_index_and_a_blocked_one_says_why(
    maestro: Maestro, nina: Person, pod: str, targets: Targets
) -> None:
    notebook = NotebookServer(f"{maestro.url}user/nina/", token=nina.token()).open_notebook("packages.ipynb")
    installed = await notebook.run("!pip install --no-cache-dir small-model")
    assert "Successfully installed small-model-1.0 small-weights-1.4" in installed.text
    refused = await notebook.run("!pip install --no-cache-dir big-model")
    assert "big-model is blocked by the global policy (rule big-model): use small-model" in refused.text
    around = await notebook.run(
        f"!pip install --no-cache-dir --timeout 2 --retries 0 --index-url http://{INTERNET}/simple/ big-model"
    )
    assert "No matching distribution found for big-model" in around.text
    probed = await notebook.run(f"import sys\nsys.argv = ['probe', '''{json.dumps(targets)}''']\n{PROBE}")
    assert probed.status == "ok" and set(json.loads(probed.text).values()) == {False}, probed.text


def test_what_the_file_allows_is_reached_by_servers_that_run(
    maestro: Maestro, cluster: Cluster, pod: str, targets: Targets
) -> None:
    host, port = targets["an index on this machine"]
    allow = [{"host": "depot", "ports": [80]}, {"cidr": f"{host}/32", "ports": [port]}]
    listed = {"an index on this machine", "another pod", "another pod's Service"}
    with maestro.ruled(lambda policy: policy["egress"].update(allow=allow)):
        until(lambda: reached(cluster, pod, targets) == listed, COUNTS_SECONDS, "way to what is listed")
    until(lambda: not reached(cluster, pod, targets), COUNTS_SECONDS, "end of it")


def test_a_policy_that_somebody_changed_is_put_back(cluster: Cluster, pod: str, targets: Targets) -> None:
    cluster.run("delete", "networkpolicy", "maestro-servers")
    until(lambda: not reached(cluster, pod, targets), 60, "policy put back")
