"""The decision: who may start what where, and that no number of askers at the same moment gets past a limit."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan, LaunchRequest, LaunchStatus, PlanRequest
from maestro_core.names import label_value, personal_workspace_name
from maestro_core.roles import Role
from maestro_core.workspaces import UserRef
from maestro_hub_services.workspaces.app import open_authority
from maestro_hub_services.workspaces.authority import Authority
from maestro_hub_services.workspaces.domain import admission, launching
from tests.workspaces_kit import CREATED, POLICY_TEXT, ask, notebook, settings_for, user

ANN, BOB, EVE = user("ann"), user("bob"), user("eve")
DATASETS = """
datasets:
  - {{name: open, path: {path}}}
  - {{name: closed, path: {path}, groups: [doctors]}}
  - {{name: away, path: /no/such/directory}}
"""


@pytest.fixture
async def authority(tmp_path: Path, database_url: str) -> AsyncIterator[Authority]:
    policy = POLICY_TEXT + DATASETS.format(path=tmp_path)
    async with open_authority(settings_for(tmp_path / "state", policy=policy, store_db=database_url)) as made:
        yield made


async def make(authority: Authority, name: str = "demo", **members: Role) -> str:
    async with authority.store.write() as unit:
        row = await unit.workspaces.add(name, "ann")
        for member, role in members.items():
            kind = "group" if member.startswith("g_") else "user"
            created = CREATED if kind == "user" else ""
            await unit.members.put(row.id, kind, member.removeprefix("g_"), created, role, "ann")
        return row.id


async def plan(authority: Authority, who: UserRef, server: str = "", **options: Any) -> LaunchPlan:
    return await admission.plan(authority, ask(who, server, **options))


async def refused(authority: Authority, who: UserRef, server: str = "", **options: Any) -> MaestroError:
    """The refusal; its event is the last one."""
    with pytest.raises(MaestroError) as caught:
        await plan(authority, who, server, **options)
    async with authority.store.read() as unit:
        (event,) = await unit.events.latest(limit=1)
    assert event.kind == "launch_refused"
    assert (event.user, event.fields["code"], event.fields["message"]) == (
        who.name,
        caught.value.code,
        caught.value.message,
    )
    return caught.value


async def active(authority: Authority) -> int:
    async with authority.store.read() as unit:
        return len(await unit.launches.active())


class TestWhere:
    async def test_the_unnamed_server_opens_the_personal_workspace(self, authority: Authority) -> None:
        made = await plan(authority, ANN)
        assert made.workspace.name == personal_workspace_name("ann", CREATED)
        assert (made.role, made.read_only, made.profile, made.default_url) == (Role.OWNER, False, "small", "/lab")

    async def test_a_named_one_the_workspace_of_its_name(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER)
        assert (await plan(authority, ANN, "demo")).workspace.name == "demo"

    async def test_a_second_one_is_told_its_workspace(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER)
        assert (await plan(authority, ANN, "more", workspace="demo")).workspace.name == "demo"
        assert (await plan(authority, ANN, "own", workspace="personal")).workspace.name.startswith("u-ann-")

    async def test_a_servers_name_does_not_lie_about_the_workspace(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER)
        await make(authority, "other", ann=Role.OWNER)
        assert (await refused(authority, ANN, "demo", workspace="other")).code == "conflict"
        assert (await refused(authority, ANN, "", workspace="demo")).code == "conflict"

    async def test_none_and_one_of_others_are_told_alike(self, authority: Authority) -> None:
        await make(authority, "secret", ann=Role.OWNER)
        foreign, missing = await refused(authority, EVE, "secret"), await refused(authority, EVE, "sxcret")
        assert foreign.code == missing.code == "unknown_workspace"
        assert foreign.message.replace("secret", "sxcret") == missing.message

    @pytest.mark.parametrize("options", [{"server": ""}, {"server": "more"}, {"server": "mine"}, {"server": "NAME"}])
    async def test_nor_does_a_servers_name_tell_them_apart(self, authority: Authority, options: dict[str, str]) -> None:
        """Whatever the server is called, also like a workspace of the asker's own."""
        await make(authority, "secret", ann=Role.OWNER)
        await make(authority, "mine", eve=Role.OWNER)
        told = []
        for name in ("secret", "sxcret"):
            server = options["server"].replace("NAME", name)
            told.append((await refused(authority, EVE, server, workspace=name)).message.replace(name, "NAME"))
        assert told[0] == told[1]

    async def test_a_server_may_be_called_like_what_others_have(self, authority: Authority) -> None:
        """A refusal would say that there is such a workspace."""
        await make(authority, "secret", ann=Role.OWNER)
        await make(authority, "mine", eve=Role.OWNER)
        assert (await plan(authority, EVE, "secret", workspace="mine")).workspace.name == "mine"

    async def test_a_notebooks_token_is_told_alike_of_none_and_of_one_of_others(self, authority: Authority) -> None:
        await make(authority, "secret", ann=Role.OWNER)
        told = []
        for name in ("secret", "sxcret"):
            with pytest.raises(MaestroError) as caught:
                await launching.start_launch(authority, notebook(EVE, ""), LaunchRequest(workspace=name))
            told.append((caught.value.code, caught.value.message.replace(name, "NAME")))
        assert told[0] == told[1] and "its own workspace only" in told[0][1]

    async def test_the_personal_workspace_of_somebody_else_is_one_of_others(self, authority: Authority) -> None:
        name = (await plan(authority, ANN)).workspace.name
        assert (await refused(authority, EVE, "mine", workspace=name)).code == "unknown_workspace"

    async def test_an_archived_one_takes_no_launches(self, authority: Authority) -> None:
        workspace_id = await make(authority, ann=Role.OWNER)
        async with authority.store.write() as unit:
            await unit.workspaces.archive(workspace_id, "ann")
        assert (await refused(authority, ANN, "demo")).code == "conflict"
        assert (await refused(authority, EVE, "demo")).code == "unknown_workspace"

    async def test_a_recreated_user_is_nobody(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER)
        again = user("ann", created="2027-01-01T00:00:00Z")
        assert (await refused(authority, again, "demo")).code == "unknown_workspace"
        assert (await plan(authority, again)).workspace.name != personal_workspace_name("ann", CREATED)

    async def test_a_hub_admin_is_no_member_by_that(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER)
        assert (await refused(authority, user("root", admin=True), "demo")).code == "unknown_workspace"


class TestThePlan:
    async def test_a_viewer_reads_and_writes_only_at_home(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER, eve=Role.VIEWER)
        made = await plan(authority, EVE, "demo", template="data-exploration", mlflow_experiment="mine")
        mounts = {mount.name: mount for mount in made.mounts}
        assert mounts["workspace"].read_only and not mounts["home"].read_only and made.read_only
        personal = personal_workspace_name("eve", CREATED)
        assert made.environment["MLFLOW_WORKSPACE"] == personal
        assert made.environment["MLFLOW_EXPERIMENT_NAME"] == "from-demo"
        assert made.environment["MAESTRO_TEMPLATE"] == "" and made.default_url == "/lab"

    async def test_an_editor_writes(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER, bob=Role.EDITOR)
        made = await plan(authority, BOB, "demo", template="start-here", mlflow_experiment="churn")
        assert not made.read_only
        assert made.environment["MLFLOW_WORKSPACE"] == made.environment["MAESTRO_WORKSPACE"] == "demo"
        assert made.environment["MLFLOW_EXPERIMENT_NAME"] == "churn"
        assert made.default_url == "/lab/tree/Start%20here.ipynb"

    async def test_a_group_gives_the_role_of_the_moment(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER, g_team=Role.EDITOR, eve=Role.VIEWER)
        assert (await plan(authority, user("eve", "team"), "demo")).role is Role.EDITOR
        assert (await plan(authority, EVE, "demo")).role is Role.VIEWER

    async def test_its_directories_are_there_and_nobody_elses(self, authority: Authority) -> None:
        await make(authority, ann=Role.OWNER, bob=Role.EDITOR)
        plans = [await plan(authority, who, "demo") for who in (ANN, BOB)]
        sources = [{mount.name: Path(mount.source) for mount in made.mounts} for made in plans]
        assert sources[0]["workspace"] == sources[1]["workspace"]
        assert sources[0]["home"] != sources[1]["home"]
        assert all(path.is_dir() for source in sources for path in source.values())
        assert sources[0]["workspace"].stat().st_mode & 0o077 == 0

    async def test_datasets_are_read_only_for_those_who_may_see_them(self, authority: Authority) -> None:
        plain, doctor = await plan(authority, ANN), await plan(authority, user("bob", "doctors"))
        seen = [
            {m.target: m.read_only for m in made.mounts if m.target.startswith("/datasets")} for made in (plain, doctor)
        ]
        assert seen == [{"/datasets/open": True}, {"/datasets/open": True, "/datasets/closed": True}]

    async def test_labels_are_slugs_and_the_token_is_not_shown(self, authority: Authority) -> None:
        made = await plan(authority, user("john@example.org"))
        assert made.labels["maestro.user"] == label_value("john@example.org") != "john@example.org"
        assert made.index_token not in repr(made) and "_" not in made.index_token
        async with authority.store.read() as unit:
            row = await unit.launches.get(made.launch_id)
        assert row is not None and row.token_mac and made.index_token not in row.token_mac

    @pytest.mark.parametrize(("part", "does"), [("volumes", "ensure"), ("network", "hold")])
    async def test_no_volume_or_an_open_network_takes_the_reservation_back(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch, part: str, does: str
    ) -> None:
        async def fail(*_: Any) -> None:
            raise MaestroError("start_failed", "It cannot be made.")

        monkeypatch.setattr(getattr(authority, part), does, fail)
        with pytest.raises(MaestroError, match="It cannot be made"):
            await plan(authority, ANN)
        assert await active(authority) == 0


class TestLimits:
    async def test_what_starts_anew_takes_its_own_place(self, authority: Authority) -> None:
        """The Hub starts a server again only when it is gone: what is left of it here is a leak."""
        for name in ("a", "b"):
            await plan(authority, ANN, name, workspace="personal")
        first = await plan(authority, ANN)
        second = await plan(authority, ANN)
        assert await active(authority) == 3
        async with authority.store.read() as unit:
            ended = await unit.launches.get(first.launch_id)
        assert ended is not None and ended.ended_reason == "started anew" and second.launch_id != first.launch_id

    async def test_a_release_makes_room_at_once(self, authority: Authority) -> None:
        plans = [await plan(authority, ANN, name, workspace="personal") for name in ("a", "b", "c")]
        refusal = await refused(authority, ANN)
        assert refusal.code == "quota_exceeded" and "3 of 3 servers" in refusal.message
        await admission.release(authority, plans[0].launch_id, "stopped")
        await plan(authority, ANN)

    async def test_a_workspaces_own_limit_counts_everybody_there(self, tmp_path: Path) -> None:
        policy = POLICY_TEXT + "  workspaces: {demo: {max_concurrent_notebooks: 2}}\n"
        async with open_authority(settings_for(tmp_path / "other", policy=policy)) as authority:
            await make(authority, ann=Role.OWNER, bob=Role.EDITOR, eve=Role.VIEWER)
            await plan(authority, ANN, "demo")
            await plan(authority, BOB, "demo")
            refusal = await refused(authority, EVE, "demo")
            assert refusal.details["source"] == "workspace demo" and refusal.details["in_use"] == 2
            await plan(authority, EVE)  # elsewhere there is room

    async def test_fifty_at_once_at_limit_three_admit_exactly_three(self, authority: Authority) -> None:
        outcomes = await asyncio.gather(
            *(plan(authority, ANN, f"s{number}", workspace="personal") for number in range(50)), return_exceptions=True
        )
        admitted = [one for one in outcomes if isinstance(one, LaunchPlan)]
        refusals = [one for one in outcomes if isinstance(one, MaestroError)]
        assert (len(admitted), len(refusals)) == (3, 47)
        assert {one.details["limit"] for one in refusals} == {"max_concurrent_notebooks"}
        async with authority.store.read() as unit:
            events = await unit.events.latest(limit=200)
        kinds: Counter[str] = Counter()
        for event in events:
            kinds[event.kind] += event.count
        assert (kinds["launch_reserved"], kinds["launch_refused"]) == (3, 47)

    async def test_many_people_at_once_in_a_limited_workspace(self, tmp_path: Path, database_url: str) -> None:
        policy = POLICY_TEXT + "  workspaces: {demo: {max_concurrent_notebooks: 8}}\n"
        async with open_authority(settings_for(tmp_path / "other", policy=policy, store_db=database_url)) as authority:
            await make(authority, ann=Role.OWNER, g_team=Role.EDITOR)
            people = [user(f"p{number}", "team") for number in range(40)]
            outcomes = await asyncio.gather(*(plan(authority, who, "demo") for who in people), return_exceptions=True)
            assert sum(isinstance(one, LaunchPlan) for one in outcomes) == 8


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["{username}", "{{7*7}}", "../..", "--flag", "a\nb", "dеmo", "x" * 10_000, "\x00", "null", "-"]),
    st.none(),
    st.integers(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
KEYS = st.sampled_from(["workspace", "profile", "resources", "template", "mlflow_experiment", "image", "git_repo", "x"])


class TestUntrusted:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(options=st.dictionaries(KEYS, HOSTILE, max_size=4), server=st.text(max_size=30))
    def test_whatever_is_asked_is_a_plan_or_a_sentence(
        self, shared: Shared, options: dict[str, Any], server: str
    ) -> None:
        outcome = shared.plan(PlanRequest(user=ANN, server_name=server, ask=options))
        if isinstance(outcome, MaestroError):
            assert outcome.code != "internal" and len(outcome.message) < 1000 and outcome.message.isprintable()
        else:
            assert outcome.user == "ann" and outcome.workspace.name.startswith("u-ann-")
            shared.release(outcome)


class Shared:
    """One service for many examples, in a loop of its own."""

    def __init__(self, state: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = open_authority(settings_for(state))
        self.authority = self.loop.run_until_complete(self._context.__aenter__())

    def plan(self, request: PlanRequest) -> LaunchPlan | MaestroError:
        try:
            return self.loop.run_until_complete(admission.plan(self.authority, request))
        except MaestroError as error:
            return error

    def release(self, made: LaunchPlan) -> None:
        self.loop.run_until_complete(admission.release(self.authority, made.launch_id, "done"))

    def close(self) -> None:
        self.loop.run_until_complete(self._context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Shared(tmp_path_factory.mktemp("shared"))
    yield made
    made.close()


WALKERS = itertools.count()


class TestInterleavings:
    """Asks, confirmations and ends in any order, against a model that counts on its fingers."""

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32), steps=st.integers(5, 40))
    def test_the_count_is_right_after_every_step(self, shared: Shared, seed: int, steps: int) -> None:
        shared.loop.run_until_complete(self._walk(shared.authority, random.Random(seed), steps))

    async def _walk(self, authority: Authority, dice: random.Random, steps: int) -> None:
        who = user(f"walker{next(WALKERS)}")  # a new one, also when an example is repeated
        alive: dict[str, str] = {}  # server -> launch
        known: list[str] = []
        for _ in range(steps):
            server = dice.choice("abcde")
            move = dice.choice(["ask", "ask", "confirm", "end"])
            if move == "ask":
                fits = server in alive or len(alive) < 3
                try:
                    made = await plan(authority, who, server, workspace="personal")
                    assert fits, f"{server} was admitted beside {sorted(alive)}"
                    alive[server] = made.launch_id
                    known.append(made.launch_id)
                except MaestroError as error:
                    assert error.code == "quota_exceeded" and not fits
            elif known:
                launch_id = dice.choice(known)
                living = launch_id in alive.values()
                if move == "end":
                    await admission.release(authority, launch_id, "stopped")
                    alive = {name: one for name, one in alive.items() if one != launch_id}
                else:
                    try:
                        row = await admission.confirm(authority, launch_id)
                        assert living and row.status is LaunchStatus.RUNNING
                    except MaestroError as error:
                        assert error.code == "conflict" and not living
            async with authority.store.read() as unit:
                rows = await unit.launches.active_of(who.name, who.created)
            assert {row.server_name: row.id for row in rows} == alive and len(alive) <= 3
