"""The closed network: what ``maestro.yaml`` may say, where hosts are found, and the policy that is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core.egress import Egress, policy_spec, to_network, usable
from maestro_core.errors import MaestroError
from maestro_core.policy import parse_policy
from maestro_hub_services.workspaces.kubernetes_api import KubernetesApi
from maestro_hub_services.workspaces.network import OpenNetwork, kubernetes, lookup, make_network
from maestro_hub_services.workspaces.network.lookup import Hosts, Unreachable
from tests.workspaces_kit import settings_for

LABELS = {"app.kubernetes.io/managed-by": "maestro"}


def section(text: str) -> Egress:
    return parse_policy(f"egress: {text}").egress


class TestTheSection:
    def test_nothing_is_closed_by_itself_and_the_shipped_file_closes(self) -> None:
        assert not parse_policy("").egress.closed
        assert parse_policy((Path(__file__).parents[2] / "maestro.yaml").read_text()).egress == Egress(closed=True)

    def test_names_are_as_dns_has_them_and_the_port_is_that_of_https(self) -> None:
        (one,) = section("{allow: [{host: Git.Example.org.}]}").allow
        assert (one.host, one.ports) == ("git.example.org", (443,))

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("{}", "either a host or a cidr"),
            ("{host: a.example, cidr: 10.0.0.0/8}", "either a host or a cidr"),
            ("{host: '*.example.org'}", "no wildcards"),
            ("{host: 10.0.0.1}", "write addresses as cidr"),
            ("{host: 'a b'}", "no name of a host"),
            ("{host: 'https://a.example'}", "no name of a host"),
            ("{cidr: 10.0.0.1/8}", "no network such as"),
            ("{cidr: 169.254.169.254/32}", "stay closed"),
            ("{cidr: 127.0.0.0/16}", "stay closed"),
            ("{cidr: 'fe80::1/128'}", "stay closed"),
            ("{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}", "except: 11.0.0.0/8 is no part of 10.0.0.0/8"),
            ("{host: a.example, except: [11.0.0.0/8]}", "except goes with a cidr"),
            ("{host: a.example, port: 80}", "known are host, cidr, except, ports"),
            ("{host: a.example, ports: [0]}", "greater than or equal to 1"),
            ("{host: a.example, ports: []}", "at least 1"),
        ],
    )
    def test_a_mistake_is_one_sentence_with_its_place(self, entry: str, said: str) -> None:
        with pytest.raises(MaestroError) as caught:
            section(f"{{allow: [{entry}]}}")
        assert said in caught.value.message and "egress.allow.0" in caught.value.message

    def test_the_whole_internet_is_without_the_machines_own_networks(self) -> None:
        block = to_network("0.0.0.0/0", ["10.0.0.0/8"])["ipBlock"]
        own = ["127.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32"]
        assert block == {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", *own]}
        assert to_network("10.0.0.0/8") == {"ipBlock": {"cidr": "10.0.0.0/8"}}
        assert "fd00:ec2::/32" in to_network("::/0")["ipBlock"]["except"]

    def test_the_policy_opens_name_servers_alone_by_itself(self) -> None:
        spec = policy_spec([])
        assert spec["policyTypes"] == ["Egress"]
        assert {port["port"] for one in spec["egress"] for port in one["ports"]} == {53}

    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
         "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"],
    )  # fmt: skip
    def test_what_a_name_may_not_lead_to(self, address: str) -> None:
        assert not usable(address)
        assert usable("10.1.2.3") and usable("203.0.113.9") and usable("2001:db8::1")


class Api:
    """The API server's part: one policy, Services by name. ``refuses``: a status for everything."""

    def __init__(self) -> None:
        self.policy: Any = None
        self.services: dict[tuple[str, str], Any] = {}
        self.refuses = 0
        self.calls: list[str] = []

    def _check(self, call: str) -> None:
        self.calls.append(call)
        if self.refuses:
            raise ApiException(status=self.refuses, reason="No")

    async def read_namespaced_service(self, name: str, namespace: str, **_: Any) -> Any:
        self._check("read service")
        if (namespace, name) not in self.services:
            raise ApiException(status=404)
        return self.services[namespace, name]

    async def read_namespaced_network_policy(self, name: str, namespace: str, **_: Any) -> Any:
        self._check("read")
        if self.policy is None:
            raise ApiException(status=404)
        return self.policy

    async def create_namespaced_network_policy(self, namespace: str, body: Any, **_: Any) -> None:
        self._check("create")
        self.put(body)

    async def replace_namespaced_network_policy(self, name: str, namespace: str, body: Any, **_: Any) -> None:
        self._check("replace")
        self.put(body)

    async def delete_namespaced_network_policy(self, name: str, namespace: str, **_: Any) -> None:
        self._check("delete")
        self.policy = None

    def put(self, body: Any) -> None:
        """Keep it as the real client gives it back."""
        answer = SimpleNamespace(data=json.dumps(body))
        self.policy = client.ApiClient().deserialize(answer, client.V1NetworkPolicy)

    def serve(self, name: str, namespace: str, selector: dict[str, str] | None, **ports: Any) -> None:
        listed = [client.V1ServicePort(port=int(port[1:]), target_port=target) for port, target in ports.items()]
        self.services[namespace, name] = client.V1Service(spec=client.V1ServiceSpec(selector=selector, ports=listed))

    def opened(self) -> list[tuple[list[dict[str, Any]], list[int | str]]]:
        """The rules of the policy but for that of name servers: peers and ports."""
        spec = client.ApiClient().sanitize_for_serialization(self.policy.spec)
        return [(one["to"], [port["port"] for port in one["ports"]]) for one in spec["egress"][1:]]


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """The API server that everything here asks; names lead to what ``names`` says."""
    made = Api()

    async def core(self: KubernetesApi) -> Any:
        return made

    async def connect(self: KubernetesApi) -> Any:
        return client.ApiClient()

    monkeypatch.setattr(KubernetesApi, "core", core)
    monkeypatch.setattr(KubernetesApi, "connect", connect)
    monkeypatch.setattr(kubernetes.client, "NetworkingV1Api", lambda _: made)
    return made


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """What the names are that somebody looks up."""
    known: dict[str, set[str]] = {}

    async def look_up(host: str) -> set[str]:
        return known.get(host, set())

    monkeypatch.setattr(lookup, "_look_up", look_up)
    return known


def addresses(*found: str) -> list[dict[str, Any]]:
    return [{"ipBlock": {"cidr": f"{one}/32"}} for one in found]


class TestHosts:
    async def test_a_service_is_the_pods_that_it_selects_on_their_own_port(self, api: Api) -> None:
        api.serve("hub", "here", {"component": "hub"}, p8081="http")
        api.serve("db", "there", {"app": "db"}, p5432=15432)
        hosts = Hosts(KubernetesApi("here"))
        own = {"podSelector": {"matchLabels": {"component": "hub"}}}
        for host in ("hub", "hub.here.svc", "hub.here.svc.cluster.local"):
            found = await hosts.rule_for(host, (8081,))
            assert (found["to"], [port["port"] for port in found["ports"]]) == ([own], ["http"]), host
        found = await hosts.rule_for("db.there.svc", (5432,))
        assert found["to"][0]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "there"}}
        assert found["ports"][0]["port"] == 15432

    async def test_other_names_are_their_addresses_which_stay_a_while(
        self, api: Api, names: dict[str, set[str]]
    ) -> None:
        clock = [0.0]
        hosts = Hosts(KubernetesApi("here"), lambda: clock[0])
        names["git.example.org"] = {"203.0.113.1", "127.0.0.1", "169.254.169.254"}
        assert (await hosts.rule_for("git.example.org", (443,)))["to"] == addresses("203.0.113.1")
        names["git.example.org"] = {"203.0.113.2"}
        clock[0] = 300
        assert (await hosts.rule_for("git.example.org", (443,)))["to"] == addresses("203.0.113.1", "203.0.113.2")
        names["git.example.org"] = set()  # the name server is away
        clock[0] = 700
        assert (await hosts.rule_for("git.example.org", (443,)))["to"] == addresses("203.0.113.2")
        clock[0] = 1000
        with pytest.raises(Unreachable, match="has no address"):
            await hosts.rule_for("git.example.org", (443,))

    async def test_an_address_is_itself_and_loopback_is_nobodys(self, api: Api) -> None:
        hosts = Hosts(KubernetesApi("here"))
        assert (await hosts.rule_for("10.0.0.5", (8081,)))["to"] == addresses("10.0.0.5")
        with pytest.raises(Unreachable, match="no address at which pods"):
            await hosts.rule_for("127.0.0.1", (8081,))


@pytest.fixture
def network(api: Api, names: dict[str, set[str]], tmp_path: Path) -> kubernetes.KubernetesNetwork:
    """The keeper of a Hub whose Service is ``hub`` and whose proxy is reached as ``proxy-public``."""
    api.serve("hub", "here", {"component": "hub"}, p8081=8081)
    api.serve("proxy-public", "here", {"component": "proxy"}, p80="http")
    settings = replace(
        settings_for(tmp_path / "state"),
        namespace="here",
        provider="kubernetes",
        hub_api_url="http://hub:8081/hub/api",
        **dict.fromkeys(("service_url", "mlflow_url", "index_url"), "http://proxy-public/services/x"),
    )
    made = make_network(settings)
    assert isinstance(made, kubernetes.KubernetesNetwork)
    return made


CLOSED = section("{closed: true}")


class TestKeeping:
    async def test_the_hub_and_the_proxy_are_open_and_nothing_else(
        self, api: Api, network: kubernetes.KubernetesNetwork
    ) -> None:
        await network.hold(CLOSED)
        assert api.opened() == [
            ([{"podSelector": {"matchLabels": {"component": "hub"}}}], [8081]),
            ([{"podSelector": {"matchLabels": {"component": "proxy"}}}], ["http"]),
        ]
        assert api.policy.metadata.labels == LABELS

    async def test_it_is_looked_at_again_but_not_at_every_start(
        self, api: Api, network: kubernetes.KubernetesNetwork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await network.hold(CLOSED)
        asked = len(api.calls)
        await network.hold(CLOSED)
        assert len(api.calls) == asked
        monkeypatch.setattr(network, "_until", 0.0)
        await network.hold(CLOSED)
        assert api.calls[asked:].count("read") == 1 and "replace" not in api.calls
        api.policy.spec.egress = []  # somebody changed it
        monkeypatch.setattr(network, "_until", 0.0)
        await network.hold(CLOSED)
        assert "replace" in api.calls and len(api.opened()) == 2

    async def test_a_changed_file_counts_at_once_and_taken_back_it_is_gone(
        self, api: Api, network: kubernetes.KubernetesNetwork
    ) -> None:
        await network.hold(CLOSED)
        await network.hold(section("{closed: true, allow: [{cidr: 10.20.0.0/16, ports: [80, 443]}]}"))
        assert api.opened()[-1] == ([{"ipBlock": {"cidr": "10.20.0.0/16"}}], [80, 443])
        await network.hold(Egress())
        assert api.policy is None

    async def test_a_host_that_is_not_found_closes_itself_alone(
        self, api: Api, network: kubernetes.KubernetesNetwork, names: dict[str, set[str]], caplog: Any
    ) -> None:
        names["there.example"] = {"203.0.113.4"}
        await network.hold(section("{closed: true, allow: [{host: gone.example}, {host: there.example}]}"))
        assert [peers for peers, _ in api.opened()[2:]] == [addresses("203.0.113.4")]
        assert "cannot reach gone.example" in caplog.text

    @pytest.mark.parametrize(("status", "said"), [(403, "rules about networkpolicies"), (500, "refused (500 No)")])
    async def test_what_cannot_be_closed_is_said(
        self, api: Api, network: kubernetes.KubernetesNetwork, caplog: Any, status: int, said: str
    ) -> None:
        api.refuses = status
        for _ in range(2):  # not believed afterwards
            with pytest.raises(MaestroError) as caught:
                await network.hold(CLOSED)
            assert caught.value.code == "start_failed" and said in caught.value.message
        assert caplog.text.count("cannot be closed") == 1, "it is tried every two seconds"
        await network.hold(Egress())  # where nothing is to be closed, no right is needed

    async def test_neither_a_hub_without_address_nor_somebody_elses_policy_passes(
        self, api: Api, network: kubernetes.KubernetesNetwork
    ) -> None:
        hub = api.services.pop(("here", "hub"))
        with pytest.raises(MaestroError, match="hub has no address"):
            await network.hold(CLOSED)
        api.services["here", "hub"] = hub
        await network.hold(CLOSED)
        api.policy.metadata.labels = {}
        with pytest.raises(MaestroError, match="is not Maestro's: delete it"):
            await network.hold(section("{closed: true, allow: [{cidr: 10.0.0.0/8}]}"))
        await network.hold(Egress())
        assert api.policy is not None, "it was taken away although it is somebody else's"

    async def test_one_machine_has_nothing_to_close(self, tmp_path: Path) -> None:
        local = make_network(settings_for(tmp_path / "state"))
        assert isinstance(local, OpenNetwork)
        await local.hold(CLOSED)
