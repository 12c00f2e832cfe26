"""What the index shows and refuses, compared with a slow model that is written from the PEPs alone.

PEP 503 (names, HTML), 592 (yanked), 658 and 714 (metadata), 691 (JSON), 700 (versions, sizes), 792 (status). The model
knows nothing of the code: it reads what is rendered with a parser of its own and asks a policy of its own.
"""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from maestro_core.packages import PackagePolicy, compile_policy
from maestro_hub_services.packages.pages import parse_html_page, parse_json_page
from maestro_hub_services.packages.views import render_page, verdict_on

PREFIX, PAGE = "/services/packages/", "https://mirror.example.org/simple/small-thing/"
PROJECT = "small-thing"
VERSIONS = ("1.0", "1.5", "2.0rc1", "2.0", "10.0")
#: (how upstream names a file, does it belong to the project)
NAMES = {
    "small_thing-{v}-py3-none-any.whl": True,
    "Small.Thing-{v}-1-cp311-cp311-linux_x86_64.whl": True,
    "small-thing-{v}.tar.gz": True,
    "small_thing-{v}.zip": True,
    "smallthing-{v}-py3-none-any.whl": False,
    "other-{v}.tar.gz": False,
    "small-thing.tar.gz": False,
}

FILES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(sorted(NAMES)),
        "version": st.sampled_from(VERSIONS),
        "yanked": st.sampled_from([None, False, True, 'it "lost" <data>']),
        "python": st.sampled_from([None, ">=3.8", ">=3.8,<4"]),
        "metadata": st.sampled_from([None, False, True, {"sha256": "ab" * 32}]),
        "size": st.none() | st.integers(0, 10**9),
        "future": st.none() | st.lists(st.integers(0, 9), max_size=2),
    }
)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "blocked_packages": st.lists(st.sampled_from(["Small_Thing", "small-thing>=2", "other"]), max_size=2),
        "approval_required": st.lists(st.sampled_from(["small.thing<1.5", "small-thing"]), max_size=2),
        "allowlist": st.lists(st.sampled_from(["small-thing==1.*", "SMALL-THING"]), max_size=2),
        "preset": st.sampled_from(["open", "strict"]),
        "sdists": st.sampled_from(["allow", "ask", "block"]),
    },
)


def entry(number: int, drawn: dict[str, Any]) -> dict[str, Any]:
    """A file as upstream lists it (PEP 691), with a hash that tells it apart."""
    filename = drawn["name"].format(v=drawn["version"])
    made = {"filename": filename, "url": f"/files/{filename}", "hashes": {"sha256": f"{number:064x}"}}
    keys = {"yanked": "yanked", "python": "requires-python", "metadata": "core-metadata", "size": "size",
            "future": "x-future"}  # fmt: skip
    return made | {key: drawn[name] for name, key in keys.items() if drawn[name] is not None}


def allowed(section: dict[str, Any], version: str, source: bool) -> bool:
    """The global policy in words: block over allow over ask, else the preset; then the rule about source."""

    def spoken(key: str) -> bool:
        for text in section.get(key, []):
            name, specifier = re.fullmatch(r"([A-Za-z._-]+)(.*)", text).groups()  # type: ignore[union-attr]
            normal = re.sub(r"[-_.]+", "-", name).lower()  # PEP 503
            if normal == PROJECT and SpecifierSet(specifier).contains(Version(version), prereleases=True):
                return True
        return False

    if spoken("blocked_packages"):
        return False
    if not spoken("allowlist") and (spoken("approval_required") or section.get("preset") == "strict"):
        return False
    return not source or section.get("sdists", "allow") == "allow"


def links(html: str) -> list[dict[str, str]]:
    """The anchors of a PEP 503 page: attributes, unescaped, and the text."""
    found = []
    for attributes, text in re.findall(r"<a ([^>]*)>([^<]*)</a>", html):
        pairs = re.findall(r'([a-z-]+)="([^"]*)"', attributes)
        found.append({name: unescape(value) for name, value in pairs} | {"text": unescape(text)})
    return found


@settings(max_examples=150, deadline=None)
@given(drawn=st.lists(FILES, max_size=8), section=POLICIES, form=st.sampled_from(["json", "html"]))
def test_pages_and_files_agree_with_the_slow_model(
    drawn: list[dict[str, Any]], section: dict[str, Any], form: str
) -> None:
    listed = [entry(number, each) for number, each in enumerate(drawn)]
    belongs = [each for each in drawn if NAMES[each["name"]]]
    expected = [made for made, each in zip(listed, drawn, strict=True) if NAMES[each["name"]]]
    top = {"meta": {"api-version": "1.4", "x": 1}, "versions": list(VERSIONS), "project-status": {"status": "archived"}}
    page = parse_json_page(json.dumps({**top, "name": "Small_Thing", "files": listed}).encode(), PAGE, PROJECT)
    if form == "html":  # through our own HTML and back: nothing that HTML can say is lost on the way
        text = render_page(page, compile_policy(PackagePolicy()), "html", "/").plain
        page = parse_html_page(text, "https://mirror.example.org/", PROJECT)
    policy = compile_policy(PackagePolicy.model_validate(section))

    may = [allowed(section, each["version"], not each["name"].endswith(".whl")) for each in belongs]
    for verdict, file in zip(may, page.files, strict=True):
        assert verdict_on(policy, page, file).allowed is verdict
    open_versions = {each["version"] for each, yes in zip(belongs, may, strict=True) if yes}

    told = json.loads(render_page(page, policy, "json", PREFIX).plain)
    shown = links(render_page(page, policy, "html", PREFIX).plain.decode())
    assert told["name"] == PROJECT and told["project-status"] == {"status": "archived"}
    if form == "json":
        assert told["meta"] == top["meta"] and told["versions"] == list(VERSIONS)
    assert [file["filename"] for file in told["files"]] == [made["filename"] for made in expected]
    for file, link, made, each, yes in zip(told["files"], shown, expected, belongs, may, strict=True):
        assert file["hashes"] == made["hashes"]
        assert file["url"].startswith(f"{PREFIX}files/{PROJECT}/") and file["url"].endswith("/" + made["filename"])
        assert ("/refused-" in file["url"]) is not yes
        if not yes and open_versions and each["version"] not in open_versions:
            assert PROJECT in file["yanked"] and file["yanked"] == link["data-yanked"]
        elif made.get("yanked"):
            assert file["yanked"] == made["yanked"] or (form, file["yanked"], made["yanked"]) == ("html", "", True)
            assert link["data-yanked"] == (made["yanked"] if isinstance(made["yanked"], str) else "")
        else:
            assert not file.get("yanked") and "data-yanked" not in link
        assert file.get("requires-python") == made.get("requires-python") == link.get("data-requires-python")
        metadata = made.get("core-metadata") or None
        assert (file.get("core-metadata") or None) == metadata
        fragment = metadata and ("true" if metadata is True else f"sha256={metadata['sha256']}")
        assert link.get("data-core-metadata") == link.get("data-dist-info-metadata") == fragment
        assert link["href"] == f"{file['url']}#sha256={made['hashes']['sha256']}" and link["text"] == made["filename"]
        if form == "json":
            kept = {key: value for key, value in made.items() if key not in ("url", "yanked")}
            assert {key: file[key] for key in kept} == kept
