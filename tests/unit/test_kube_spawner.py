"""The plan in KubeSpawner's own pod, as it would be sent to the API server; no cluster is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient

from maestro_spawner.kube import MaestroKubeSpawner
from maestro_spawner.refusals import Refusal
from tests.plan_service import TOKEN, PlanServiceStub, serving


@pytest.fixture
def stub() -> PlanServiceStub:
    return PlanServiceStub()


@pytest.fixture
def url(stub: PlanServiceStub) -> Iterator[str]:
    with serving(stub) as url:
        yield url


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """KubeSpawner reads a kubeconfig as soon as it is made."""
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **settings: None)


def make_spawner(url: str, **traits: Any) -> MaestroKubeSpawner:
    user = SimpleNamespace(
        name="ann@example.com",
        id=1,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        admin=False,
        groups=[],
        url="/user/ann@example.com/",
        escaped_name="ann%40example.com",
        settings={},
    )
    orm_spawner = SimpleNamespace(name="demo", server=None, user_options={}, display_name="demo")
    hub = SimpleNamespace(
        public_host="", api_url="http://hub:8081/hub/api", base_url="/hub/", url="http://hub:8081/hub/"
    )
    own = {"user": user, "orm_spawner": orm_spawner, "hub": hub, "api_token": "hub-token", "_mock": True}
    given = {"service_url": url, "service_token": TOKEN, "image": "lab:1"}
    return MaestroKubeSpawner(**own, **{**given, **traits})


async def manifest(spawner: MaestroKubeSpawner) -> dict[str, Any]:
    """The pod as JSON."""
    await spawner.load_user_options()
    pod = await spawner.get_pod_manifest()
    return dict(ApiClient().sanitize_for_serialization(pod))


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


async def test_a_launch_is_a_pod_with_what_its_plan_says(stub: PlanServiceStub, url: str) -> None:
    stub.changes = {"resources": {"cpu": 2, "memory": "4Gi", "gpu": 1}, "node_selector": {"gpu": "v100"}}
    pod = await manifest(make_spawner(url))
    spec, server = pod["spec"], pod["spec"]["containers"][0]
    amounts = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    assert server["resources"] == {"limits": amounts, "requests": amounts}
    assert server["args"] == ["maestro-singleuser"]
    assert server["workingDir"] == "/home/jovyan"
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v
    }
    places = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert claims[places["/workspace"]["name"]] == "workspace-demo"
    assert claims[places["/home/jovyan"]["name"]] == "maestro-homes"
    assert places["/etc/maestro"]["readOnly"]
    assert spec["nodeSelector"] == {"gpu": "v100"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["supplementalGroups"] == [20001]
    assert pod["metadata"]["labels"]["app"] == "jupyterhub"
    assert pod["metadata"]["labels"]["component"] == "singleuser-server"
    assert pod["metadata"]["labels"]["maestro/workspace"] == "demo"
    assert "NVIDIA_VISIBLE_DEVICES" not in variables(server)


async def test_without_gpus_none_is_shown(url: str) -> None:
    server = (await manifest(make_spawner(url)))["spec"]["containers"][0]
    assert variables(server)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert set(server["resources"]["limits"]) == {"cpu", "memory"}


async def test_the_init_container_is_the_servers_own_image_and_user(url: str) -> None:
    spawner = make_spawner(url, uid=1000, image_pull_policy="Never")
    spec = (await manifest(spawner))["spec"]
    (init,), (server,) = spec["initContainers"], spec["containers"]
    assert (init["image"], init["imagePullPolicy"]) == ("lab:1", "Never")
    assert init["securityContext"] == server["securityContext"]
    assert {mount["mountPath"] for mount in init["volumeMounts"]} == {"/etc/maestro"}
    assert "index-token-of-launch-1" not in str(server), "the password is for the clients' files alone"


async def test_a_profiles_image_is_taken(stub: PlanServiceStub, url: str) -> None:
    stub.changes = {"image": "other:2"}
    spec = (await manifest(make_spawner(url)))["spec"]
    assert {container["image"] for container in (*spec["containers"], *spec["initContainers"])} == {"other:2"}


async def test_no_text_of_a_user_is_a_template_here_or_on_kubernetes(stub: PlanServiceStub, url: str) -> None:
    text = "{username} {unknown} {0} $(JUPYTERHUB_API_TOKEN) \n--- '\" é"
    stub.changes = {
        "environment": {"MLFLOW_EXPERIMENT_NAME": text},
        "labels": {"maestro/user": "{username}@x"},
        "default_url": "/lab/tree/{x}$(JUPYTERHUB_API_TOKEN)",
    }
    pod = await manifest(make_spawner(url))
    given = variables(pod["spec"]["containers"][0])
    assert given["MLFLOW_EXPERIMENT_NAME"] == text.replace("$(", "$$(")
    assert given["JUPYTERHUB_DEFAULT_URL"] == "/lab/tree/{x}$$(JUPYTERHUB_API_TOKEN)"
    assert given["JUPYTERHUB_API_TOKEN"] == "hub-token"
    assert pod["metadata"]["labels"]["maestro/user"].isascii()
    assert not set("{}@") & set(pod["metadata"]["labels"]["maestro/user"])


async def test_the_admins_own_variables_keep_their_templates_and_references(url: str) -> None:
    spawner = make_spawner(url, environment={"WHO": "{username}", "TOKEN": "$(JUPYTERHUB_API_TOKEN)"})
    given = variables((await manifest(spawner))["spec"]["containers"][0])
    assert given["WHO"].startswith("ann-example-com")
    assert given["TOKEN"] == "$(JUPYTERHUB_API_TOKEN)"


async def test_a_charts_volume_at_the_home_gives_way_and_its_others_stay(url: str) -> None:
    spawner = make_spawner(
        url,
        volumes=[{"name": "home", "emptyDir": {}}, {"name": "certs", "emptyDir": {}}],
        volume_mounts=[{"name": "home", "mountPath": "/home/jovyan/"}, {"name": "certs", "mountPath": "/certs"}],
    )
    spec = (await manifest(spawner))["spec"]
    places = [mount["mountPath"].rstrip("/") for mount in spec["containers"][0]["volumeMounts"]]
    assert places.count("/home/jovyan") == 1
    assert "/certs" in places
    assert "home" not in {volume["name"] for volume in spec["volumes"]}


async def test_volumes_are_the_workspaces_and_nobody_makes_or_deletes_them_here(url: str) -> None:
    spawner = make_spawner(url)
    assert not spawner.delete_pvc
    assert not spawner.storage_pvc_ensure
    await spawner.delete_forever()


async def test_the_hubs_home_page_knows_that_there_is_a_form(url: str) -> None:
    assert make_spawner(url).options_form


async def test_an_ask_that_names_a_profile_is_no_failure_of_kubespawner(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url)
    spawner.user_options = {"profile": "small"}
    await manifest(spawner)
    assert stub.questions("/plan/launches")[0]["ask"] == {"profile": "small"}


async def test_a_plan_for_one_machine_is_refused_with_a_sentence(stub: PlanServiceStub, url: str) -> None:
    files = {"name": "workspace", "kind": "directory", "source": "/srv/w", "target": "/workspace"}
    home = {"name": "home", "kind": "directory", "source": "/srv/h", "target": "/home/jovyan"}
    stub.changes = {"mounts": [files, home]}
    spawner = make_spawner(url)
    with pytest.raises(Refusal, match="is a directory, and servers of this Hub take a claim"):
        await manifest(spawner)


async def test_without_a_plan_there_is_no_pod(url: str) -> None:
    with pytest.raises(Refusal, match="no plan"):
        await make_spawner(url).get_pod_manifest()
