"""``maestro.yaml``: what it may say, how a mistake in it is told, and that the last good one stays in force."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maestro_core.errors import MaestroError
from maestro_core.policy import Policy, parse_policy
from maestro_core.resources import parse_memory
from maestro_hub_services.store import Store
from maestro_hub_services.workspaces.policy_file import PolicyFile
from tests.workspaces_kit import until

ROOT = Path(__file__).parents[2]
GOOD = "quotas:\n  everyone: {max_concurrent_notebooks: 3}\n"
OTHER = "quotas:\n  everyone: {max_concurrent_notebooks: 5}\n"


class TestTheText:
    def test_the_projects_own_has_the_figures_that_the_project_promises(self) -> None:
        policy = parse_policy((ROOT / "maestro.yaml").read_text())
        quota = policy.quotas.everyone
        assert quota.max_concurrent_notebooks == 3
        assert quota.max_cpu_per_notebook == 16
        assert quota.max_memory_per_notebook == parse_memory("64Gi")
        assert quota.max_gpu_per_notebook == 4
        assert quota.max_storage_per_workspace == parse_memory("100Gi")
        assert policy.profiles[0].name == "small"
        assert policy.profiles[-1].gpu_type == "nvidia-tesla-v100"

    def test_its_commented_examples_can_be_taken(self) -> None:
        """``#key:`` is an example and ``# Words`` are prose: without their ``#`` the examples are a good file too."""
        text = (ROOT / "maestro.yaml").read_text().replace("datasets: []\n", "")
        policy = parse_policy(re.sub(r"^( *)#(?=[^ \n])", r"\1", text, flags=re.MULTILINE))
        assert policy.quotas.users and policy.quotas.groups and policy.quotas.workspaces
        assert policy.datasets[0].claim == "dataset-weather"
        assert policy.packages.blocked_packages and policy.packages.index.upstream
        assert policy.profiles[-1].image
        assert policy.quotas.pools.everyone.max_gpu_total == 16
        assert policy.quotas.pools.groups["data-science"].max_gpu_hours_per_month == 1000
        assert {image.name for image in policy.images} == set(policy.profiles[1].allow.images)

    @pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "{}"])
    def test_an_empty_file_is_the_default(self, text: str) -> None:
        assert parse_policy(text) == Policy()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("quotas: [", "line 1"),
            ("a: 1\na: 2\n", "'a' stands twice"),
            ("profiles:\n  - {name: small}\n  - {name: small}\n", "'small' stands twice"),
            ("profiles: []\n", "at least one profile"),
            ("profiles: [{name: a, allow: {images: [r]}}]\n", "'a' allows the image 'r', which no entry of 'images'"),
            ("profiles: [{name: a, allow: {cpu: many}}]\n", "profiles.0.allow.cpu: 'many' is not an amount of cpu"),
            ("profiles: [{name: a, allow: {colour: red}}]\n", "known are cpu, memory, gpu, images"),
            ("profiles: [{name: a, idle: -1}]\n", "profiles.0.idle"),
            ("images: [{name: r, image: a}, {name: r, image: b}]\n", "the image name 'r' stands twice"),
            ("quotas: {pools: {everyone: {max_cpu_per_notebook: 1}}}\n", "quotas.pools.everyone.max_cpu_per_notebook"),
            (
                "quotas: {pools: {groups: {ml: {max_memory_total: x}}}}\n",
                "quotas.pools.groups.ml.max_memory_total: 'x'",
            ),
            ("quotas: {everyone: {max_gpu_hours_per_month: lots}}\n", "quotas.everyone.max_gpu_hours_per_month"),
            ("profiles: 3\nquotas: {everyone: {max_cpu_per_notebook: lots}}\n", "quotas.everyone.max_cpu"),
            ("quotas:\n  everyone: {max_cpu_per_notebook: lots}\n", "quotas.everyone.max_cpu_per_notebook: 'lots'"),
            ("quotas:\n  groups:\n    team: {max_memory_per_notebook: 3Xi}\n", "quotas.groups.team.max_memory"),
            ("quotas:\n  everyone: {max_servers: 3}\n", "quotas.everyone.max_servers"),
            ("quotas:\n  everyone: {max_concurrent_notebooks: -1}\n", "max_concurrent_notebooks"),
            ("profiles:\n  - {name: Big}\n", "profiles.0.name: 'Big'"),
            ("profiles:\n  - {name: small, cpu: 0}\n", "profiles.0.cpu: '0'"),
            ("profiles:\n  - {cpu: 1}\n", "profiles.0.name"),
            ("datasets:\n  - {name: d, path: relative}\n", "datasets.0.path"),
            ("- a list\n", "holds no sections"),
            ("? [a]\n: 1\n", "no plain word"),
            ("!!python/object/apply:os.system [id]\n", "line 1"),
            ("x: " + "[" * 5000, "maestro.yaml"),
            ("a: &a [1]\nb: " + "[" + "*a," * 10 + "]\n", "no such setting"),
            ("#" * (1024 * 1024 + 1), "larger than 1 MiB"),
        ],
    )
    def test_a_mistake_is_one_sentence_that_names_the_place(self, text: str, said: str) -> None:
        with pytest.raises(MaestroError) as caught:
            parse_policy(text)
        assert caught.value.code == "invalid_policy"
        assert said in caught.value.message and "\n" not in caught.value.message
        assert caught.value.message.startswith("maestro.yaml")

    def test_a_revision_is_of_the_content(self) -> None:
        assert parse_policy(GOOD).revision == parse_policy("# the same\n" + GOOD).revision
        assert parse_policy(GOOD).revision != parse_policy(OTHER).revision


def put(path: Path, content: str | bytes | None) -> None:
    """What an admin's editor does; None removes the file."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class TestTheFile:
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'maestro.sqlite'}")
        yield store
        await store.close()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "maestro.yaml"
        put(path, GOOD)
        return path

    def file(self, path: Path) -> PolicyFile:
        return PolicyFile(path, path.with_name("kept.yaml"))

    async def events(self, store: Store) -> list[str]:
        async with store.read() as unit:
            return [event.kind for event in await unit.events.latest()][::-1]

    async def test_a_changed_file_is_in_force_by_itself(
        self, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("maestro_hub_services.workspaces.policy_file.INTERVAL", 0.01)
        file = self.file(path)
        await file.reload(store)
        watching = asyncio.create_task(file.watch(store))
        try:
            put(path, OTHER)

            async def noted() -> bool:
                return await self.events(store) == ["policy_loaded", "policy_loaded"]

            await until(noted, "the change is not seen")
        finally:
            watching.cancel()
        assert file.current.quotas.everyone.max_concurrent_notebooks == 5

    async def test_a_mistake_leaves_the_last_good_one_and_is_shown_and_noted_once(
        self, store: Store, path: Path
    ) -> None:
        file = self.file(path)
        await file.reload(store)
        put(path, "quotas: {everyone: {max_cpu_per_notebook: lots}}\n")
        await file.reload(store)
        await file.reload(store)
        assert file.current.quotas.everyone.max_concurrent_notebooks == 3
        assert file.problem is not None and "max_cpu_per_notebook" in file.problem.message
        put(path, OTHER)
        await file.reload(store)
        assert file.problem is None and file.current.quotas.everyone.max_concurrent_notebooks == 5
        assert await self.events(store) == ["policy_loaded", "policy_refused", "policy_loaded"]

    async def test_a_removed_file_leaves_the_last_good_one(self, store: Store, path: Path) -> None:
        file = self.file(path)
        await file.reload(store)
        put(path, None)
        await file.reload(store)
        assert file.current.quotas.everyone.max_concurrent_notebooks == 3
        assert file.problem is not None and "cannot be read" in file.problem.message
        put(path, GOOD)
        await file.reload(store)
        assert file.problem is None

    async def test_the_last_good_one_is_in_force_after_a_new_start_too(self, store: Store, path: Path) -> None:
        await self.file(path).reload(store)
        put(path, "quotas: [")
        again = self.file(path)
        await again.reload(store)
        assert again.current.quotas.everyone.max_concurrent_notebooks == 3
        assert again.problem is not None and "line 1" in again.problem.message

    async def test_the_services_environment_stands_over_the_file(self, store: Store, path: Path) -> None:
        kept = path.with_name("kept.yaml")
        file = PolicyFile(path, kept, {"FETCHML_JUPYTER_BLOCKED_PACKAGES": "aiohttp"})
        await file.reload(store)
        assert [spec.package for spec in file.current.packages.blocked_packages or ()] == ["aiohttp"]
        mistaken = PolicyFile(path, kept, {"FETCHML_JUPYTER_BLOCKED_PACKAGES": "numpy=1"})
        await mistaken.reload(store)
        with pytest.raises(MaestroError, match="FETCHML_JUPYTER_BLOCKED_PACKAGES: 'numpy=1' is no rule"):
            _ = mistaken.current

    async def test_without_any_good_one_nothing_is_in_force(self, store: Store, path: Path) -> None:
        put(path, b"\xff\xfe")
        file = self.file(path)
        await file.reload(store)
        with pytest.raises(MaestroError, match="not UTF-8"):
            _ = file.current
