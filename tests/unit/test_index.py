"""The package index's answers, against a real upstream of small wheels on loopback."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import re
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from maestro_core.errors import MaestroError
from maestro_core.packages import Action, Grant, PackagePolicy, Verdict, compile_policy
from maestro_hub_services.packages import authority as authority_module
from maestro_hub_services.packages import downloads as downloads_module
from maestro_hub_services.packages import handlers as handlers_module
from maestro_hub_services.packages import http as http_module
from maestro_hub_services.packages import index as index_module
from maestro_hub_services.packages import pip_config
from maestro_hub_services.packages import upstream as upstream_module
from maestro_hub_services.packages.app import make_app
from maestro_hub_services.packages.authority import Authority
from maestro_hub_services.packages.cache import DiskCache
from maestro_hub_services.packages.downloads import parse_range
from maestro_hub_services.packages.handlers import reason_phrase
from maestro_hub_services.packages.http import Http, split_credentials
from maestro_hub_services.packages.index import Index
from maestro_hub_services.packages.negotiation import HTML_V1, JSON_V1, choose_form, takes_gzip
from maestro_hub_services.packages.pages import Page, file_version, make_file, merge, parse_html_page, parse_json_page
from maestro_hub_services.packages.pip_config import PipConfig, read_pip_config
from maestro_hub_services.packages.telling import tell as tell_denials
from maestro_hub_services.packages.upstream import Document, LocalLinks, RemoteIndex, RemoteLinks
from tests import package_kit as kit

PREFIX = "/services/packages/"
NOT_ASKED = PipConfig()


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Room:
    """The index, what it asks, and a client of it."""

    def __init__(self, upstream: kit.Upstream, authority: kit.Authority, state: Path) -> None:
        self.upstream, self.authority, self.state = upstream, authority, state
        self.clock = Clock()
        self.index: Index
        self.client = httpx.AsyncClient()

    def rule(self, **section: Any) -> None:
        """Put a policy in force, and let the seconds pass until the index asks for it."""
        self.authority.rule(upstream=self.upstream.url, **section)
        self.clock.pass_(6)

    async def get(self, path: str, token: str = "alive", method: str = "GET", **headers: str) -> httpx.Response:
        path = path if path.startswith("/") else PREFIX + path
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, path, auth=("launch", token) if token else None, headers=sent)

    async def page(self, project: str, **more: str) -> dict[str, Any]:
        answer = await self.get(f"simple/{project}/", Accept=JSON_V1, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def address(self, project: str, filename: str) -> str:
        """Our own path of a file."""
        entries = {entry["filename"]: entry for entry in (await self.page(project))["files"]}
        return str(entries[filename]["url"])


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


@asynccontextmanager
async def opened(room: Room, config: PipConfig = NOT_ASKED) -> AsyncIterator[Index]:
    async def read_config() -> PipConfig:
        return config

    index = Index(
        Authority(room.authority.url, kit.SERVICE_TOKEN, room.clock), room.state / "packages", PREFIX, read_config
    )
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
def servers() -> Iterator[tuple[kit.Upstream, kit.Authority]]:
    with kit.upstream_and_authority() as both:
        yield both


@pytest.fixture
async def room(servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path) -> AsyncIterator[Room]:
    """The index with an open policy; ``alive`` is the token of a launch in the workspace ``demo``."""
    room = Room(*servers, tmp_path)
    async with opened(room) as room.index:
        yield room


class TestPage:
    async def test_json_keeps_unknown_fields_and_leads_only_to_us(self, room: Room) -> None:
        room.upstream.extra = {"project-status": {"status": "active"}, "future": {"a": 1}, "versions": ["1.0"]}
        room.upstream.add(
            "small", "1.0", **{"upload-time": "2020-01-01T00:00:00Z", "x-new": [1], "provenance": "http://localhost/p"}
        )
        page = await room.page("small")
        (entry,) = page["files"]
        assert page["future"] == {"a": 1} and page["project-status"] == {"status": "active"}
        assert page["versions"] == ["1.0"] and page["name"] == "small" and page["meta"]["api-version"] == "1.1"
        assert entry["x-new"] == [1] and entry["upload-time"] == "2020-01-01T00:00:00Z"
        assert entry["url"].startswith(f"{PREFIX}files/small/")
        assert entry["provenance"] == entry["url"] + ".provenance"
        assert "localhost" not in json.dumps(page)

    @pytest.mark.parametrize("form", ["json", "html"])
    async def test_html_says_the_same_whatever_upstream_speaks(self, room: Room, form: str) -> None:
        room.upstream.form = form
        room.upstream.add("small", "1.0", **{"requires-python": ">=3.8", "yanked": 'bad "idea"'})
        answer = await room.get("simple/small/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = parse_html_page(answer.content, str(answer.url), "small")
        (file,) = page.files
        content = kit.wheel("small", "1.0")
        assert file.hashes == {"sha256": kit.sha256(content)}
        assert file.fields["requires-python"] == ">=3.8" and file.fields["yanked"] == 'bad "idea"'
        assert file.fields["core-metadata"] == {"sha256": kit.sha256(kit.metadata("small", "1.0"))}
        assert (("data-future", "kept") in file.attributes) is (form == "html")
        assert (await room.get(file.url.partition(str(room.client.base_url).rstrip("/"))[2])).content == content

    async def test_pages_asked_for_at_once_are_not_mixed_up(self, room: Room) -> None:
        names = [f"small-{number}" for number in range(12)]
        for name in names:
            room.upstream.add(name, "1.0")
        pages = await asyncio.gather(*(room.page(name) for name in names))
        assert [page["name"] for page in pages] == names

    @pytest.mark.parametrize("spelling", ["Small_Thing", "small.thing", "SMALL-THING", "small-thing"])
    async def test_any_spelling_finds_the_project_without_a_redirect(self, room: Room, spelling: str) -> None:
        room.upstream.add("small-thing", "1.0")
        assert (await room.get(f"simple/{spelling}/")).status_code == 200
        assert (await room.get(f"simple/{spelling}")).status_code == 200

    async def test_what_names_no_package_or_is_not_there(self, room: Room) -> None:
        assert "only looks like" in (await room.get("simple/small%D0%B5/")).json()["detail"]
        missing = await room.get("simple/nothing/")
        assert missing.status_code == 404
        assert missing.json()["detail"] == (
            "There is no package nothing at the index behind this one; check the spelling."
        )
        (told,) = (await room.get("denials")).json()["denials"]
        assert (told["package"], told["action"], told["message"]) == ("nothing", "missing", missing.json()["detail"])

    async def test_the_form_follows_the_accept_header(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        assert (await room.get("simple/small/", Accept=HTML_V1)).headers["content-type"] == HTML_V1
        assert (await room.get("simple/small/", Accept="image/png")).status_code == 406
        assert "Accept" in (await room.get("simple/small/")).headers["vary"]

    async def test_pages_are_compressed_and_asked_about_again(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        async with room.client.stream(
            "GET", f"{PREFIX}simple/small/", auth=("launch", "alive"), headers={"Accept": JSON_V1}
        ) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip" and json.loads(gzip.decompress(raw))["name"] == "small"
        assert answer.headers["cache-control"] == "no-cache"
        etag = answer.headers["etag"]
        assert (await room.get("simple/small/", Accept=JSON_V1, If_None_Match=etag)).status_code == 304
        room.rule(blocked_packages=["small"])
        assert (await room.get("simple/small/", Accept=JSON_V1, If_None_Match=etag)).status_code == 200

    async def test_the_root_lists_every_project(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        room.upstream.add("Other_One", "1.0")
        listed = await room.get("simple/", Accept=JSON_V1)
        assert [entry["name"] for entry in listed.json()["projects"]] == ["other-one", "small"]
        assert f'href="{PREFIX}simple/other-one/"' in (await room.get("simple/")).text

    async def test_the_root_is_rendered_once(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        rendered, render = [], index_module.render_names

        def counted(*arguments: Any) -> Any:
            rendered.append(arguments)
            return render(*arguments)

        monkeypatch.setattr(index_module, "render_names", counted)
        room.upstream.add("small", "1.0")
        for _ in range(3):
            await room.get("simple/", Accept=JSON_V1)
        assert len(rendered) == 1

    async def test_files_of_other_projects_are_not_listed(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        room.upstream.projects["small"].append({**room.upstream.projects["small"][0], "filename": "evil-1.0.tar.gz"})
        assert [entry["filename"] for entry in (await room.page("small"))["files"]] == [kit.wheel_name("small", "1.0")]

    async def test_nothing_of_it_can_act_as_a_page_of_the_hub(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        for path in ("", "simple/small/", await room.address("small", kit.wheel_name("small", "1.0"))):
            answer = await room.get(path)
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"


class TestFiles:
    async def test_a_file_and_its_metadata(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0", ("other",))
        address = await room.address("small", filename)
        file = await room.get(address)
        assert file.content == kit.wheel("small", "1.0", ("other",))
        assert file.headers["content-length"] == str(len(file.content))
        assert (await room.get(address + ".metadata")).content == kit.metadata("small", "1.0", ("other",))
        assert (await room.get(address + ".provenance")).status_code == 404

    async def test_metadata_is_answered_as_any_file_and_fetched_once(self, room: Room) -> None:
        address = f"{await room.address('small', room.upstream.add('small', '1.0'))}.metadata"
        first = await room.get(address)
        assert first.content == kit.metadata("small", "1.0")
        head = await room.get(address, method="HEAD")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(first.content)))
        known = await room.get(address, If_None_Match=first.headers["etag"])
        assert (known.status_code, known.content) == (304, b"")
        assert sum(path.endswith(".metadata") for path in room.upstream.asked) == 1

    async def test_head_and_ranges(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        address, content = await room.address("small", filename), kit.wheel("small", "1.0")
        head = await room.get(address, method="HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(content)) and head.headers["accept-ranges"] == "bytes"
        assert not [path for path in room.upstream.asked if path.endswith(".whl")]
        for _ in range(2):  # while it arrives, and from the cache
            part = await room.get(address, Range="bytes=-100")
            assert (part.status_code, part.content) == (206, content[-100:])
            assert part.headers["content-range"] == f"bytes {len(content) - 100}-{len(content) - 1}/{len(content)}"
        assert (await room.get(address, Range="bytes=10-19")).content == content[10:20]
        assert (await room.get(address, Range="bytes=99999999-")).status_code == 416
        assert (await room.get(address, Range="bytes=0-1", If_Range='"other"')).content == content

    async def test_a_file_is_fetched_once_for_everybody(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0", padding=3_000_000)
        address = await room.address("small", filename)
        answers = await asyncio.gather(*(room.get(address) for _ in range(5)))
        answers.append(await room.get(address))
        assert {kit.sha256(answer.content) for answer in answers} == {kit.sha256(answers[0].content)}
        assert answers[0].content == kit.wheel("small", "1.0", padding=3_000_000)
        assert len([path for path in room.upstream.asked if path.endswith(filename)]) == 1

    async def test_it_streams_while_it_arrives(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0", padding=8_000_000)
        address = await room.address("small", filename)
        room.upstream.gate = threading.Event()
        async with room.client.stream("GET", address, auth=("launch", "alive")) as answer:
            parts = answer.aiter_raw()
            first = await asyncio.wait_for(anext(parts), 10)
            assert not room.upstream.gate.is_set() and first  # upstream has sent half of it
            room.upstream.gate.set()
            rest = b"".join([part async for part in parts])
        assert first + rest == kit.wheel("small", "1.0", padding=8_000_000)

    async def test_a_forged_file_is_refused_with_a_sentence(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        address = await room.address("small", filename)
        path = f"/packages/small/{filename}"
        room.upstream.files[path] = room.upstream.files[path][:-1] + b"x"
        answer = await room.get(address)
        assert answer.status_code == 502 and "not the one that the index behind this one announced" in answer.text
        assert "announced" in answer.reason_phrase
        assert not list((room.state / "packages" / "drafts").iterdir())

    async def test_a_large_forged_file_never_looks_complete(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0", padding=8_000_000)
        address = await room.address("small", filename)
        path = f"/packages/small/{filename}"
        room.upstream.files[path] = room.upstream.files[path][:-1] + b"x"
        with pytest.raises(httpx.RemoteProtocolError):
            await room.get(address)
        # What is served later comes from upstream again, and not from a cache of the forged one.
        room.upstream.files[path] = kit.wheel("small", "1.0", padding=8_000_000)
        assert (await room.get(address)).content == room.upstream.files[path]

    async def test_a_download_goes_on_where_upstream_broke_off(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filename = room.upstream.add("small", "1.0", padding=3_000_000)
        address = await room.address("small", filename)
        whole, broken = httpx.Response.aiter_raw, []

        async def breaks_once(response: httpx.Response, size: int | None = None) -> AsyncIterator[bytes]:
            async for part in whole(response, size):
                yield part
                if not broken and str(response.url).endswith(".whl"):
                    broken.append(response.url)
                    raise httpx.ReadError("gone")

        monkeypatch.setattr(httpx.Response, "aiter_raw", breaks_once)
        room.client = httpx.AsyncClient(base_url=room.client.base_url)
        request = room.client.build_request("GET", address)
        request.headers["Authorization"] = "Bearer alive"
        assert (await room.client.send(request)).content == kit.wheel("small", "1.0", padding=3_000_000)
        assert broken and len([path for path in room.upstream.asked if path.endswith(filename)]) == 2

    async def test_redirects_lead_only_to_hosts_that_upstream_named(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        address = await room.address("small", filename)
        path = f"/packages/small/{filename}"
        room.upstream.redirects[path] = f"http://127.0.0.2:{room.upstream.port}/elsewhere"
        refused = await room.get(address)
        assert refused.status_code == 502
        assert "(127.0.0.2) is none that the configured index named, so it was not asked" in refused.text
        room.upstream.files["/moved"] = room.upstream.files[path]
        room.upstream.redirects[path] = f"http://localhost:{room.upstream.port}/moved"
        assert (await room.get(address)).content == room.upstream.files[path]

    def test_no_redirect_leads_away_from_tls(self) -> None:
        assert Http._redirected("https://a/x", "/y") == "https://a/y"
        assert Http._redirected("http://a/x", "https://a/y") == "https://a/y"
        with pytest.raises(MaestroError, match="redirects to an address without TLS"):
            Http._redirected("https://a/x", "http://a/y")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "0.0.0.0"])
    async def test_a_page_from_elsewhere_leads_to_nothing_of_this_machine(
        self, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = RemoteIndex("https://mirror.example.org/simple/", Http(PipConfig()), DiskCache(tmp_path, 10**6))
        await source._cache.open()
        entries = [{"filename": f"a-{at}.tar.gz", "url": f"https://{at}/a"} for at in (host, "files.example.org")]
        document = Document("u", JSON_V1, json.dumps({"files": entries}).encode(), "", 0.0, 9e9)
        source._documents["https://mirror.example.org/simple/a/"] = document
        assert await source.page("a") is not None
        assert source.may_visit("files.example.org") and not source.may_visit(host.strip("[]"))

    async def test_a_page_cannot_name_a_file_of_this_machine(self, room: Room, tmp_path: Path) -> None:
        secret = tmp_path / "small-1.0.tar.gz"
        secret.write_text("secret")
        room.upstream.projects["small"] = [{"filename": secret.name, "url": secret.as_uri(), "hashes": {}}]
        assert (await room.page("small"))["files"] == []

    async def test_unknown_files_and_old_addresses(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        address = await room.address("small", filename)
        assert (await room.get(address.replace("1.0", "9.9"))).status_code == 404
        other = re.sub(r"/[0-9a-f]{24}/", "/" + "0" * 24 + "/", address)
        assert other != address and (await room.get(other)).status_code == 404
        assert (await room.get("elsewhere")).json()["status"] == 404


class TestPolicy:
    async def test_a_blocked_package_is_listed_and_its_files_are_refused(self, room: Room) -> None:
        filename = room.upstream.add("evil", "1.0")
        direct = await room.address("evil", filename)  # guessed, or kept from an open time
        room.rule(blocked_packages=["evil"])
        (entry,) = (await room.page("evil"))["files"]
        assert entry["filename"] == filename and "yanked" not in entry
        assert "/refused-evil-is-blocked-by-the-global-policy-rule-evil/" in entry["url"]
        asked = len(room.upstream.asked)
        for address in (entry["url"], entry["url"] + ".metadata", direct, direct + ".metadata"):
            answer = await room.get(address)
            assert answer.status_code == 403
            assert answer.reason_phrase.startswith("evil is blocked by the global policy (rule evil).")
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["title"] == "Blocked by the package policy" and problem["rule"] == "evil"
            assert problem["detail"].endswith("Ask an admin of this Hub to change the rule.")
        files = [path for path in room.upstream.asked[asked:] if path.startswith("/packages")]
        assert files == []  # upstream is never asked for what is refused

    async def test_a_file_that_an_admin_lets_in_for_a_while_and_no_other(self, room: Room) -> None:
        files = [room.upstream.add("requests", version) for version in ("2.31", "2.32")]
        room.rule(blocked_packages=["requests"])
        entries = {entry["filename"]: entry for entry in (await room.page("requests"))["files"]}
        until = datetime.now(UTC) + timedelta(minutes=15)
        hashed = entries[files[1]]["hashes"]["sha256"]
        grant = Grant(name="requests", version="2.32", sha256=hashed, until=until)
        policy = room.authority.policies["demo"]

        async def statuses(one: Grant) -> list[int]:
            room.authority.policies["demo"] = policy.model_copy(
                update={"grants": (one,), "revision": str(one.until), "anew": datetime.now(UTC)}
            )
            room.clock.pass_(6)
            page = {entry["filename"]: entry["url"] for entry in (await room.page("requests"))["files"]}
            asked = [page[files[0]], page[files[1]], page[files[1]] + ".metadata"]
            return [(await room.get(path)).status_code for path in asked]

        assert await statuses(grant) == [403, 200, 200]
        assert await statuses(grant.model_copy(update={"until": datetime.now(UTC)})) == [403, 403, 403]
        room.upstream.extra = {"project-status": {"status": "quarantined"}}
        assert await statuses(grant.model_copy(update={"until": until + timedelta(seconds=1)})) == [403, 403, 403]

    def test_known_malware_is_let_in_by_nobody(self) -> None:
        file = make_file("evil-1.0.tar.gz", "http://x/evil-1.0.tar.gz", {"hashes": {"sha256": "a" * 64}}, "evil")
        assert file is not None
        until = datetime.now(UTC) + timedelta(minutes=15)
        grant = Grant(name="evil", version="1.0", sha256="a" * 64, until=until)
        policy = compile_policy(PackagePolicy(), grants=(grant,))
        page, refused = Page("evil", (file,)), Verdict(Action.BLOCK, "no")
        assert handlers_module._forced(policy, page, file, refused)
        assert not handlers_module._forced(policy, page, file, replace(refused, malware=True))

    async def test_a_cleared_cache_sees_a_new_release_at_once(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_module, "MIN_FRESH", 60.0)
        room.upstream.add("small", "1.0")
        assert len((await room.page("small"))["files"]) == 1
        room.upstream.add("small", "2.0")
        policy = room.authority.policies["demo"]
        room.clock.pass_(6)
        assert len((await room.page("small"))["files"]) == 1
        anew = {"anew": datetime.now(UTC), "revision": "another"}
        room.authority.policies["demo"] = policy.model_copy(update=anew)
        room.clock.pass_(6)
        assert len((await room.page("small"))["files"]) == 2

    async def test_blocked_versions_are_yanked_and_refused(self, room: Room) -> None:
        old, new = room.upstream.add("small", "1.0"), room.upstream.add("small", "2.0")
        room.rule(blocked_packages=[{"package": "small>=2", "reason": "<broken> & slow"}])
        entries = {entry["filename"]: entry for entry in (await room.page("small"))["files"]}
        assert "yanked" not in entries[old]
        assert entries[new]["yanked"].startswith("small 2.0 is blocked by the global policy (rule small>=2): <broken>")
        assert (await room.get(entries[old]["url"])).status_code == 200
        refused = await room.get(entries[new]["url"])
        assert refused.status_code == 403
        assert "small 2.0 is blocked" in refused.reason_phrase and "broken> & slow" in refused.reason_phrase
        assert "<broken> & slow" in refused.json()["detail"]
        assert "&lt;broken&gt; &amp; slow" in (await room.get("simple/small/")).text

    async def test_what_needs_an_approval_says_so(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        room.rule(preset="strict")
        answer = await room.get(await room.address("small", filename))
        assert answer.json()["title"] == "Held back by the package policy" and answer.json()["action"] == "ask"

    async def test_a_change_counts_within_a_second_the_caches_included(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        address = await room.address("small", filename)
        assert (await room.get(address)).status_code == 200
        room.authority.rule(upstream=room.upstream.url, blocked_packages=["small"])
        room.clock.pass_(authority_module.POLICY_FRESH_SECONDS + 0.1)
        assert (await room.get(address)).status_code == 403
        refused = await room.address("small", filename)
        room.rule()
        assert (await room.get(refused)).content == kit.wheel("small", "1.0")  # the old address serves when it may

    async def test_a_refused_source_archive_says_why_where_no_wheel_fits(self, room: Room) -> None:
        """It is not marked as yanked beside a wheel: a resolver would leave it out without a word."""
        wheel = room.upstream.add("small", "1.0")
        beside = room.upstream.add_file("small", "small-1.0.tar.gz", b"source")
        alone = room.upstream.add_file("small", "small-2.0.tar.gz", b"source of 2")
        room.rule(sdists="block")
        entries = {entry["filename"]: entry for entry in (await room.page("small"))["files"]}
        assert "yanked" not in entries[wheel] and "yanked" not in entries[beside]
        assert entries[alone]["yanked"].startswith("small 2.0 is offered to this Python as source only")
        assert (await room.get(entries[wheel]["url"])).status_code == 200
        for filename in (beside, alone):
            refused = await room.get(entries[filename]["url"])
            assert refused.status_code == 403 and "a build runs its code" in refused.reason_phrase
            assert refused.json()["rule"] == "sdists: block"
        only = room.upstream.add_file("only", "only-1.0.tar.gz", b"source")
        (entry,) = (await room.page("only"))["files"]
        assert "yanked" not in entry and entry["filename"] == only
        assert "/refused-only-1-0-is-offered-to-this-python-as-source-only" in entry["url"]

    async def test_a_project_that_upstream_quarantined_stays_out(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        room.upstream.extra = {"project-status": {"status": "quarantined", "reason": "it steals  tokens"}}
        page = await room.page("small")
        assert page["project-status"]["status"] == "quarantined"
        refused = await room.get(page["files"][0]["url"])
        assert refused.status_code == 403 and refused.json()["rule"] == "project-status: quarantined"
        assert "small is quarantined by the index that it comes from (it steals tokens)" in refused.reason_phrase
        assert '<meta name="pypi:project-status" content="quarantined">' in (await room.get("simple/small/")).text
        (denial,) = (await room.get("denials")).json()["denials"]
        assert denial["file"] == filename
        room.upstream.extra = {"project-status": {"status": "archived"}}  # a word to people, and nothing more
        room.upstream.add("third", "1.0")
        assert (await room.get(await room.address("third", kit.wheel_name("third", "1.0")))).status_code == 200

    async def test_two_workspaces_see_their_own(self, room: Room) -> None:
        filename = room.upstream.add("small", "1.0")
        room.authority.admit("other", workspace="closed", launch="launch-2")
        room.authority.rule("closed", upstream=room.upstream.url, own={"blocked_packages": ["small"]})
        address = await room.address("small", filename)
        assert (await room.get(address)).status_code == 200
        refused = await room.get(address, token="other")
        assert "the policy of workspace closed" in refused.reason_phrase

    async def test_denials_are_the_askers_own(self, room: Room) -> None:
        filename = room.upstream.add("evil", "1.0")
        room.authority.admit("other", launch="launch-2")
        room.rule(blocked_packages=["evil"])
        address = await room.address("evil", filename)
        for _ in range(3):
            await room.get(address)
        (denial,) = (await room.get("denials")).json()["denials"]
        assert denial["package"] == "evil" and denial["version"] == "1.0" and denial["count"] == 3
        assert denial["message"].startswith("evil is blocked") and denial["action"] == "block"
        seen = (await room.get("denials")).json()["next"]
        assert (await room.get(f"denials?since={seen}")).json() == {"denials": [], "next": seen}
        assert (await room.get("denials", token="other")).json()["denials"] == []
        assert (await room.get("denials", token="")).status_code == 403
        assert (await room.get("denials?since=yesterday")).status_code == 400

    async def test_a_solvers_refusal_is_one_when_the_policy_says_so(self, room: Room) -> None:
        room.rule(blocked_packages=["numpy>=2"])

        async def tell(token: str = "alive", **told: Any) -> httpx.Response:
            return await room.client.post(f"{PREFIX}denials", json=told, auth=("launch", token))

        told = await tell(package="numpy", version="2.1.0", channel="conda-forge")
        assert told.json()["refused"].startswith("numpy 2.1.0 is blocked by the global policy (rule numpy>=2)")
        assert (await tell(package="numpy", version="1.26", channel="conda-forge")).json() == {"refused": ""}
        (denial,) = (await room.get("denials")).json()["denials"]
        assert (denial["package"], denial["version"], denial["channel"]) == ("numpy", "2.1.0", "conda-forge")
        assert (await tell(package="a/b")).status_code == 400
        assert (await tell(token="dead", package="numpy")).status_code == 403

    async def test_a_version_without_end_is_refused_with_the_sentence_too(self, room: Room) -> None:
        name = f"evil-1.{'0' * 230}-py3-none-any.whl"
        room.upstream.add_file("evil", name, kit.wheel("evil", "1.0"))
        room.rule(blocked_packages=["evil"])
        refused = await room.get(await room.address("evil", name))
        assert refused.status_code == 403 and refused.json()["detail"].startswith("evil is blocked")

    async def test_denials_are_told_the_service_and_not_lost_while_it_is_away(self, room: Room) -> None:
        filename = room.upstream.add("evil", "1.0")
        room.rule(blocked_packages=["evil"])
        index, address = room.index, await room.address("evil", filename)
        for _ in range(3):
            await room.get(address)
        await room.get("simple/nothing/")  # that is none
        room.authority.away = True
        await tell_denials(index.authority, index)
        await room.get(address)
        room.authority.away = False
        await tell_denials(index.authority, index)
        await tell_denials(index.authority, index)
        ((denial,),) = room.authority.denials
        assert (denial["launch_id"], denial["package"], denial["count"], denial["rule"]) == (
            "launch-1", "evil", 4, "evil",
        )  # fmt: skip


DIRECT = "other @ https://elsewhere.example.org/other-1.0-py3-none-any.whl"


class TestMetadata:
    """What resolvers decide by is what is installed, and nothing in it leads past the index."""

    @pytest.mark.parametrize("line", [DIRECT, 'other[x] @ git+https://elsewhere.example.org/o ; extra == "dev"'])
    async def test_a_requirement_with_an_address_is_refused(self, room: Room, line: str) -> None:
        address = await room.address("small", room.upstream.add("small", "1.0", ("fine", line)))
        for path in (address + ".metadata", address):
            refused = await room.get(path)
            assert refused.status_code == 403
            assert "small 1.0 requires other (elsewhere.example.org) from an address of its own" in refused.text
            assert "past this index" in refused.reason_phrase and refused.json()["rule"] == "Requires-Dist"
        assert not [path for path in room.upstream.asked if path.endswith(".whl")]
        (denial,) = (await room.get("denials")).json()["denials"]
        assert denial["package"] == "small" and denial["count"] == 2

    @pytest.mark.parametrize("padding", [0, 3_000_000])
    async def test_in_a_wheel_whose_metadata_is_not_shown_too(self, room: Room, padding: int) -> None:
        filename = kit.wheel_name("small", "1.0")
        room.upstream.add_file("small", filename, kit.wheel("small", "1.0", (DIRECT,), padding))
        address = await room.address("small", filename)
        for _ in range(2):
            refused = await room.get(address)
            assert refused.status_code == 403 and "from an address of its own" in refused.reason_phrase
        assert len([path for path in room.upstream.asked if path.endswith(".whl")]) == 1

    @pytest.mark.parametrize(
        "inside", [kit.metadata("small", "1.0", ("evil",)), kit.metadata("small", "1.0") + b"Requires-Python: >=3.8\n"]
    )
    async def test_a_wheel_that_is_not_what_its_metadata_showed(self, room: Room, inside: bytes) -> None:
        filename, told = kit.wheel_name("small", "1.0"), kit.metadata("small", "1.0")
        room.upstream.add_file("small", filename, kit.wheel("small", "1.0", told=inside), told)
        address = await room.address("small", filename)
        assert (await room.get(address + ".metadata")).status_code == 200
        refused = await room.get(address)
        assert refused.status_code == 403 and "is not what its metadata showed" in refused.reason_phrase

    async def test_a_large_one_never_looks_complete_and_is_explained(self, room: Room) -> None:
        filename, inside = kit.wheel_name("small", "1.0"), kit.metadata("small", "1.0", ("evil",))
        content = kit.wheel("small", "1.0", padding=8_000_000, told=inside)
        room.upstream.add_file("small", filename, content, kit.metadata("small", "1.0"))
        address = await room.address("small", filename)
        with pytest.raises(httpx.RemoteProtocolError):
            await room.get(address)
        (denial,) = (await room.get("denials")).json()["denials"]
        assert "is not what its metadata showed" in denial["message"]
        assert (await room.get(address)).status_code == 403  # the next time it is known at once

    async def test_a_mirror_that_lists_metadata_and_has_none(self, room: Room) -> None:
        """The wheel is looked into instead, as the clients do."""
        for name, requires in (("small", ()), ("leading", (DIRECT,))):
            address = await room.address(name, room.upstream.add(name, "1.0", requires))
            del room.upstream.files[f"/packages/{name}/{kit.wheel_name(name, '1.0')}.metadata"]
            assert (await room.get(address + ".metadata")).status_code == 404
            answer = await room.get(address)
            assert answer.status_code == (403 if requires else 200), answer.text

    async def test_another_order_and_other_spaces_are_the_same(self, room: Room) -> None:
        filename = kit.wheel_name("small", "1.0")
        shown = b"Name: small\nMetadata-Version: 2.1\nVersion: 1.0\nRequires-Dist: b>=1\nRequires-Dist: a\n"
        inside = kit.metadata("small", "1.0", ("a", "b >=1")) + b"\nA description\n"
        room.upstream.add_file("small", filename, kit.wheel("small", "1.0", told=inside), shown)
        assert (await room.get(await room.address("small", filename))).status_code == 200

    @pytest.mark.parametrize(
        "inside, says",
        [
            (kit.metadata("evil", "1.0"), "small 1.0 calls itself evil 1.0 in its metadata"),
            (kit.metadata("small", "2.0"), "small 1.0 calls itself small 2.0"),
            (b"", "small 1.0 calls itself nothing"),
            (b"Name: small\nName: small\nVersion: 1.0\n", "cannot be read"),
        ],
    )
    async def test_it_is_of_the_project_and_version(self, room: Room, inside: bytes, says: str) -> None:
        filename = kit.wheel_name("small", "1.0")
        room.upstream.add_file("small", filename, kit.wheel("small", "1.0", told=inside))
        assert says in (await room.get(await room.address("small", filename))).reason_phrase

    @pytest.mark.parametrize("version", ["1.0.0", "1.0+cu118", "1.0rc1"])
    async def test_versions_are_compared_as_versions(self, room: Room, version: str) -> None:
        filename = kit.wheel_name("small", version.replace("-", "_"))
        content = kit.wheel("small", version, told=kit.metadata("small", version.replace("1.0.0", "1.0")))
        room.upstream.add_file("small", filename, content)
        assert (await room.get(await room.address("small", filename))).status_code == 200

    async def test_what_is_no_wheel_is_refused(self, room: Room) -> None:
        twice = io.BytesIO(kit.wheel("small", "2.0"))
        with zipfile.ZipFile(twice, "a") as archive:
            archive.writestr("other.dist-info/METADATA", kit.metadata("small", "2.0", ("evil",)))
        for version, content in (("1.0", b"no archive"), ("2.0", twice.getvalue())):
            room.upstream.add_file("small", kit.wheel_name("small", version), content)
        for version in ("1.0", "2.0"):
            refused = await room.get(await room.address("small", kit.wheel_name("small", version)))
            assert refused.status_code == 403 and "holds no metadata that can be read" in refused.reason_phrase

    async def test_in_folders_of_this_machine_too(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path
    ) -> None:
        room = Room(*servers, tmp_path)
        (tmp_path / kit.wheel_name("small", "1.0")).write_bytes(kit.wheel("small", "1.0", (DIRECT,)))
        room.authority.rule()
        async with opened(room, PipConfig(find_links=(str(tmp_path),))):
            refused = await room.get(await room.address("small", kit.wheel_name("small", "1.0")))
            assert refused.status_code == 403 and "from an address of its own" in refused.reason_phrase

    async def test_attestations_are_passed_through_and_authorised(self, room: Room) -> None:
        """PEP 740: whatever it says, it comes from upstream's address, and not for what is refused."""
        room.upstream.files["/p.json"] = b'{"version": 1, "attestation_bundles": []}'
        where = f"http://localhost:{room.upstream.port}/p.json"
        filename = room.upstream.add("small", "1.0", provenance=where)
        address = await room.address("small", filename)
        assert (await room.get(address + ".provenance")).json()["attestation_bundles"] == []
        assert (await room.get(address + ".provenance", token="dead")).status_code == 403
        room.rule(blocked_packages=["small"])
        assert (await room.get(address + ".provenance")).status_code == 403


class TestIdentity:
    @pytest.mark.parametrize(
        "path", ["simple/", "simple/small/", "files/small/x/small-1.0-py3-none-any.whl", "denials"]
    )
    async def test_without_a_token_nobody_is_prompted_for_one(self, room: Room, path: str) -> None:
        for token in ("", "dead"):
            answer = await room.get(path, token=token)
            assert answer.status_code == 403 and "www-authenticate" not in answer.headers
            assert "running notebook server" in answer.json()["detail"]
            assert room.upstream.asked == []

    async def test_forms_of_the_token(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        for header in ("Bearer alive", "token alive", "Basic YWxpdmU6", "Basic eDphbGl2ZQ=="):
            assert (await room.get("simple/small/", token="", Authorization=header)).status_code == 200, header
        for header in ("Basic %%%", "Digest alive", "Bearer", "alive"):
            assert (await room.get("simple/small/", token="", Authorization=header)).status_code == 403, header

    async def test_a_token_dies_with_its_launch(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        assert (await room.get("simple/small/")).status_code == 200
        room.authority.tokens.clear()
        room.clock.pass_(6)
        assert (await room.get("simple/small/")).status_code == 403

    async def test_answers_are_kept_for_seconds(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        for _ in range(3):
            await room.get("simple/small/")
        assert sorted(room.authority.asked) == ["/api/policy/packages", "/api/policy/tokens"]

    async def test_service_away_known_serves_five_minutes_and_unknown_never(self, room: Room) -> None:
        room.upstream.add("small", "1.0")
        assert (await room.get("simple/small/")).status_code == 200
        room.authority.away = True
        room.clock.pass_(290)
        assert (await room.get("simple/small/")).status_code == 200
        unknown = await room.get("simple/small/", token="dead")
        assert unknown.status_code == 503 and "policy cannot be asked" in unknown.reason_phrase
        room.clock.pass_(20)
        assert (await room.get("simple/small/")).status_code == 503
        room.authority.away = False
        assert (await room.get("simple/small/")).status_code == 200

    async def test_denials_go_on_after_a_restart(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path
    ) -> None:
        """Who remembers the last one that they saw misses none of those that come."""
        room = Room(*servers, tmp_path)
        filename = room.upstream.add("evil", "1.0")
        room.authority.rule(upstream=room.upstream.url, blocked_packages=["evil"])
        seen = 0
        for _ in range(2):
            async with opened(room):
                await room.get(await room.address("evil", filename))
                told = (await room.get(f"denials?since={seen}")).json()
                assert len(told["denials"]) == 1
                seen = told["next"]

    async def test_health_needs_no_token(self, room: Room) -> None:
        assert (await room.get("health", token="")).json() == {"status": "ok"}


class TestUpstreamAway:
    async def test_it_serves_what_it_has_after_a_restart_too(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path
    ) -> None:
        room = Room(*servers, tmp_path)
        filename = room.upstream.add("small", "1.0")
        room.upstream.add("other", "1.0")
        async with opened(room):
            address = await room.address("small", filename)
            await room.get(address)
        room.upstream.away = True
        async with opened(room):
            assert await room.address("small", filename) == address
            assert (await room.get(address)).content == kit.wheel("small", "1.0")
            missing = await room.get("simple/other/")
            assert missing.status_code == 502 and "does not answer" not in missing.text.replace("answered", "")
            assert "127.0.0.1" in missing.json()["detail"]

    async def test_a_source_that_is_away_is_not_replaced_by_the_next_one(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path
    ) -> None:
        """What an organisation keeps on its own index is never taken from another because that one is down."""
        room = Room(*servers, tmp_path)
        room.upstream.add("internal", "1.0")
        room.authority.rule(index={"upstream": ["http://127.0.0.1:9/simple/", room.upstream.url]})
        async with opened(room):
            assert (await room.get("simple/internal/")).status_code == 502

    async def test_many_large_files_on_the_way_keep_no_page_waiting_and_are_no_sign_of_it(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_module, "_LIMITS", httpx.Limits(max_connections=1))
        monkeypatch.setattr(http_module, "_TIMEOUT", httpx.Timeout(20, pool=0.1))
        files = [room.upstream.add("large", version, padding=3_000_000) for version in ("1.0", "2.0")]
        first, second = [await room.address("large", name) for name in files]
        room.upstream.gate = threading.Event()
        running = asyncio.create_task(room.get(first))
        await until(lambda: f"/packages/large/{files[0]}" in room.upstream.asked)
        refused = await room.get(second)
        assert refused.status_code == 502 and "asked for too much at once" in refused.text
        room.upstream.add("small", "1.0")
        assert (await room.page("small"))["files"], "it does not count as away"
        room.upstream.gate.set()
        assert (await running).status_code == 200

    async def test_one_launch_leaves_others_their_downloads(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [room.upstream.add("large", f"{number}.0", padding=3_000_000) for number in range(10)]
        *addresses, one_more = [await room.address("large", name) for name in files]
        room.authority.admit("other", launch="launch-2")
        room.upstream.gate = threading.Event()

        def running() -> int:
            return sum(path.endswith(".whl") for path in room.upstream.asked)

        greedy = [asyncio.create_task(room.get(address)) for address in addresses[:8]]
        await until(lambda: running() == 6)
        modest = [asyncio.create_task(room.get(address, "other")) for address in addresses[7:]]
        await until(lambda: running() == 8)  # the last one of the greedy too, for it is not for them alone
        assert sum(path.endswith(".whl.metadata") for path in room.upstream.asked) == 9, "small files do not wait"
        monkeypatch.setattr(downloads_module, "_UNFINISHED", 7)
        refused = await room.get(one_more)
        assert refused.status_code == 503 and "downloads under way already" in refused.reason_phrase
        room.upstream.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*greedy, *modest)} == {200}

    async def test_a_download_that_nobody_reads_ends(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(downloads_module, "_UNREAD_SECONDS", 0.05)
        monkeypatch.setattr(downloads_module, "_RUNNING", 1)
        room = Room(*servers, tmp_path)
        drafts = tmp_path / "packages" / "drafts"
        async with opened(room) as index:
            files = [room.upstream.add("large", version, padding=8_000_000) for version in ("1.0", "2.0")]
            addresses = [await room.address("large", name) for name in files]
            room.upstream.gate = threading.Event()
            asking = [asyncio.create_task(room.get(address)) for address in addresses]
            (shelf,) = index._shelves.values()
            await until(lambda: shelf.downloads._turns.count("launch-1") == 2)
            await until(lambda: index._cache.drafting > 1_000_000)  # one runs, the other one waits for it
            for one in asking:
                one.cancel()
            await until(lambda: len(list(drafts.iterdir())) == 1)  # what waits ends at once
            room.upstream.gate.set()
            await until(lambda: not list(drafts.iterdir()))
            assert index._cache.drafting == 0
            answers = [await room.get(address) for address in addresses]
            assert [answer.status_code for answer in answers] == [200, 200], "and who asks again gets it"

    async def test_what_arrives_takes_its_room_from_what_is_kept(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, limit=10_000)
        await cache.open()
        await cache.write("aa1", b"a")
        await cache.grow(9_000)
        assert await cache.find("aa1") is None and cache.size == 0


class TestSources:
    async def test_names_that_nobody_has_do_not_fill_the_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_module, "_PAGES_OF_LINKS", 10)
        (tmp_path / kit.wheel_name("small", "1.0")).write_bytes(kit.wheel("small", "1.0"))
        links = LocalLinks(tmp_path)
        for number in range(35):
            assert await links.page(f"made-up-{number}") is None
            assert await links.page("small") is not None
        assert len(links._pages) <= 10

    async def test_nor_do_they_with_a_page_of_links_on_the_network_which_is_read_once(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [kit.wheel_name("small", "1.0"), "a-b-2.0.tar.gz", "other-3.0.tar.gz"]
        links = "".join(f'<a href="http://localhost:{room.upstream.port}/{name}">x</a>' for name in names)
        room.upstream.files["/links/"] = f"<html>{links}</html>".encode()
        read = []
        real = upstream_module.read_html_page
        monkeypatch.setattr(upstream_module, "read_html_page", lambda *it: read.append(it) or real(*it))
        async with opened(room) as index:
            http = Http(PipConfig())
            await http.open()
            source = RemoteLinks(f"http://127.0.0.1:{room.upstream.port}/links/", http, index._cache)
            for number in range(20):
                assert await source.page(f"made-up-{number}") is None
            found = {name: await source.page(name) for name in ("small", "a", "a-b", "other")}
            assert await source.page("small") is found["small"], "the same while it has not changed"
            await http.close()
        versions = {name: [file.version for file in page.files] for name, page in found.items() if page}
        assert versions == {"small": ["1.0"], "a": ["b-2.0"], "a-b": ["2.0"], "other": ["3.0"]}
        assert len(read) == len(source._parsed) == 1 and source.may_visit("localhost")

    async def test_several_indexes_and_folders_in_pips_order(
        self, servers: tuple[kit.Upstream, kit.Authority], tmp_path: Path
    ) -> None:
        """Like ``find-links``, ``index-url`` and ``extra-index-url`` of pip, where an admin lets them mix."""
        room = Room(*servers, tmp_path)
        room.upstream.add("small", "1.0")
        room.upstream.add("small", "2.0")
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        (wheels / kit.wheel_name("small", "1.0")).write_bytes(kit.wheel("small", "1.0", ("from-the-folder",)))
        (wheels / kit.wheel_name("small", "3.0")).write_bytes(kit.wheel("small", "3.0"))
        content = kit.wheel("small", "4.0")
        folder = tmp_path / "index" / "small"
        folder.mkdir(parents=True)
        (folder / kit.wheel_name("small", "4.0")).write_bytes(content)
        (folder / "index.html").write_text(
            f'<a href="{kit.wheel_name("small", "4.0")}#sha256={kit.sha256(content)}">x</a>'
        )
        config = PipConfig(indexes=(room.upstream.url, (tmp_path / "index").as_uri()), find_links=(str(wheels),))
        room.authority.rule(index={"merge_indexes": True})
        async with opened(room, config):
            page = await room.page("small")
            versions = [entry["filename"].split("-")[1] for entry in page["files"]]
            assert versions == ["1.0", "3.0", "2.0", "4.0"]
            assert page["meta"]["api-version"] == "1.0" and "versions" not in page
            for version in ("3.0", "4.0"):
                address = await room.address("small", kit.wheel_name("small", version))
                assert (await room.get(address)).content == kit.wheel("small", version)
            first = await room.get(await room.address("small", kit.wheel_name("small", "1.0")))
            assert first.content == kit.wheel("small", "1.0", ("from-the-folder",))
            (folder / kit.wheel_name("small", "4.0")).write_bytes(b"forged")
            forged = await room.get(await room.address("small", kit.wheel_name("small", "4.0")))
            assert forged.status_code == 502

    @pytest.fixture
    async def other(self) -> AsyncIterator[kit.Upstream]:
        """One more index."""
        with kit.upstream_and_authority() as (upstream, _):
            yield upstream

    async def test_the_first_index_that_has_a_project_owns_it(self, room: Room, other: kit.Upstream) -> None:
        """Else whoever publishes a higher version on another index gives it to everybody (dependency confusion)."""
        room.upstream.add("small", "1.0")
        other.add("small", "99.0")
        other.add("theirs", "1.0")
        room.rule(index={"upstream": [room.upstream.url, other.url]})
        assert [entry["filename"] for entry in (await room.page("small"))["files"]] == [kit.wheel_name("small", "1.0")]
        assert other.asked == []
        assert len((await room.page("theirs"))["files"]) == 1
        room.rule(index={"upstream": [room.upstream.url, other.url], "merge_indexes": True})
        assert len((await room.page("small"))["files"]) == 2

    @pytest.mark.parametrize("status", [403, 500, 503])
    async def test_an_index_that_may_own_a_name_is_not_passed_over(
        self, room: Room, other: kit.Upstream, status: int
    ) -> None:
        other.add("secret", "99.0")
        room.upstream.statuses["/simple/secret/"] = status
        room.rule(index={"upstream": [room.upstream.url, other.url]})
        assert (await room.get("simple/secret/")).status_code == 502
        assert other.asked == []

    async def test_an_index_alone_may_answer_403_for_what_it_does_not_have(self, room: Room) -> None:
        room.upstream.statuses["/simple/nothing/"] = 403
        assert (await room.get("simple/nothing/")).status_code == 404

    async def test_that_a_project_was_not_there_is_not_kept_for_when_its_index_is_away(
        self, servers: tuple[kit.Upstream, kit.Authority], other: kit.Upstream, tmp_path: Path
    ) -> None:
        room = Room(*servers, tmp_path)
        other.add("secret", "99.0")
        room.authority.rule(index={"upstream": [room.upstream.url, other.url]})
        async with opened(room):
            assert (await room.get("simple/secret/")).status_code == 200
        room.upstream.away = True
        async with opened(room):
            assert (await room.get("simple/secret/")).status_code == 502

    async def test_internal_names_are_never_asked_of_upstream(self, room: Room, other: kit.Upstream) -> None:
        for index in (room.upstream, other):
            index.add("acme-tools", "1.0" if index is other else "99.0")
            index.add("secretsauce", "1.0")
            index.add("small", "1.0")
        own = {"internal_names": ["Acme_*", "secretsauce"], "internal_upstream": other.url}
        room.rule(index={"upstream": room.upstream.url, **own})
        for name in ("acme-tools", "ACME.tools", "secretsauce"):
            (entry,) = (await room.page(name))["files"]
            assert "-1.0-" in entry["filename"] and (await room.get(entry["url"])).status_code == 200
        assert (await room.get("simple/acme-nothing/")).status_code == 404
        assert room.upstream.asked == []
        await room.page("small")
        assert "/simple/small/" in room.upstream.asked and "/simple/small/" not in other.asked
        names = [entry["name"] for entry in (await room.get("simple/", Accept=JSON_V1)).json()["projects"]]
        assert names == ["acme-tools", "secretsauce", "small"]
        other.away = True
        assert (await room.get("simple/acme-other/")).status_code == 502
        assert not [path for path in room.upstream.asked if "acme" in path]

    async def test_an_internal_name_without_an_index_of_its_own_is_refused_and_explained(self, room: Room) -> None:
        room.upstream.add("acme-tools", "99.0")
        room.rule(index={"upstream": room.upstream.url, "internal_names": ["acme-tools"]})
        refused = await room.get("simple/acme-tools/")
        assert refused.status_code == 403 and room.upstream.asked == []
        assert "acme-tools is an internal name here (internal_names)" in refused.json()["detail"]
        (denial,) = (await room.get("denials")).json()["denials"]
        assert denial["package"] == "acme-tools" and "internal_upstream" in denial["message"]

    async def test_pip_itself_tells_where_packages_come_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "pip.conf"
        config.write_text(
            "[global]\nindex-url = https://u:p@mirror.example.org/simple\nextra-index-url = https://b.example.org/simple\n"
            "  file:///srv/simple\nfind-links =\ntrusted-host = b.example.org\ncert = /etc/ca.pem\n"
        )
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_TRUSTED_HOST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
        told = await read_pip_config()
        assert told.indexes == (
            "https://u:p@mirror.example.org/simple",
            "https://b.example.org/simple",
            "file:///srv/simple",
        )
        assert told.find_links == () and told.trusted_hosts == ("b.example.org",) and told.cert == "/etc/ca.pem"

    async def test_unset_means_pips_own_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tmp_path / "pip.conf"
        config.write_text("[global]\nindex-url =\nextra-index-url =\nfind-links =\n")
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
        (default,) = (await read_pip_config()).indexes
        assert default.startswith("https://") and default.rstrip("/").endswith("/simple")

    async def test_without_pip_the_admin_reads_what_to_do(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pip_config, "_ASK_PIP", "raise SystemExit('no pip here')")
        with pytest.raises(pip_config.PipConfigError, match=r"no pip here.*index: upstream:"):
            await read_pip_config()


class TestPieces:
    @pytest.mark.parametrize(
        "accept, form",
        [
            ("", "text"),
            ("*/*", "text"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text"),
            (f"{JSON_V1}, {HTML_V1}; q=0.1, text/html; q=0.01", "json"),  # pip
            (f"{JSON_V1}, {HTML_V1};q=0.2, text/html;q=0.01", "json"),  # uv
            (f"{JSON_V1};q=0.1, {HTML_V1}", "html"),
            ("application/vnd.pypi.simple.latest+json", "json"),
            (f"{JSON_V1};q=0, */*", "text"),
            (f"{JSON_V1};q=0", None),
            ("application/vnd.pypi.simple.v2+json", None),
            (f"{JSON_V1};q=high, text/html;q=0.1", "text"),
        ],
    )
    def test_choosing_a_form(self, accept: str, form: str | None) -> None:
        assert choose_form(accept) == form

    def test_gzip(self) -> None:
        assert takes_gzip("gzip, deflate") and takes_gzip("br;q=1.0, gzip;q=0.8")
        assert not takes_gzip("gzip;q=0") and not takes_gzip("identity") and not takes_gzip("")

    @pytest.mark.parametrize(
        "filename, project, version",
        [
            ("small-1.0-py3-none-any.whl", "small", "1.0"),
            ("Small_Thing-1.0-1-cp311-cp311-linux_x86_64.whl", "small-thing", "1.0"),
            ("torch-2.1.0+cu118-cp311-cp311-linux_x86_64.whl", "torch", "2.1.0+cu118"),
            ("small-thing-1.0.tar.gz", "small-thing", "1.0"),
            ("small.thing-1.0.zip", "small-thing", "1.0"),
            ("small-thing-1.0.tar.gz", "small", "thing-1.0"),
            ("requests-2.0-py3-none-any.whl", "small", None),
            ("my-small-1.0-py3-none-any.whl", "my-small", None),
            ("small.tar.gz", "small", None),
            ("../small-1.0.tar.gz", "small", None),
        ],
    )
    def test_the_version_in_a_files_name(self, filename: str, project: str, version: str | None) -> None:
        assert file_version(filename, project) == version

    def test_a_version_that_pip_would_read_in_another_project_is_no_version(self) -> None:
        """``thing-1.0`` is what pip reads too; no rule about versions allows it, and every one refuses it."""
        assert file_version("small-thing-1.0.tar.gz", "small") == "thing-1.0"

    def test_of_two_files_of_one_name_the_first_counts(self) -> None:
        def page(host: str) -> Any:
            entry = {"filename": "a-1.tar.gz", "url": f"https://{host}/a-1.tar.gz", "hashes": {}}
            return parse_json_page(json.dumps({"files": [entry]}).encode(), f"https://{host}/", "a")

        (file,) = merge([page("first"), page("second")]).files
        assert file.url == "https://first/a-1.tar.gz"

    def test_base_and_relative_links_of_a_page(self) -> None:
        body = b'<base href="/files/"><a href="a-1.tar.gz#md5=0123">a</a><a href="//x/a-2.zip">b</a><a name=q>c</a>'
        page = parse_html_page(body, "https://host/simple/a/", "a")
        assert [file.url for file in page.files] == ["https://host/files/a-1.tar.gz", "https://x/a-2.zip"]
        assert page.files[0].hashes == {"md5": "0123"} and page.hosts == {"host", "x"}

    @pytest.mark.parametrize(
        "header, part",
        [
            ("bytes=0-9", (0, 10)),
            ("bytes=90-", (90, 100)),
            ("bytes=90-500", (90, 100)),
            ("bytes=-10", (90, 100)),
            ("bytes=-500", (0, 100)),
            ("bytes=0-1,5-6", None),
            ("items=0-1", None),
            ("bytes=9-3", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
        ],
    )
    def test_ranges(self, header: str, part: tuple[int, int] | None) -> None:
        assert parse_range(header, 100) == part

    @pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0"])
    def test_ranges_outside(self, header: str) -> None:
        with pytest.raises(ValueError):
            parse_range(header, 100)

    def test_a_reason_phrase_is_what_tornado_and_http_allow(self) -> None:
        phrase = reason_phrase("numpy<2 and <=3 – nö\r\nX-Evil: 1 " + "x" * 500)
        assert phrase.startswith("numpy below 2 and up to 3 ? n? X-Evil: 1 xxx")
        assert len(phrase) <= 400 and "<" not in phrase and phrase.isascii() and phrase.isprintable()

    def test_passwords_of_upstreams(self) -> None:
        assert split_credentials("https://u:p%40ss@host:1/a") == ("https://host:1/a", ("u", "p@ss"))
        assert split_credentials("https://host/a") == ("https://host/a", None)


class TestCache:
    async def test_the_longest_unused_files_go_first(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path / "cache", limit=3 * 4096)
        await cache.open()
        for name in ("aa1", "bb2", "cc3"):
            await cache.write(name, name.encode())
        assert await cache.find("aa1")
        await cache.write("dd4", b"d")
        assert await cache.find("bb2") is None
        assert [path.read_text() for name in ("aa1", "cc3", "dd4") if (path := await cache.find(name))] == [
            "aa1",
            "cc3",
            "d",
        ]

    async def test_it_takes_over_what_was_there_and_forgets_drafts(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, limit=10**6)
        await cache.open()
        await cache.write("aa1", b"a")
        cache.draft()
        again = DiskCache(tmp_path, limit=10**6)
        await again.open()
        found = await again.find("aa1")
        assert found is not None and found.read_bytes() == b"a"
        assert not list((tmp_path / "drafts").iterdir()) and again.size == 4096
        found.unlink()
        assert await again.find("aa1") is None and again.size == 0


def test_the_held_back_part_is_large_enough_for_a_sentence() -> None:
    """Small files are verified before a byte leaves, so that a forged one is refused with a sentence."""
    assert downloads_module.HELD_BACK >= 512 * 1024


def test_python_is_new_enough_for_file_digest() -> None:
    assert sys.version_info >= (3, 11) and hasattr(hashlib, "file_digest")
