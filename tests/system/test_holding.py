"""Quotas and reservations hold on the real parts: a race through the Hub, and a Hub, a service or a database that is
killed between reserving and running. On Postgres where there is one.

A reservation whose server does not come is gone within 30 s, and never while the server lives.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from maestro_spawner.machine import host
from tests.postgres import Postgres, binaries, running_postgres
from tests.system.house import Run, until
from tests.system.light import GIVE_UP_SECONDS, LightHouse
from tests.system.singleuser import NotebookServer, prefix

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(300),
    pytest.mark.skipif(host.bubblewrap_problem() is not None, reason=f"no sandbox: {host.bubblewrap_problem()}"),
    pytest.mark.skipif(
        not (prefix() / "bin/python").is_file(), reason="no single-user environment here: scripts/setup.py test"
    ),
]
#: what the issue gives a leaked reservation, once everything is there again
HELD_SECONDS = 30


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres | None]:
    programs = binaries()
    with ExitStack() as stack:
        yield None if programs is None else stack.enter_context(running_postgres(programs, durable=True))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres | None) -> Iterator[LightHouse]:
    runs: list[Run] = []

    def start(*arguments: str, state: Path, **environment: str) -> Run:
        runs.append(Run(state, *arguments, environment=environment))
        return runs[-1]

    store_db = "" if postgres is None else asyncio.run(postgres.database())
    try:
        yield LightHouse(start, tmp_path_factory.mktemp("light"), store_db)
    finally:
        for run in runs:
            run.stop()


def in_use(api: httpx.Client) -> list[dict[str, Any]]:
    """The person's launches that count."""
    answer = api.get("launches")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["launches"])


def stop_all(api: httpx.Client) -> None:
    for launch in in_use(api):
        api.delete(f"launches/{launch['session_id']}")
    until(lambda: not in_use(api), 30, "servers do not stop")


def status(api: httpx.Client, session: str) -> str:
    """reserved, running or ended; empty while nobody can tell."""
    try:
        answer = api.get(f"launches/{session}")
        return str(answer.json()["status"]) if answer.status_code == 200 else ""
    except (httpx.HTTPError, ValueError):
        return ""


class Late:
    """A server that a person has started and that waits to be let on: reserved, not confirmed."""

    def __init__(self, house: LightHouse, api: httpx.Client, server: str) -> None:
        self.house, self.api, self.server = house, api, server
        Thread(target=self._start, daemon=True).start()  # answered when the Hub finds it slow, and admitted at once
        launch = until(self._found, 20, f"{server} is not admitted")
        until(lambda: house.processes(server), 20, f"{server} has no process")
        self.session = launch["session_id"]
        assert launch["status"] == "reserved"
        self.workspace = api.get(f"workspaces/{launch['workspace']}").json()["workspace_id"]

    def _start(self) -> None:
        with suppress(httpx.HTTPError):  # somebody may be killed meanwhile
            self.api.post("launches", json={"workspace": "personal", "server_name": self.server})

    def _found(self) -> dict[str, Any] | None:
        return next((launch for launch in in_use(self.api) if launch["server_name"] == self.server), None)

    @property
    def status(self) -> str:
        return status(self.api, self.session)

    @property
    def alive(self) -> bool:
        """Whether a process of it lives."""
        return bool(self.house.processes(self.server))

    def open(self) -> None:
        self.house.open(self.workspace, self.server)

    def ends(self) -> None:
        """The reservation is gone in time, and nothing of the server is left then."""
        until(lambda: self.status == "ended", HELD_SECONDS, f"{self.server} still counts")
        assert not self.alive, f"the reservation of {self.server} is gone, and its server lives"


class TestARaceThroughTheHub:
    def test_fifty_starts_of_one_person_at_limit_three_admit_three(self, house: LightHouse) -> None:
        """By Maestro's API and by the Hub's own, at the same moment; the Hub has no limit of its own here."""
        token = house.token("rae")
        maestro, hub = house.api(token), house.hub(token)
        maestro.get("me")

        def start(number: int) -> httpx.Response:
            if number % 2:
                return maestro.post("launches", json={"workspace": "personal", "server_name": f"s{number}"})
            return hub.post(f"users/rae/servers/s{number}", json={"user_options": {"workspace": "personal"}})

        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(start, range(50)))
        try:
            refused = [answer.text for answer in answers if answer.status_code >= 400]
            assert all("max_concurrent_notebooks 3, set for everyone" in text for text in refused), refused
            early = sum(answer.status_code == 202 for answer in answers)  # a busy Hub: asked about later, refused then
            assert len(refused) + early >= 47, Counter(answer.status_code for answer in answers)
            until(lambda: sum(event.count for event in house.refusals("rae")) >= 47, 30, "not all are decided")
            events = house.refusals("rae")
            assert sum(event.count for event in events) == 47
            assert {event.fields["limit"] for event in events} == {"max_concurrent_notebooks"}
            assert len(in_use(maestro)) == 3
        finally:
            stop_all(maestro)

    def test_many_people_share_a_pool_in_several_workspaces_and_no_more(self, house: LightHouse) -> None:
        people = [f"crowd-{number}" for number in range(6)]
        apis = {name: house.api(house.token(name, "crowd")) for name in people}
        owner = apis[people[0]]
        for workspace in ("here", "there"):
            body = {"name": workspace, "members": [{"group": "crowd", "role": "editor"}]}
            assert owner.post("workspaces", json=body).status_code == 201
        asked = [(name, workspace) for name in people for workspace in ("here", "there", "personal")]

        def start(ask: tuple[str, str]) -> httpx.Response:
            return apis[ask[0]].post("launches", json={"workspace": ask[1]})

        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(start, asked))
        try:
            assert Counter(answer.status_code // 100 for answer in answers) == {2: 5, 4: 13}
            errors = [answer.json()["error"] for answer in answers if answer.status_code >= 400]
            assert {error["details"]["limit"] for error in errors} == {"max_cpu_total"}
            assert all("max_cpu_total 5, set for the pool of group crowd" in error["message"] for error in errors)
            events = house.refusals(*people)
            assert sum(event.count for event in events) == 13
            assert {event.fields["limit"] for event in events} == {"max_cpu_total"}
        finally:
            for api in apis.values():
                stop_all(api)


class TestAStartThatIsGivenUp:
    def test_by_its_user(self, house: LightHouse) -> None:
        api = house.api(house.token("cal"))
        late = Late(house, api, "late-away")
        assert api.delete(f"launches/{late.session}").is_success
        late.ends()

    def test_by_the_hub_because_it_never_comes_up(self, house: LightHouse) -> None:
        never = Late(house, house.api(house.token("cal")), "never-up")
        until(lambda: never.status == "ended", GIVE_UP_SECONDS + HELD_SECONDS, "it still counts")
        assert not never.alive


class TestIdleServers:
    def test_are_warned_and_stopped_unless_they_are_kept_or_work(self, house: LightHouse) -> None:
        """Three notebook servers of a profile that idles for one minute, so that the warning comes after half of it.

        They are looked at from outside: a request to a server is use of it.
        """
        token = house.token("ida", "many")
        api = house.api(token)
        ask = {"workspace": "personal", "profile": "brief"}
        names = ("real-kept", "real-busy", "real-idle")
        with ThreadPoolExecutor(len(names)) as pool:
            answers = list(pool.map(lambda name: api.post("launches", json=ask | {"server_name": name}), names))
        sessions = {name: answer.json()["session_id"] for name, answer in zip(names, answers, strict=True)}

        def launch(name: str) -> dict[str, Any]:
            return dict(api.get(f"launches/{sessions[name]}").json())

        def notebook(name: str) -> NotebookServer:
            return NotebookServer(f"{house.maestro.url}user/ida/{name}/", token=token)

        def warnings(name: str) -> list[str]:
            notices = notebook(name).api("GET", "maestro/notices").json()["notices"]
            return [notice["action"] for notice in notices if notice["kind"] == "cull"]

        until(lambda: all(launch(name)["status"] == "running" for name in names), 90, "they do not start")
        work = notebook("real-busy").open_notebook("work.ipynb").run("import time; time.sleep(600)")
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(work, 3))
        assert notebook("real-idle").api("GET", "api/status").is_success, "the last of them to be used"

        until(lambda: launch("real-kept")["ends_at"], 60, "nobody is warned")
        assert until(lambda: warnings("real-kept"), 10, "the notebook is not told") == ["keep"]
        assert notebook("real-kept").api("POST", "maestro/keep", json={}).is_success
        assert launch("real-kept")["ends_at"] is None
        assert until(lambda: not warnings("real-kept"), 10, "the notebook still shows it")

        until(lambda: launch("real-idle")["status"] == "ended", 75, "the idle one goes on")
        assert launch("real-idle")["ended_reason"] == "nobody used it for 1 minute"
        assert not house.processes("real-idle")
        for name in ("real-kept", "real-busy"):
            shown = launch(name)
            assert shown["status"] == "running", name
            end = shown["ends_at"] and datetime.fromisoformat(shown["ends_at"])
            assert end is None or end > datetime.now(UTC) + timedelta(seconds=10), f"{name} ends as well"
        stop_all(api)


class Outage:
    """One person's servers in every state, looked at through an outage of what holds their reservations.

    One runs; one waits, and comes up meanwhile; one waits, and its user gives it up meanwhile.
    """

    def __init__(self, house: LightHouse, user: str) -> None:
        self.user, self.token = user, house.token(user, "many")
        self.house, self.api = house, house.api(self.token)
        self.runs, self.comes, self.goes = (Late(house, self.api, f"late-{name}") for name in ("runs", "comes", "goes"))
        self.runs.open()
        until(lambda: self.runs.status == "running", 30, "it does not start")

    def meanwhile(self) -> None:
        """What happens while it is away: the Hub is there, and starts nothing that nobody decides on."""
        hub = self.house.hub(self.token)
        refused = hub.post(f"users/{self.user}/servers/other", json={"user_options": {"workspace": "personal"}})
        assert refused.status_code == 503, refused.text
        assert "does not answer, so nothing was started" in refused.json()["message"]
        self.comes.open()
        assert hub.delete(f"users/{self.user}/servers/{self.goes.server}").is_success
        until(lambda: not self.goes.alive, 30, "the Hub does not stop it")

    def over(self) -> None:
        """It is back: within the time each launch is what its server is."""
        self.goes.ends()
        until(lambda: self.comes.status == "running", HELD_SECONDS, "what came up is not confirmed")
        assert self.runs.status == "running"
        assert self.comes.alive and self.runs.alive
        stop_all(self.api)


class TestKillNine:
    def test_of_the_database(self, house: LightHouse, postgres: Postgres | None) -> None:
        if postgres is None:
            pytest.skip("no Postgres here, and sqlite is no process of its own")
        outage = Outage(house, "dan")
        postgres.kill()
        try:
            answer = outage.api.get("launches")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable"), answer.text
            outage.meanwhile()
        finally:
            postgres.start()
        outage.over()

    def test_of_the_service(self, house: LightHouse) -> None:
        """The Hub looks every 30 s whether it lives, and starts it again."""
        outage = Outage(house, "sue")
        house.service().send(signal.SIGKILL)
        outage.meanwhile()
        until(house.answers, 90, "the service does not come back")
        outage.over()

    def test_of_the_hub(self, house: LightHouse) -> None:
        api = house.api(house.token("hal", "many"))
        up = Late(house, api, "late-up")
        up.open()
        until(lambda: up.status == "running", 30, "it does not start")
        half = Late(house, api, "late-half")
        house.kill_hub()
        house.start_again()
        half.ends()
        assert up.status == "running" and up.alive
        stop_all(api)
