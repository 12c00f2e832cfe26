"""The conda side of the package index: its answers against a channel on loopback, and repodata against a slow model."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from maestro_core.packages import PackagePolicy, compile_policy, decide
from maestro_hub_services.packages.app import make_app
from maestro_hub_services.packages.authority import Authority
from maestro_hub_services.packages.conda import condarc, places, repodata, worker
from maestro_hub_services.packages.conda.catalog import find, make_plan
from maestro_hub_services.packages.conda.condarc import CondaConfig, read_conda_config, read_condarc
from maestro_hub_services.packages.index import Index
from maestro_hub_services.packages.masking import masked
from maestro_hub_services.packages.pip_config import PipConfig
from tests import conda_kit, package_kit

PREFIX = "/services/packages/"
FORGE = "conda-forge"


class Room:
    """The index, its channels, and a client."""

    def __init__(self, channels: conda_kit.Channels, authority: package_kit.Authority, state: Path) -> None:
        self.channels, self.authority, self.state = channels, authority, state
        self.now = 1000.0
        self.client: httpx.AsyncClient  # of the index that is open

    def rule(self, **section: Any) -> None:
        """Put a policy in force, and let the seconds pass until the index asks for it."""
        section["index"] = {"channel_alias": self.channels.url, **section.get("index", {})}
        self.authority.rule(**section)
        self.now += 6

    async def get(self, path: str, token: str = "alive", method: str = "GET", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, f"{PREFIX}conda/t/{token}/{path}", headers=sent)

    async def document(self, folder: str = f"{FORGE}/noarch") -> dict[str, Any]:
        """The repodata of a folder, of which both forms say the same."""
        packed, plain = await self.get(f"{folder}/repodata.json.zst"), await self.get(f"{folder}/repodata.json")
        assert packed.status_code == plain.status_code == 200, packed.text
        assert zstandard.decompress(packed.content) == plain.content
        assert int(plain.headers["content-length"]) == len(plain.content)
        return dict(plain.json())

    async def records(self, folder: str = f"{FORGE}/noarch") -> dict[str, dict[str, Any]]:
        document = await self.document(folder)
        return {**document["packages"], **document["packages.conda"]}


@asynccontextmanager
async def opened(room: Room, config: CondaConfig | None = None) -> AsyncIterator[Index]:
    async def pip() -> PipConfig:
        return PipConfig()

    async def conda() -> CondaConfig:
        return config or CondaConfig()

    authority = Authority(room.authority.url, package_kit.SERVICE_TOKEN, lambda: room.now)
    index = Index(authority, room.state / "packages", PREFIX, pip, conda)
    await index.open()
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(make_app(index))
    server.add_sockets(sockets)
    room.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{sockets[0].getsockname()[1]}", trust_env=False)
    try:
        yield index
    finally:
        await room.client.aclose()
        server.stop()
        await server.close_all_connections()
        await index.close()


@pytest.fixture
def servers() -> Iterator[tuple[conda_kit.Channels, package_kit.Authority]]:
    channels = conda_kit.Channels()
    with (
        package_kit.upstream_and_authority() as (_, authority),
        package_kit.running((channels.app(), lambda port: setattr(channels, "port", port))),
    ):
        yield channels, authority


@pytest.fixture
async def room(servers: tuple[conda_kit.Channels, package_kit.Authority], tmp_path: Path) -> AsyncIterator[Room]:
    """The index with an open policy; ``alive`` is the token of a launch in the workspace ``demo``."""
    room = Room(*servers, tmp_path)
    room.rule()
    async with opened(room):
        yield room


class TestRepodata:
    async def test_it_says_what_upstream_says_in_both_forms(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        record = room.channels.document(FORGE)["packages.conda"][filename]
        record["of_the_future"] = {"kept": [1, None]}
        document = await room.document()
        assert document["packages.conda"] == {filename: record}
        assert document["info"] == {"subdir": "noarch"}

    async def test_what_could_list_packages_past_the_policy_is_not_shown(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        upstream = room.channels.document(FORGE)
        upstream["info"] |= {"base_url": f"{room.channels.url}{FORGE}/noarch", "channel_relations": {"base": "../x"}}
        upstream["packages.whl"] = {"evil-1-0.whl": {"name": "evil", "url": "http://elsewhere/evil.whl"}}
        upstream["packages.conda"][filename]["url"] = "http://elsewhere/numpy.conda"
        digest = {"sha256": "0" * 64}
        upstream["packages.conda"] |= {
            "good-1-0.conda": conda_kit.index_json("evil", "1") | digest,
            "g\u043e\u043ed-1-0.conda": conda_kit.index_json("g\u043e\u043ed", "1") | digest,
            "unverified-1-0.conda": conda_kit.index_json("unverified", "1"),
        }
        document = await room.document()
        assert set(document) == {"info", "packages", "packages.conda", "removed", "repodata_version"}
        assert document["info"] == {"subdir": "noarch"}
        assert list(document["packages.conda"]) == [filename]
        assert "url" not in document["packages.conda"][filename]

    async def test_a_kept_copy_is_asked_about_and_not_sent_again(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        path = f"{FORGE}/noarch/repodata.json.zst"
        first = await room.get(path)
        again = await room.get(path, If_None_Match=first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        room.rule(blocked_packages=["numpy>=2"])
        changed = await room.get(path, If_None_Match=first.headers["etag"])
        assert changed.status_code == 200
        assert changed.headers["etag"] != first.headers["etag"]
        head = await room.get(path, method="HEAD")
        assert (head.headers["content-length"], head.content) == (changed.headers["content-length"], b"")

    @pytest.mark.parametrize(
        "name",
        ["current_repodata.json", "repodata_shards.msgpack.zst", "repodata.json.bz2", "repodata.jlap",
         "run_exports.json.zst", "%2e%2e%2fsecret", "index.html"],
    )  # fmt: skip
    async def test_other_forms_are_not_here_so_that_clients_take_these(self, room: Room, name: str) -> None:
        room.channels.add("numpy", "2.1")
        answer = await room.get(f"{FORGE}/noarch/{name}")
        assert (answer.status_code, answer.headers["content-type"][:10]) == (404, "text/plain")
        assert answer.content

    async def test_unknown_channels_and_folders(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        for path in (f"{FORGE}/win-64", "nvidia/noarch", "pypi/noarch", f"{FORGE}/Linux", FORGE, "x"):
            answer = await room.get(f"{path}/repodata.json.zst")
            assert (answer.status_code, answer.headers["content-type"][:10]) == (404, "text/plain"), path

    async def test_upstream_that_has_only_plain_json(self, room: Room) -> None:
        room.channels.forms = ("repodata.json",)
        room.channels.add("numpy", "2.1")
        assert list(await room.records()) == ["numpy-2.1-0.conda"]

    @pytest.mark.parametrize("content", [b"no json", b'{"packages": 1}', b"[]"])
    async def test_what_is_no_repodata_is_refused_with_a_sentence(self, room: Room, content: bytes) -> None:
        room.channels.files[f"/{FORGE}/noarch/repodata.json.zst"] = zstandard.compress(content)
        answer = await room.get(f"{FORGE}/noarch/repodata.json.zst")
        assert (answer.status_code, "cannot be read" in answer.json()["message"]) == (502, True)

    async def test_a_large_one_is_read_in_a_process_of_its_own(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "SMALL_BYTES", 0)
        old, new = room.channels.add("numpy", "1.26"), room.channels.add("numpy", "2.1")
        room.rule(blocked_packages=["numpy>=2"])
        records = await room.records()
        assert (records[old]["depends"], len(records[new]["depends"])) == ([], 1)
        room.channels.files[f"/{FORGE}/linux-64/repodata.json.zst"] = b"broken"
        assert "it is no zstd file" in (await room.get(f"{FORGE}/linux-64/repodata.json.zst")).json()["message"]

    async def test_what_unpacks_to_a_lot_is_not_read_in_the_service(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, Any]] = []

        async def in_process(task: dict[str, Any]) -> dict[str, Any]:
            asked.append(task)
            return {"error": "it is larger than 2 GiB unpacked"}

        monkeypatch.setattr(worker, "_in_process", in_process)
        bomb = zstandard.compress(b" " * (worker.SMALL_UNPACKED + 1))
        assert len(bomb) < worker.SMALL_BYTES
        room.channels.files[f"/{FORGE}/noarch/repodata.json.zst"] = bomb
        answer = await room.get(f"{FORGE}/noarch/repodata.json.zst")
        assert (answer.status_code, len(asked)) == (502, 1)

    async def test_a_refusal_of_upstream_does_not_take_away_what_was_there(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        await room.records()
        room.channels.forbidden = True
        async with opened(room):
            assert await room.records()
            assert (await room.get("nvidia/noarch/repodata.json")).status_code == 404


class TestPackages:
    async def test_a_file_is_verified_and_fetched_once(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        content = room.channels.files[f"/{FORGE}/noarch/{filename}"]
        path = f"{FORGE}/noarch/{filename}"
        assert (await room.get(path)).content == content
        assert (await room.get(path, Range="bytes=2-5")).content == content[2:6]
        head = await room.get(path, method="HEAD")
        assert head.headers["content-length"] == str(len(content))
        assert room.channels.asked.count(f"/{path}") == 1

    async def test_a_forged_file_is_refused_with_a_sentence(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        content = room.channels.files[f"/{FORGE}/noarch/{filename}"]
        room.channels.files[f"/{FORGE}/noarch/{filename}"] = content[:-1] + b"x"
        answer = await room.get(f"{FORGE}/noarch/{filename}")
        assert (answer.status_code, "its size or hash differs" in answer.json()["message"]) == (502, True)

    async def test_a_file_that_the_repodata_does_not_name_is_not_handed_out(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        room.channels.files[f"/{FORGE}/noarch/secret-1-0.conda"] = b"x"
        assert (await room.get(f"{FORGE}/noarch/secret-1-0.conda")).status_code == 404

    async def test_redirects_lead_to_no_address_of_this_network(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        room.channels.redirects[f"/{FORGE}/noarch/{filename}"] = f"http://localhost:{room.channels.port}/secret"
        assert (await room.get(f"{FORGE}/noarch/{filename}")).status_code == 502
        assert "/secret" not in room.channels.asked
        assert [places.is_public_name(host) for host in ("files.example.org", "10.0.0.1", "hub", "x.internal")] == [
            True, False, False, False,
        ]  # fmt: skip


class TestPolicy:
    async def test_a_blocked_package_is_listed_and_its_file_says_why(self, room: Room) -> None:
        filename = room.channels.add("requests", "2.0")
        room.rule(blocked_packages=[{"package": "requests", "reason": "use our client"}])
        assert filename in await room.records()
        refused = await room.get(f"{FORGE}/noarch/{filename}")
        sentence = refused.json()["message"]
        assert refused.status_code == 403
        assert sentence.startswith("requests is blocked by the global policy (rule requests): use our client.")
        assert refused.reason_phrase == sentence
        assert refused.json()["reason"] == "Blocked by the package policy"  # the two keys that conda prints

    async def test_refused_versions_name_the_reason_as_a_dependency(self, room: Room) -> None:
        old, new = room.channels.add("numpy", "1.26", ("libblas",)), room.channels.add("numpy", "2.1", ("libblas",))
        room.rule(blocked_packages=["numpy>=2"])
        records = await room.records()
        assert records[old]["depends"] == ["libblas"]
        assert records[new]["depends"] == ["numpy-2-1-is-blocked-by-the-global-policy-rule-numpy-above-2", "libblas"]
        assert (await room.get(f"{FORGE}/noarch/{new}")).status_code == 403  # whoever has the address all the same
        assert (await room.get(f"{FORGE}/noarch/{old}")).status_code == 200

    async def test_one_rule_for_the_two_names_of_a_thing(self, room: Room) -> None:
        filename = room.channels.add("pytorch", "2.1")
        room.rule(approval_required=["torch"])
        refused = await room.get(f"{FORGE}/noarch/{filename}")
        assert (refused.status_code, refused.json()["action"]) == (403, "ask")

    async def test_every_path_of_an_untrusted_channel_says_why(self, room: Room) -> None:
        filename = room.channels.add("bwa", "1.0", channel="bioconda")
        for name in ("repodata.json.zst", "repodata_shards.msgpack.zst", filename):
            refused = await room.get(f"bioconda/noarch/{name}")
            assert refused.status_code == 403
            assert refused.json()["message"].startswith("The channel bioconda is not trusted by the global policy")
        assert room.channels.asked == []

    async def test_of_an_untrusted_channel_only_what_a_rule_names(self, room: Room) -> None:
        bwa, samtools = (room.channels.add(name, "1.0", channel="bioconda") for name in ("bwa", "samtools"))
        room.rule(allowlist=["bioconda::samtools"])
        assert list(await room.records("bioconda/noarch")) == [samtools]
        assert (await room.get(f"bioconda/noarch/{samtools}")).status_code == 200
        assert (await room.get(f"bioconda/noarch/{bwa}")).status_code == 403

    async def test_a_name_of_your_own_is_taken_from_your_own_channel_alone(self, room: Room) -> None:
        theirs, other = room.channels.add("acme-tools", "9.9"), room.channels.add("numpy", "2.1")
        room.channels.add("acme-tools", "1.0", channel="internal")
        own = {"internal_names": ["acme-*"], "channels": {"internal": f"{room.channels.url}internal"}}
        room.rule(trusted_channels=[FORGE, "internal"], index=own)
        assert list(await room.records()) == [other]
        refused = await room.get(f"{FORGE}/noarch/{theirs}")
        assert (refused.status_code, "(internal_names)" in refused.json()["message"]) == (403, True)
        assert list(await room.records("internal/noarch")) == ["acme-tools-1.0-0.conda"]

    async def test_denials_tell_the_channel_and_are_the_askers_own(self, room: Room) -> None:
        filename = room.channels.add("requests", "2.0")
        room.authority.admit("other", launch="launch-2")
        room.rule(blocked_packages=["requests"])
        await room.get(f"{FORGE}/noarch/{filename}")
        mine, others = [
            (await room.client.get(f"{PREFIX}denials", auth=("launch", token))).json()["denials"]
            for token in ("alive", "other")
        ]
        assert [(it["package"], it["version"], it["channel"], it["file"]) for it in mine] == [
            ("requests", "2.0", FORGE, filename)
        ]
        assert others == []

    async def test_policies_with_the_same_effect_share_one_copy(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        room.authority.admit("other", workspace="second", launch="launch-2")
        room.rule(blocked_packages=["numpy>=2"])
        room.rule(workspace="second", blocked_packages=["numpy>=2", "requests"])
        tags = {(await room.get(f"{FORGE}/noarch/repodata.json.zst", it)).headers["etag"] for it in ("alive", "other")}
        assert len(tags) == 1


class TestToken:
    @pytest.mark.parametrize("path", ["repodata.json.zst", "repodata_shards.msgpack.zst", "numpy-2.1-0.conda"])
    async def test_it_dies_with_its_launch(self, room: Room, path: str) -> None:
        room.channels.add("numpy", "2.1")
        assert (await room.get(f"{FORGE}/noarch/repodata.json.zst")).status_code == 200
        del room.authority.tokens["alive"]
        room.now += 6
        refused = await room.get(f"{FORGE}/noarch/{path}")
        assert (refused.status_code, "has ended" in refused.json()["message"]) == (403, True)

    async def test_no_log_tells_it(self, room: Room, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        room.channels.files[f"/{FORGE}/noarch/repodata.json.zst"] = b"broken"
        await room.get(f"{FORGE}/noarch/repodata.json.zst")
        ours = "".join(it.getMessage() for it in caplog.records if it.name.startswith(("maestro", "tornado")))
        assert "502" in ours
        assert "alive" not in ours
        assert masked("GET /conda/t/abc-1/x/noarch") == "GET /conda/t/***/x/noarch"


class TestUpstream:
    async def test_what_is_here_serves_while_upstream_is_away_after_a_restart_too(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        content = (await room.get(f"{FORGE}/noarch/{filename}")).content
        room.channels.away = True
        async with opened(room):
            assert list(await room.records()) == [filename]
            assert (await room.get(f"{FORGE}/noarch/{filename}")).content == content
            missing = await room.get(f"{FORGE}/linux-64/repodata.json.zst")
            assert (missing.status_code, "(127.0.0.1) answered 503" in missing.json()["message"]) == (502, True)

    async def test_it_is_asked_whether_anything_changed(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        await room.records()
        async with opened(room):
            await room.records()
            assert room.channels.answers[-1] == 304
        newer = room.channels.add("numpy", "2.2")
        async with opened(room):
            assert newer in await room.records()

    async def test_what_has_left_the_cache_is_fetched_again(self, room: Room) -> None:
        filename = room.channels.add("numpy", "2.1")
        await room.records()
        for path in (room.state / "packages").glob("??/*.catalog"):
            path.unlink()
        assert (await room.get(f"{FORGE}/noarch/{filename}")).status_code == 200

    async def test_a_channel_with_a_place_of_its_own_and_a_folder(self, room: Room, tmp_path: Path) -> None:
        room.channels.add("tool", "1.0", channel="elsewhere")
        document, folder = room.channels.document("elsewhere"), tmp_path / "internal" / "noarch"
        folder.mkdir(parents=True)
        (folder / "repodata.json").write_text(json.dumps(document))
        (folder / "tool-1.0-0.conda").write_bytes(room.channels.files["/elsewhere/noarch/tool-1.0-0.conda"])
        own = {"web": f"{room.channels.url}elsewhere", "internal": (tmp_path / "internal").as_uri()}
        room.rule(trusted_channels=["web", "internal"], index={"channels": own})
        for channel in ("web", "internal"):
            assert list(await room.records(f"{channel}/noarch")) == ["tool-1.0-0.conda"]
            assert (await room.get(f"{channel}/noarch/tool-1.0-0.conda")).status_code == 200

    async def test_this_machines_configuration_counts_where_maestro_yaml_is_silent(self, room: Room) -> None:
        room.channels.add("numpy", "2.1")
        room.channels.add("tool", "1.0", channel="elsewhere")
        room.authority.rule()
        configured = CondaConfig(
            alias="http://unused.example.org",
            channels={"nvidia": f"{room.channels.url}elsewhere"},
            mirrors={"http://unused.example.org/conda-forge": f"{room.channels.url}conda-forge/"},
        )
        async with opened(room, configured):
            assert await room.records()
            assert await room.records("nvidia/noarch")
            named = await room.get("defaults/noarch/repodata.json.zst")
            assert "an admin can name one for it" in named.json()["message"]
        async with opened(room, CondaConfig()):
            nowhere = await room.get("pytorch/noarch/repodata.json.zst")
            assert "Nothing on this machine says where conda channels lie" in nowhere.json()["message"]


class TestConfiguration:
    def test_condarc_files_in_condas_order(self, tmp_path: Path) -> None:
        home, prefix, named = tmp_path / "home", tmp_path / "prefix", tmp_path / "condarc"
        (home / ".conda/condarc.d").mkdir(parents=True)
        prefix.mkdir()
        (home / ".conda/condarc.d/a.yml").write_text("channel_alias: http://a\ncustom_channels: {one: http://one}\n")
        (home / ".condarc").write_text("channel_alias: http://b\nssl_verify: /etc/ca.pem\n")
        (prefix / ".condarc").write_text("custom_channels: {two: http://two}\n")
        told = read_condarc({"CONDA_PREFIX": str(prefix)}, home)
        assert told["channel_alias"] == "http://b"
        assert told["custom_channels"] == {"one": "http://one", "two": "http://two"}
        named.write_text("channel_alias: http://c\n")
        assert read_condarc({"CONDARC": str(named)}, home)["channel_alias"] == "http://c"
        told = read_condarc({"CONDARC": str(named), "CONDA_CHANNEL_ALIAS": "http://d", "CONDA_SSL_VERIFY": "no"}, home)
        assert (told["channel_alias"], told["ssl_verify"]) == ("http://d", "no")

    def test_a_file_that_cannot_be_read_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / ".condarc").write_text("a: [")
        assert read_condarc({}, tmp_path) == {}

    async def test_rattler_tells_mirrors_and_its_own_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        (tmp_path / ".rattler").mkdir()
        (tmp_path / ".rattler/config.toml").write_text(
            '[mirrors]\n"https://a.example.org/x" = ["https://b.example/x"]\n'
        )
        (tmp_path / ".condarc").write_text("custom_channels: {Own: https://c.example.org/}\n")
        config = await read_conda_config()
        assert config.alias.startswith("https://")
        assert config.mirrors == {"https://a.example.org/x": "https://b.example/x"}
        assert config.channels == {"own": "https://c.example.org/Own"}
        monkeypatch.setattr(condarc, "_ASK_RATTLER", "import nothing_of_that_name")
        assert (await read_conda_config()).alias == ""


NAMES = ("numpy", "pytorch", "requests", "_libgcc_mutex")
VERSIONS = ("1.0", "1.26.4", "2.1", "3.0rc1", "1.1.1w")
RULES = st.sampled_from(
    ["numpy", "numpy>=2", "torch<2", "pytorch", "requests==1.0", "conda-forge::numpy<2", "bioconda::numpy",
     "_libgcc_mutex>=1", "bioconda::pytorch>=2"],
)  # fmt: skip
POLICIES = st.fixed_dictionaries(
    {
        "preset": st.sampled_from(["open", "strict"]),
        "blocked_packages": st.lists(RULES, max_size=3),
        "approval_required": st.lists(RULES, max_size=2),
        "allowlist": st.lists(RULES, max_size=3),
    }
)


def slow_model(document: dict[str, Any], policy: Any, channel: str) -> dict[str, Any]:
    """What a client may see, written down from the rules, record by record, with nothing left out for speed."""
    shown: dict[str, Any] = {}
    for listed in ("packages", "packages.conda"):
        shown[listed] = {}
        for filename, record in document[listed].items():
            verdict = decide(policy, record["name"], record["version"], channel)
            alike = {decide(policy, record["name"], version, channel).action for version in VERSIONS}
            if verdict.allowed:
                shown[listed][filename] = record
            elif channel in policy.channels.names:
                # a refusal that is about this version has to keep solvers away
                shown[listed][filename] = "hindered" if len(alike) > 1 else "kept or hindered"
    return shown


class TestModel:
    @settings(max_examples=60, deadline=None)
    @given(
        section=POLICIES,
        channel=st.sampled_from([FORGE, "bioconda"]),
        packages=st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(VERSIONS), st.booleans()), max_size=12),
    )
    def test_what_clients_see_is_what_a_slow_model_says(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        section: dict[str, Any],
        channel: str,
        packages: set[tuple[str, str, bool]],
    ) -> None:
        room = tmp_path_factory.mktemp("model")
        policy = compile_policy(PackagePolicy.model_validate(section))
        document: dict[str, Any] = {"packages": {}, "packages.conda": {}}
        for name, version, old in packages:
            listed, ending = ("packages", "tar.bz2") if old else ("packages.conda", "conda")
            document[listed][f"{name}-{version}-0.{ending}"] = conda_kit.index_json(name, version, ("libblas",)) | {
                "md5": "0"
            }
        source, body, catalog, view = (room / name for name in ("source", "body", "catalog", "view"))
        source.write_text(json.dumps(document))
        repodata.take_in(source, False, "noarch", body, catalog)
        plan = make_plan(catalog, policy, channel)
        if plan is not None:
            repodata.change(body, plan, view)
        shown = json.loads(zstandard.decompress((view if plan is not None else body).read_bytes()))
        told = slow_model(document, policy, channel)
        for listed in ("packages", "packages.conda"):
            assert shown[listed].keys() == told[listed].keys()
            for filename, record in shown[listed].items():
                expected, original = told[listed][filename], document[listed][filename]
                if expected == "hindered":
                    assert record == {**original, "depends": [record["depends"][0], "libblas"]}
                elif expected == "kept or hindered":
                    assert record["depends"][-1] == "libblas"
                else:
                    assert record == original
                entry = find(catalog, filename)
                assert entry is not None
                assert (entry.name, entry.version) == (original["name"], original["version"])
