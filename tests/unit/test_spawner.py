"""What both spawners share, against a real HTTP service: questions, refusals, forms, and the end of a launch."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from bs4 import BeautifulSoup
from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import format_exception
from kubespawner import KubeSpawner
from traitlets.config import LoggingConfigurable

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan, PlanRequest
from maestro_core.workspaces import UserRef
from maestro_spawner import service
from maestro_spawner.local import MaestroLocalSpawner
from maestro_spawner.machine import limits, server_log
from maestro_spawner.machine.launched import Processes
from maestro_spawner.machine.process import Process
from maestro_spawner.mixin import MaestroMixin, _submitted
from maestro_spawner.refusals import OnlyShown, Refusal
from maestro_spawner.service import PlanService
from maestro_spawner.steps import Steps
from tests.plan_service import TOKEN, PlanServiceStub, serving

CREATED = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


class TrialSpawner(MaestroMixin, Spawner):
    """The smallest spawner behind the mixin: its server is a flag."""

    alive = False

    async def start(self) -> tuple[str, int]:
        await self.take_plan()
        self.alive = True
        self.came_up()
        return "127.0.0.1", 1

    async def stop(self, now: bool = False) -> None:
        self.alive = False

    async def poll(self) -> int | None:
        return None if self.alive else 0


@pytest.fixture
def stub() -> PlanServiceStub:
    return PlanServiceStub()


@pytest.fixture
def url(stub: PlanServiceStub) -> Iterator[str]:
    with serving(stub) as url:
        yield url


@pytest.fixture(autouse=True)
async def _deliveries_end(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(service, "PAUSES", (0.01, 0.02, 0.05))
    yield
    await asyncio.gather(*MaestroMixin._deliveries, return_exceptions=True)
    _submitted.set(None)


def make_spawner(
    url: str, user: str = "ann", server: str = "demo", kind: type[Spawner] = TrialSpawner, **traits: Any
) -> Any:
    """A spawner as the Hub makes it."""
    hub_user = SimpleNamespace(
        name=user,
        created=CREATED,
        admin=False,
        groups=[SimpleNamespace(name="team-b"), SimpleNamespace(name="team-a")],
        url=f"/user/{user}/",
        escaped_name=user,
        settings={},
    )
    orm_spawner = SimpleNamespace(name=server, server=None, user_options={}, display_name=server)
    hub = SimpleNamespace(
        public_host="", api_url="http://127.0.0.1:8081/hub/api", base_url="/hub/", url="http://127.0.0.1:8081/hub/"
    )
    given = {"service_url": url, "service_token": TOKEN, "oauth_client_id": f"jupyterhub-user-{user}-{server}"}
    return kind(user=hub_user, orm_spawner=orm_spawner, hub=hub, api_token="hub-token", **{**given, **traits})


async def until(condition: Any, what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what}: not within 5 s")


# -- the question ---------------------------------------------------------------------------------------------------


async def test_the_service_is_asked_once_with_what_the_hubs_own_objects_say(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url, user="ann@example.com")
    spawner.user_options = {"profile": "small", "resources": {"cpu": "2", "memory": "4Gi"}}
    plan = await spawner.take_plan()
    assert plan.workspace.name == "demo"
    (question,) = stub.questions("/plan/launches")
    assert question["user"] == {
        "name": "ann@example.com",
        "created": "2026-01-02T03:04:05.678900Z",
        "admin": False,
        "groups": ["team-a", "team-b"],
    }
    assert question["server_name"] == "demo"
    assert question["ask"]["resources"] == {"cpu": 2.0, "memory": 4 * 1024**3}
    assert stub.tokens == {f"token {TOKEN}"}


async def test_no_options_at_all_are_an_ask(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url)
    spawner.user_options = {}
    await spawner.take_plan()
    assert stub.questions("/plan/launches")[0]["ask"] == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resources": {"memory": "lots"}}, "'lots' is not an amount of memory"),
        ({"image": "evil:latest"}, "cannot name an image"),
        ({"git_repo": "x"}, "no option 'git_repo'"),
        ({"workspace": "../etc"}, "cannot name a workspace"),
        ({"workspace": "a" * 31}, "cannot name a workspace"),
    ],
)
async def test_a_malformed_ask_never_reaches_the_service(
    stub: PlanServiceStub, url: str, options: Any, sentence: str
) -> None:
    spawner = make_spawner(url)
    spawner.user_options = options
    with pytest.raises(Refusal, match=sentence) as caught:
        await spawner.take_plan()
    assert caught.value.status_code == 400
    assert stub.asked == []


async def test_a_plan_for_another_server_is_not_applied_and_is_given_back(stub: PlanServiceStub, url: str) -> None:
    stub.changes = {"user": "bob"}
    spawner = make_spawner(url)
    with pytest.raises(Refusal, match="a plan for another server"):
        await spawner.start()
    await spawner.run_post_stop_hook()
    assert stub.ended == {"launch-1": "did not start"}


@pytest.mark.parametrize("launch_id", ["../../etc", "a/b", "", "-rf", "x" * 65, "a b", "ä"])
async def test_a_launch_id_that_is_no_plain_word_is_refused(stub: PlanServiceStub, url: str, launch_id: str) -> None:
    stub.changes = {"launch_id": launch_id}
    spawner = make_spawner(url)
    with pytest.raises(Refusal, match="no usable id"):
        await spawner.take_plan()
    assert spawner.launch_id == ""


# -- refusals -------------------------------------------------------------------------------------------------------

FULL = "You have 3 of 3 servers running or starting (a, b, c); stop one of them, or ask an admin for more."


async def test_a_refusal_is_one_clean_sentence_everywhere_and_no_failure_of_the_hub(
    stub: PlanServiceStub, url: str
) -> None:
    stub.instead["/plan/launches"] = (403, MaestroError("quota_exceeded", FULL).as_json())
    with pytest.raises(SpawnException) as caught:
        await make_spawner(url).start()
    refusal = caught.value
    assert (refusal.status_code, refusal.reason, refusal.message) == (403, "quota_exceeded", FULL)
    assert format_exception(refusal) == (FULL, None), "what form and progress show"
    assert format_exception(refusal, only_jupyterhub=True) == (FULL, None), "what the page of a failed start shows"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((502, "<html>Bad gateway</html>"), "does not answer, so nothing was started"),
        ((500, MaestroError("internal", "It broke; the log has it under 17.").as_json()), "It broke"),
        ((401, MaestroError("not_signed_in", "Who?").as_json()), "does not accept the Hub's token"),
        ((201, {"launch_id": "x"}), "an answer that the Hub does not understand"),
        ((201, "[]"), "an answer that the Hub does not understand"),
        ((201, ""), "an answer that the Hub does not understand"),
    ],
)
async def test_whatever_the_service_answers_nothing_starts_without_a_plan(
    stub: PlanServiceStub, url: str, answer: Any, sentence: str
) -> None:
    stub.instead["/plan/launches"] = answer
    spawner = make_spawner(url)
    with pytest.raises(Refusal, match=sentence):
        await spawner.start()
    assert not spawner.alive


async def test_without_a_service_nothing_starts_and_the_sentence_says_so() -> None:
    spawner = make_spawner("http://127.0.0.1:9")
    with pytest.raises(Refusal, match="does not answer, so nothing was started") as caught:
        await spawner.start()
    assert caught.value.status_code == 503
    assert not spawner.alive


async def test_a_service_that_hangs_is_one_that_does_not_answer(stub: PlanServiceStub, url: str) -> None:
    def hang(question: Any) -> Any:
        gate.wait(5)
        return 201, {}

    gate = threading.Event()
    stub.instead["/plan/launches"] = hang
    try:
        with pytest.raises(Refusal, match="does not answer"):
            await make_spawner(url, service_timeout=0.2).start()
    finally:
        gate.set()


async def test_an_unconfigured_spawner_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAESTRO_SPAWNER_TOKEN", raising=False)
    for traits in ({"service_url": ""}, {"service_token": ""}):
        with pytest.raises(Refusal, match="does not know its workspaces service"):
            await make_spawner("http://127.0.0.1:9", **traits).start()


async def test_the_token_comes_from_a_file_and_is_shown_nowhere(
    stub: PlanServiceStub, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    spawner = make_spawner(url, service_token="", service_token_file=str(file))
    await spawner.take_plan()
    assert stub.tokens == {f"token {TOKEN}"}
    stub.instead["/plan/launches"] = (500, "no")
    with pytest.raises(Refusal) as caught:
        await spawner.take_plan()
    shown = [str(caught.value), repr(caught.value), repr(spawner), repr(spawner.plan), caplog.text]
    assert not any(secret in text for text in shown for secret in (TOKEN, "index-token-of", "hub-token"))


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [(MaestroMixin, KubeSpawner), (MaestroLocalSpawner, Spawner)])
def test_nothing_private_of_ours_has_the_name_of_something_of_the_spawner_behind(ours: type, theirs: type) -> None:
    """The Hub keeps its own state in private attributes; a clash shows only when it uses one."""
    private = {name for name in vars(ours) if name.startswith("_") and not name.startswith("__")}
    inherited = set(dir(LoggingConfigurable))
    assert private & set(dir(theirs)) - inherited == set()


# -- sign-in ----------------------------------------------------------------------------------------------------------


def test_sign_in_of_a_named_server_is_nobody_elses() -> None:
    first = make_spawner("http://x", user="a", server="b-c")
    second = make_spawner("http://x", user="a-b", server="c")
    third = make_spawner("http://x", user="a-b-c", server="", oauth_client_id="jupyterhub-user-a-b-c")
    ids = {spawner.oauth_client_id for spawner in (first, second, third)}
    assert ids == {"jupyterhub-user-a!b-c", "jupyterhub-user-a-b!c", "jupyterhub-user-a-b-c"}


# -- the form -------------------------------------------------------------------------------------------------------


def request(query: Mapping[str, list[bytes]], method: str = "GET") -> Any:
    return SimpleNamespace(request=SimpleNamespace(method=method, query_arguments=query))


def field(html: str, name: str) -> str:
    found = BeautifulSoup(html, "html.parser").find(attrs={"name": name})
    assert found is not None, f"the form has no field {name}"
    return str(found.get("value", ""))


async def test_the_form_is_that_of_the_server_that_is_asked_for(url: str) -> None:
    html = await make_spawner(url).get_options_form()
    assert "demo" in html
    assert "experiment-of-demo" in html


async def test_the_form_keeps_what_was_chosen_last_time(url: str) -> None:
    spawner = make_spawner(url)
    spawner.user_options = {"resources": {"cpu": 0.5, "memory": "2Gi"}, "mlflow_experiment": "trial"}
    html = await spawner.get_options_form()
    assert field(html, "cpu") == "0.5"
    assert field(html, "mlflow_experiment") == "trial"


def test_the_hubs_home_page_knows_that_there_is_a_form(url: str) -> None:
    assert make_spawner(url).options_form, "else its button starts a server without showing one"


async def test_the_form_says_where_amounts_are_not_enforced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = make_spawner(url)
    assert "not enforced" not in await spawner.get_options_form()
    monkeypatch.setattr(TrialSpawner, "limits_note", lambda self: limits.NOT_ENFORCED)
    assert "not enforced on this machine" in await spawner.get_options_form()


async def test_a_link_fills_in_the_form_says_so_and_starts_nothing(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url)
    with pytest.raises(OnlyShown) as caught:
        spawner.options_from_query({"cpu": ["3"]})
    assert caught.value.status_code == 200
    assert format_exception(caught.value) == ("", None), "no red box: the form says it"
    spawner.handler = request({"opt-cpu": [b"3"], "opt-memory": [b"8Gi"], "_xsrf": [b"x"]})
    html = await spawner.get_options_form()
    assert field(html, "cpu") == "3"
    assert field(html, "memory") == "8Gi"
    assert "press Start" in html
    assert stub.questions("/plan/launches") == []


async def test_no_text_of_a_link_or_of_the_service_becomes_markup(stub: PlanServiceStub, url: str) -> None:
    evil = '"><script>alert(1)</script>'
    stub.instead["/plan/form"] = lambda question: (200, {**stub.form(question), "description": evil})
    spawner = make_spawner(url)
    spawner.handler = request({"cpu": [evil.encode()], "mlflow_experiment": [evil.encode()], "workspace": [b"{{7*7}}"]})
    html = await spawner.get_options_form()
    assert "<script>" not in html
    assert field(html, "cpu") == evil
    assert "49" not in html


async def test_a_service_that_does_not_answer_leaves_a_form_that_says_so_and_never_an_empty_one() -> None:
    html = await make_spawner("http://127.0.0.1:9").get_options_form()
    assert "does not answer, so nothing was started" in html  # an empty form would start the server
    assert BeautifulSoup(html, "html.parser").find(attrs={"name": "profile"}) is None


async def test_a_refused_workspace_has_its_sentence_on_the_form(stub: PlanServiceStub, url: str) -> None:
    sentence = "There is no workspace 'demo' that you belong to."
    stub.instead["/plan/form"] = (404, MaestroError("unknown_workspace", sentence).as_json())
    assert "There is no workspace &#39;demo&#39;" in await make_spawner(url).get_options_form()


async def test_after_a_failed_post_the_form_is_that_of_the_right_server_with_what_was_filled_in(url: str) -> None:
    """The Hub renders the unnamed server's form then, in the same task."""
    asked, unnamed = make_spawner(url), make_spawner(url, server="")
    unnamed.user = asked.user
    with pytest.raises(Refusal, match="'lots' is not an amount of memory"):
        asked.run_options_from_form({"memory": ["lots"], "cpu": ["2"], "_xsrf": ["x"]})
    html = await unnamed.get_options_form()
    assert "experiment-of-demo" in html
    assert field(html, "memory") == "lots"
    assert field(html, "cpu") == "2"


async def test_one_requests_form_is_not_anothers(url: str) -> None:
    async def post() -> None:
        with pytest.raises(Refusal):
            make_spawner(url).run_options_from_form({"memory": ["lots"]})

    await asyncio.create_task(post())
    assert "experiment-of-other" in await make_spawner(url, server="other").get_options_form()


def test_the_form_becomes_the_ask_of_the_api(url: str) -> None:
    options = make_spawner(url).run_options_from_form(
        {"profile": ["small"], "cpu": ["0.5"], "memory": ["2Gi"], "template": [""], "_xsrf": ["x"]}
    )
    assert options["profile"] == "small"
    assert options["resources"]["memory"] == 2 * 1024**3
    assert "template" not in options


async def test_user_options_are_applied_by_the_plan_alone(url: str, caplog: pytest.LogCaptureFixture) -> None:
    await make_spawner(url)._run_apply_user_options({"profile": "small"})
    assert "unhandled" not in caplog.text


# -- what the server is told ----------------------------------------------------------------------------------------


async def test_the_plans_variables_come_after_the_hubs_and_through_no_template(stub: PlanServiceStub, url: str) -> None:
    text = "{username} {0} {unknown} %s $HOME"
    stub.changes = {"environment": {"MLFLOW_EXPERIMENT_NAME": text, "GREETING": "plan"}, "default_url": "/lab/tree/{x}"}
    spawner = make_spawner(url, environment={"GREETING": "hub"})
    await spawner.take_plan()
    env = spawner.get_env()
    assert env["MLFLOW_EXPERIMENT_NAME"] == text
    assert env["GREETING"] == "plan"
    assert env["JUPYTERHUB_API_TOKEN"] == "hub-token"
    assert env["JUPYTERHUB_DEFAULT_URL"] == "/lab/tree/{x}"
    assert env["JUPYTERHUB_ROOT_DIR"] == "/workspace"
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["MEM_LIMIT"] == str(1024**3)


async def test_with_gpus_they_are_not_hidden(stub: PlanServiceStub, url: str) -> None:
    stub.changes = {"resources": {"cpu": 1, "memory": "1Gi", "gpu": 1}}
    spawner = make_spawner(url)
    await spawner.take_plan()
    assert "NVIDIA_VISIBLE_DEVICES" not in spawner.get_env()


async def test_a_plan_that_would_take_over_the_hubs_variables_starts_nothing(stub: PlanServiceStub, url: str) -> None:
    stub.changes = {"environment": {"JUPYTERHUB_API_TOKEN": "mine"}}
    spawner = make_spawner(url)
    with pytest.raises(Refusal, match="JUPYTERHUB_API_TOKEN"):
        await spawner.start()
    assert not spawner.alive


# -- confirm and release --------------------------------------------------------------------------------------------


async def test_a_server_is_confirmed_when_the_hub_finds_it_ready_and_released_when_it_stopped(
    stub: PlanServiceStub, url: str
) -> None:
    spawner = make_spawner(url)
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    await spawner.start()
    await asyncio.sleep(0.05)
    assert stub.running == set(), "it does not answer yet"
    spawner._spawn_future.set_result(None)
    await until(lambda: stub.running == {"launch-1"}, "confirmed")
    await spawner.stop()
    await spawner.run_post_stop_hook()
    assert stub.ended == {"launch-1": "stopped"}


async def test_a_start_that_fails_later_is_never_confirmed(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url)
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    await spawner.start()
    spawner._spawn_future.set_exception(TimeoutError())
    await asyncio.gather(*spawner._deliveries)
    await spawner.stop()
    await spawner.run_post_stop_hook()
    assert stub.running == set()
    assert set(stub.ended) == {"launch-1"}


async def test_a_refused_start_has_nothing_to_release(stub: PlanServiceStub, url: str) -> None:
    stub.instead["/plan/launches"] = (403, MaestroError("quota_exceeded", FULL).as_json())
    spawner = make_spawner(url)
    with pytest.raises(Refusal):
        await spawner.start()
    await spawner.run_post_stop_hook()
    assert stub.ended == {}


async def test_a_server_that_did_not_end_keeps_its_launch(stub: PlanServiceStub, url: str) -> None:
    spawner = make_spawner(url)
    await spawner.start()
    await spawner.run_post_stop_hook()
    assert stub.ended == {}


async def test_a_release_is_told_again_when_the_service_was_away(stub: PlanServiceStub, url: str) -> None:
    answers = iter([(502, ""), (502, "")])

    def away(question: Any) -> Any:
        answer = next(answers, None)
        if answer is None:
            del stub.instead["/plan/launches/launch-1/release"]
            return stub.answer("/plan/launches/launch-1/release", question)
        return answer

    stub.instead["/plan/launches/launch-1/release"] = away
    spawner = make_spawner(url)
    await spawner.start()
    await spawner.stop()
    await spawner.run_post_stop_hook()
    spawner.clear_state()
    await until(lambda: "launch-1" in stub.ended, "released")


async def test_an_admins_own_hook_still_runs_and_its_mistake_releases_the_launch_all_the_same(
    stub: PlanServiceStub, url: str
) -> None:
    called = []

    async def hook(spawner: Any) -> None:
        called.append(spawner.launch_id)
        raise RuntimeError("the hook's own")

    spawner = make_spawner(url, post_stop_hook=hook)
    await spawner.start()
    await spawner.stop()
    await spawner.run_post_stop_hook()
    assert called == ["launch-1"]
    assert set(stub.ended) == {"launch-1"}


async def test_a_hub_that_is_started_again_goes_on_with_the_launch(stub: PlanServiceStub, url: str) -> None:
    before = make_spawner(url)
    await before.start()
    after = make_spawner(url)
    after.load_state(before.get_state())
    assert after.launch_id == "launch-1"
    await after.run_post_stop_hook()
    assert stub.ended == {"launch-1": "stopped"}
    after.clear_state()
    assert "maestro_launch_id" not in after.get_state()


def test_a_state_of_somebody_else_is_not_trusted(url: str) -> None:
    spawner = make_spawner(url)
    spawner.load_state({"maestro_launch_id": "../../etc"})
    assert spawner.launch_id == ""


# -- progress -------------------------------------------------------------------------------------------------------


async def test_every_listener_hears_all_steps_in_order_and_then_the_spawners_own(url: str) -> None:
    spawner = make_spawner(url)

    async def listen() -> list[str]:
        return [event["message"] async for event in spawner.progress()]

    early = asyncio.create_task(listen())
    await spawner.take_plan()
    spawner.steps.finish()
    late = await listen()
    assert await early == late
    assert late[0] == "Checking quota"
    assert late[1].startswith("Admitted to demo as editor: 1 cpu, 1 GiB")
    assert late[-1] == "Spawning server..."


async def test_steps_that_are_over_keep_nobody_waiting() -> None:
    steps = Steps()
    steps.finish()
    assert [step async for step in steps.follow()] == []


# -- on one machine -------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


async def test_a_server_whose_port_another_process_took_did_not_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    """Servers share the machine's network: who took the port first would be shown to the user as their own server."""
    spawner = make_spawner(url, kind=MaestroLocalSpawner, state_dir=str(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        async def start_process(plan: LaunchPlan) -> None:
            spawner.port = other.getsockname()[1]
            spawner._processes = Processes(Process.of(sleeper.pid), popen=sleeper)

        monkeypatch.setattr(spawner, "_start_process", start_process)
        with pytest.raises(Refusal, match="Another process of this machine took the port of the server of demo"):
            await spawner.start()
        assert not spawner._came_up


async def test_the_log_of_a_server_that_runs_is_cut(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "LIMIT", 10)
    spawner = make_spawner(url, kind=MaestroLocalSpawner, state_dir=str(tmp_path))
    spawner._processes = Processes(Process.of(os.getpid()))
    os.close(server_log.begin(spawner._log_file()))
    spawner._log_file().write_text("more than ten")
    assert await spawner.poll() is None
    assert spawner._log_file().read_text() == ""


async def test_what_the_start_says_is_shown_once_and_only_what_it_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    shown = SimpleNamespace(_log_file=lambda: log, steps=Steps())
    tell = MaestroLocalSpawner._tell_what_it_says
    assert tell(shown, 0) == 0
    log.write_text("maestro-singleuser: installing 30 packages\nTraceback\nmaestro-singleuser: half a li")
    told = tell(shown, 0)
    assert tell(shown, told) == told == 2
    log.write_text(log.read_text() + "ne\n")
    assert tell(shown, told) == 3
    shown.steps.finish()
    assert [step["message"] async for step in shown.steps.follow()] == ["Installing 30 packages", "Half a line"]


async def test_a_hub_whose_loop_stood_still_asks_again_where_nothing_was_sent(
    stub: PlanServiceStub, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time to connect runs out although the service listens: fifty starts at once keep the loop busy."""
    real = aiohttp.ClientSession._request
    tries: list[str] = []

    async def late_at_first(client: aiohttp.ClientSession, method: str, path: Any, **options: Any) -> Any:
        tries.append(path)
        if len(tries) == 1:
            raise aiohttp.ConnectionTimeoutError
        return await real(client, method, path, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", late_at_first)
    service = PlanService(url, TOKEN, 5.0)
    question = PlanRequest(user=UserRef(name="ann", created="2026-01-01T00:00:00Z"), server_name="demo")
    plan = await service.reserve(question)
    await service.close()
    assert len(tries) == 2 and len(stub.questions("/plan/launches")) == 1
    assert plan.server_name == "demo"
