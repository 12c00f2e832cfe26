"""The conda environment of a workspace: versions at the service, two editors, the way back, and who may what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from maestro_core.conda_environments import CondaChange, LockedCondaPackage, check_spec, spec_name
from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.packages import Action, PackagePolicy, Rule, compile_policy, decide
from maestro_hub_services.workspaces.domain.conda_environments import _verdicts
from maestro_hub_services.workspaces.domain.packages import verdict_on
from tests.unit.test_environments import call, maestro
from tests.workspaces_kit import World, running_world

LINUX = "linux-64"


def file(name: str, version: str, channel: str = "conda-forge", digit: str = "0") -> dict[str, str]:
    more = {} if channel == "pypi" else {"build": "0", "sha256": digit * 64}
    return {"name": name, "version": version, "channel": channel, **more}


def built(*files: dict[str, str]) -> dict[str, Any]:
    return {"target": LINUX, "packages": list(files)}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        members = [{"user": "bob", "role": "editor"}, {"user": "eve", "role": "viewer"}]
        answer = await call(made, "ann", "POST", "/workspaces", {"name": "demo", "members": members})
        assert answer.status_code == 201, answer.text
        yield made


async def conda(world: World, method: str, path: str = "", body: Any = None, who: str = "ann") -> Any:
    answer = await call(world, who, method, f"/workspaces/demo/conda{path}", body)
    assert answer.is_success, answer.text
    return answer.json()


async def refused(world: World, method: str, path: str, body: Any = None, who: str = "ann") -> tuple[str, str]:
    answer = await call(world, who, method, f"/workspaces/demo/conda{path}", body)
    assert not answer.is_success
    return answer.json()["error"]["code"], answer.json()["error"]["message"]


class TestSpecs:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("numpy", "numpy"), ("numpy>=2,<3", "numpy"), ("Typing_Extensions =4.12", "typing-extensions"),
            ("numpy 1.26.* py312_0", "numpy"), ("pytorch::pytorch", "pytorch"), ("_libgcc_mutex", "_libgcc-mutex"),
            ("conda-forge/label/dev::numpy ==2.0|3.*", "numpy"), ("pypi::Rich[jupyter]<14", "pypi::rich"),
        ],
    )  # fmt: skip
    def test_a_spec_stands_under_its_name(self, text: str, name: str) -> None:
        assert spec_name(check_spec(text)) == name

    @pytest.mark.parametrize(
        "body",
        [
            {}, {"add": ["numpy[url=https://x/y.conda]"]}, {"add": ["pypi::x @ https://example.org/x.whl"]},
            {"add": ["numpy"], "remove": ["NumPy"]}, {"add": ["numpy"], "channels": ["https://example.org/ch"]},
            {"built": {"target": "elsewhere/..", "packages": []}},
            {"built": built(file("numpy", "2.0\n--index-url x"))},
            {"built": built(file("numpy", "2.0") | {"channel": "https://example.org/ch"})},
        ],
    )  # fmt: skip
    def test_what_leads_elsewhere_is_refused(self, body: dict[str, Any]) -> None:
        with pytest.raises(MaestroError):
            read_model(CondaChange, body)

    def test_a_lock_keeps_the_channels_spelling(self) -> None:
        found = LockedCondaPackage.model_validate(file("_openmp_mutex", "4.5"))
        assert (found.name, found.key) == ("_openmp_mutex", "_openmp-mutex")


class TestVersions:
    async def test_what_a_server_installs_is_the_next_ones_lock(self, world: World) -> None:
        assert (await conda(world, "GET", f"/build?target={LINUX}"))["version"] == 0
        files = [file("numpy", "2.1"), file("rich", "13.9", "pypi")]
        body = {"parent": 0, "add": ["numpy", "pypi::rich<14"], "channels": ["conda-forge"], "built": built(*files)}
        made = await conda(world, "POST", body=body)
        assert (made["kind"], made["version"], made["author"], made["settled"]) == ("conda", 1, "ann", True)
        build = await conda(world, "GET", f"/build?target={LINUX}", who="eve")
        assert build["complete"] and build["channels"] == ["conda-forge"]
        assert build["requirements"] == ["numpy", "pypi::rich<14"]
        assert [(it["name"], it["sha256"]) for it in build["packages"]] == [("numpy", "0" * 64), ("rich", "")]
        other = await conda(world, "GET", "/build?target=osx-arm64")
        assert not other["complete"] and other["packages"] == []
        again = await conda(world, "POST", body={"parent": 1, "built": built(*files)})
        assert again["version"] == 1, "the same files make no version"
        python = (await call(world, "ann", "GET", "/workspaces/demo/environment")).json()
        assert (python["kind"], python["version"]) == ("python", 0), "the two rows are counted apart"

    async def test_two_editors_additions_stand_beside_each_other(self, world: World) -> None:
        for who, name in (("ann", "numpy"), ("bob", "samtools")):
            body = {"parent": 0, "add": [name], "channels": [f"by-{who}"], "built": built(file(name, "1.0"))}
            await conda(world, "POST", body=body, who=who)
        build = await conda(world, "GET", f"/build?target={LINUX}")
        assert build["requirements"] == ["numpy", "samtools"] and build["channels"] == ["by-ann", "by-bob"]
        assert not build["complete"] and [it["name"] for it in build["packages"]] == ["numpy", "samtools"]
        settled = {"parent": 2, "built": built(file("numpy", "1.0"), file("samtools", "1.0"))}
        assert (await conda(world, "POST", body=settled))["version"] == 3
        assert (await conda(world, "GET", f"/build?target={LINUX}"))["complete"]
        code, message = await refused(world, "POST", "", {"parent": 1, "add": ["samtools ==2"]})
        assert code == "conflict"
        assert message.startswith("samtools: ann changed it to samtools in version 3 of the conda environment")

    async def test_history_difference_and_the_way_back(self, world: World) -> None:
        await conda(
            world, "POST", body={"add": ["numpy <2"], "built": built(file("numpy", "1.26")), "reason": "course"}
        )
        await conda(world, "POST", body={"add": ["numpy"], "built": built(file("numpy", "2.1", digit="1"))}, who="bob")
        difference = await conda(world, "GET", "/diff?from=1")
        assert difference["requirements"] == [{"name": "numpy", "before": "numpy <2", "after": "numpy"}]
        assert difference["packages"] == [{"name": "numpy", "before": "1.26", "after": "2.1"}]
        assert (await conda(world, "POST", "/rollback", {"version": 1}))["version"] == 3
        build = await conda(world, "GET", f"/build?target={LINUX}")
        assert build["complete"] and build["packages"] == [file("numpy", "1.26")]
        versions = (await conda(world, "GET", "/history"))["versions"]
        assert [(it["version"], it["reason"]) for it in versions] == [(3, "back to version 1"), (2, ""), (1, "course")]
        assert "has no version 9; the newest is 3" in (await refused(world, "GET", "?version=9"))[1]

        await call(world, "ann", "POST", "/workspaces/demo/environment", {"add": ["rich"]})
        shown = (await maestro(world, "packages", "demo", "--history"))[1]
        assert "python" in shown and "conda" in shown and "back to version 1" in shown
        assert "numpy <2" in (await maestro(world, "packages", "demo", "--conda"))[1]
        assert "numpy 1.26 -> 2.1" in (await maestro(world, "packages", "demo", "--conda", "--diff", "1", "2"))[1]
        code, told = await maestro(world, "packages", "demo", "--conda", "--rollback", "2")
        assert code == 0 and "Version 4 of the conda environment of demo: numpy." in told

    async def test_who_may_and_what_the_policy_says(self, world: World) -> None:
        await conda(world, "POST", body={"add": ["numpy"], "built": built(file("numpy", "2.1"))})
        for path, body in (("", {"add": ["rich"]}), ("/rollback", {"version": 1})):
            assert (await refused(world, "POST", path, body, who="eve"))[0] == "forbidden"
        rules = {"blocked_packages": ["requests", "rich>=14"], "trusted_channels": ["conda-forge"]}
        assert (await call(world, "ann", "PATCH", "/workspaces/demo", {"security": rules})).is_success
        for body, sentence in (
            (
                {"add": ["numpy"], "built": built(file("requests", "2"))},
                "requests is blocked by the policy of workspace",
            ),
            ({"add": ["bioconda::bwa"]}, "The channel bioconda is not trusted by the policy of workspace demo"),
            ({"add": ["pypi::rich==14"]}, "rich 14 is blocked by the policy of workspace demo (rule rich>=14)"),
        ):
            code, message = await refused(world, "POST", "", body)
            assert code == "package_blocked" and message.startswith(sentence), message

    async def test_reviewers_see_who_uses_it(self, world: World) -> None:
        await conda(world, "POST", body={"add": ["numpy"], "built": built(file("typing_extensions", "4.12"))})
        async with world.authority.store.read() as unit:
            place = await unit.workspaces.by_name("demo")
            assert place is not None
            for name in ("numpy", "typing-extensions"):
                assert await unit.environments.using(name) == [place.id]
            assert await unit.environments.using("pandas") == []


class TestWhatThePolicySays:
    """A spec is judged by what may come of it, the files by their versions."""

    def test_an_approved_range_is_installed_from_its_channel(self) -> None:
        approved = Rule(name="numpy", channel="conda-forge", specifier=">=2,<3", action=Action.ALLOW, level="global")
        strict = compile_policy(PackagePolicy(preset="strict"), decisions=[approved])
        for version, allowed in (("2.1", True), ("1.26", False)):
            body = {"add": ["conda-forge::numpy"], "built": built(file("numpy", version))}
            verdicts = [verdict.allowed for _, verdict in _verdicts(strict, read_model(CondaChange, body))]
            assert verdicts == [True, allowed]

    def test_a_rule_about_the_name_alone_opens_no_channel_that_only_the_workspace_names(self) -> None:
        own = PackagePolicy(trusted_channels=("elsewhere",), allowlist=({"package": "foo"},))
        policy = compile_policy(PackagePolicy(preset="open"), own, workspace_name="demo")
        for name in ("foo", "numpy"):
            assert verdict_on(policy, name, "", "elsewhere") == decide(policy, name, None, "elsewhere")
            assert not verdict_on(policy, name, "", "elsewhere").allowed
