"""Whether a node has room: the rule, and how the cluster's objects are read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from maestro_core.profiles import Profile
from maestro_core.room import Node, Taint, quantity, room_for
from maestro_hub_services.workspaces.kubernetes_api import KubernetesApi
from maestro_hub_services.workspaces.nodes.kubernetes import KubernetesNodes, read_nodes

GIB = 1024.0**3
FREE = {"cpu": 4.0, "memory": 16 * GIB, "pods": 10.0}
SMALL = Profile(name="small", cpu=2, memory="4Gi")
GPU = Profile(
    name="gpu", cpu=2, memory="4Gi", gpu=1, node_selector={"accelerator": "v100"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
)  # fmt: skip


@pytest.mark.parametrize(
    "text, amount",
    [("2", 2), ("500m", 0.5), ("16Gi", 16 * GIB), ("1e3", 1000), ("128974848", 128974848), ("1.5G", 1.5e9),
     ("100n", 1e-7), ("12E", 12e18), ("Gi", 0), ("lots", 0), ("", 0)],
)  # fmt: skip
def test_amounts_as_kubernetes_writes_them(text: str, amount: float) -> None:
    assert quantity(text) == pytest.approx(amount)


class TestRoom:
    def test_one_node_that_can_take_it_is_enough(self) -> None:
        full = Node({}, {**FREE, "cpu": 1.0})
        assert room_for([full, Node({}, FREE)], SMALL) == "now"
        assert room_for([full], SMALL) == room_for([], SMALL) == "busy"

    def test_what_is_not_known_is_unknown(self) -> None:
        assert room_for(None, SMALL) == "unknown"

    @pytest.mark.parametrize("short", ["cpu", "memory", "pods"])
    def test_all_of_it_must_fit_on_the_same_node(self, short: str) -> None:
        assert room_for([Node({}, {**FREE, short: 0.5})], SMALL) == "busy"

    def test_a_cordoned_node_takes_nothing(self) -> None:
        assert room_for([Node({}, FREE, schedulable=False)], SMALL) == "busy"

    def test_a_gpu_needs_the_label_the_resource_and_no_taint_in_the_way(self) -> None:
        labels, free = {"accelerator": "v100"}, {**FREE, "nvidia.com/gpu": 1.0}
        taint = Taint("nvidia.com/gpu", "", "NoSchedule")
        assert room_for([Node(labels, free, (taint,))], GPU) == "now"
        assert room_for([Node({}, free, (taint,))], GPU) == "busy"
        assert room_for([Node(labels, FREE, (taint,))], GPU) == "busy"
        assert room_for([Node(labels, free, (taint, Taint("team", "x", "NoExecute")))], GPU) == "busy"
        assert room_for([Node(labels, free, (taint, Taint("team", "x", "PreferNoSchedule")))], GPU) == "now"

    @pytest.mark.parametrize(
        "toleration, room",
        [
            ({"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}, "now"),
            ({"key": "team", "value": "ml"}, "now"),
            ({"operator": "Exists"}, "now"),
            ({"key": "team", "value": "other"}, "busy"),
            ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, "busy"),
        ],
    )
    def test_tolerations_by_kubernetes_rule(self, toleration: dict[str, str], room: str) -> None:
        profile = Profile(name="a", tolerations=(toleration,))
        assert room_for([Node({}, FREE, (Taint("team", "ml", "NoSchedule"),))], profile) == room


def container(**requests: str) -> Any:
    return Thing(resources=Thing(requests=requests))


def pod(node: str | None, *containers: Any, init: tuple[Any, ...] = (), overhead: Any = None) -> Any:
    return Thing(spec=Thing(node_name=node, containers=containers, init_containers=init, overhead=overhead))


def node(name: str, *, ready: str = "True", unschedulable: bool | None = None, **allocatable: str) -> Any:
    return Thing(
        metadata=Thing(name=name, labels={"zone": "a"}),
        spec=Thing(taints=None, unschedulable=unschedulable),
        status=Thing(allocatable=allocatable, conditions=[Thing(type="Ready", status=ready)]),
    )


class TestReading:
    def test_what_is_free_is_what_pods_do_not_request(self) -> None:
        pods = [
            pod("n1", container(cpu="500m", memory="1Gi"), container(cpu="1")),
            pod("n1", container(cpu="100m"), init=(container(cpu="1"),), overhead={"memory": "1Gi"}),
            pod("n2", container(cpu="4")),
            pod(None, container(cpu="4")),
            pod("n1", Thing(resources=None)),
        ]
        (found,) = read_nodes([node("n1", cpu="4", memory="8Gi", pods="110")], pods)
        assert found.free == {"cpu": pytest.approx(1.5), "memory": 6 * GIB, "pods": 107}
        assert found.schedulable and found.labels == {"zone": "a"}

    def test_a_node_that_is_away_or_cordoned_takes_nothing(self) -> None:
        found = read_nodes([node("n1", ready="Unknown"), node("n2", unschedulable=True)], [])
        assert [one.schedulable for one in found] == [False, False]


class Api:
    """A cluster's API of a test; ``looks`` counts, ``slow`` keeps it waiting, ``refuses`` raises."""

    def __init__(self) -> None:
        self.looks = 0
        self.slow = self.refuses = False
        self.api_client = self

    async def list_node(self, limit: int, _continue: str | None = None) -> Any:
        self.looks += 1
        if self.refuses:
            raise PermissionError
        if self.slow:
            await asyncio.sleep(60)
        name, following = ("n2", None) if _continue else ("n1", "more")
        return Thing(items=[node(name, cpu="4", memory="8Gi", pods="9")], metadata=Thing(_continue=following))

    async def list_pod_for_all_namespaces(self, limit: int, field_selector: str) -> Any:
        return Thing(items=[pod("n2", container(cpu="1"))], metadata=Thing(_continue=None))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> tuple[KubernetesNodes, Api]:
    api, nodes = Api(), KubernetesNodes()

    async def connect(self: KubernetesApi) -> Api:
        return api

    monkeypatch.setattr(KubernetesApi, "core", connect)
    monkeypatch.setattr("maestro_hub_services.workspaces.nodes.kubernetes.TIMEOUT_SECONDS", 0.05)
    return nodes, api


class TestLooking:
    async def test_reads_all_pages_and_is_kept_for_ten_seconds(self, cluster: tuple[KubernetesNodes, Api]) -> None:
        nodes, api = cluster
        found = await asyncio.gather(*(nodes.look() for _ in range(5)))
        assert [one.free["cpu"] for one in found[0] or ()] == [4, 3]
        assert api.looks == 2, "one look of two pages for all who ask"

    @pytest.mark.parametrize("trouble", ["slow", "refuses"])
    async def test_a_cluster_that_is_slow_or_says_no_is_unknown(
        self, cluster: tuple[KubernetesNodes, Api], trouble: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        nodes, api = cluster
        setattr(api, trouble, True)
        assert await nodes.look() is None and await nodes.look() is None
        assert api.looks == 1 and len(caplog.records) == 1
