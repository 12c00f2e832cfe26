"""A project's page as data: read from PEP 503 HTML or PEP 691 JSON, merged from several indexes.

Every file is kept as the dictionary of PEP 691, with the keys that we do not know (PEP 700, 714, 740, 792 and what
comes after them); HTML is read into the same keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import canonicalize_name

_WHEEL = ".whl"
_TARS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.lzma", ".tgz", ".tbz", ".txz", ".tlz", ".tar")
_ARCHIVES = (*_TARS, ".zip", ".egg", ".exe")
_HASHES = ("sha256", "sha512", "sha384", "blake2b", "sha3_256", "sha3_512", "sha224", "sha1", "md5")
#: the hash that a fragment names first is the one that clients read
STRONG_HASHES = _HASHES[:6]


class PageError(ValueError):
    """An upstream page that is none: neither JSON nor HTML as the PEPs have it."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a project.

    Attributes:
        url: where upstream has it, without fragment.
        fields: the dictionary of PEP 691 as upstream gave it.
        version: as the file's name tells it, or None where that cannot be read.
        attributes: HTML attributes that have no place in ``fields``.
        key: names this address with these hashes; our own URL carries it, so an old URL never means another file.
    """

    filename: str
    url: str
    fields: Mapping[str, Any]
    version: str | None
    attributes: tuple[tuple[str, str], ...] = ()
    key: str = ""

    @property
    def hashes(self) -> dict[str, str]:
        """Hash values by algorithm, in hex."""
        found = self.fields.get("hashes")
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}

    @property
    def size(self) -> int | None:
        """Bytes, where upstream says so (PEP 700)."""
        size = self.fields.get("size")
        return size if isinstance(size, int) and size >= 0 else None

    @property
    def is_source(self) -> bool:
        """Whether it has to be built, which runs its code: everything that is no wheel."""
        return not self.filename.endswith(_WHEEL)

    @property
    def has_metadata(self) -> bool:
        """Whether upstream has ``<file>.metadata`` (PEP 658, under either of its names: PEP 714)."""
        return bool(self.fields.get("core-metadata") or self.fields.get("dist-info-metadata"))

    def companion(self, suffix: str) -> tuple[str, dict[str, str]] | None:
        """Address and hashes of what belongs to the file: ``.metadata``, ``.provenance``, ``.asc``; None if nothing."""
        if suffix == ".metadata" and self.has_metadata:
            told = self.fields.get("core-metadata") or self.fields.get("dist-info-metadata")
            return self.url + suffix, dict(told) if isinstance(told, Mapping) else {}
        if suffix == ".provenance" and isinstance(self.fields.get("provenance"), str):
            return str(self.fields["provenance"]), {}
        if suffix == ".asc" and self.fields.get("gpg-sig"):
            return self.url + suffix, {}
        return None


@dataclass(frozen=True, slots=True)
class Link:
    """One file that a page names, of whatever project; the attributes are those of :class:`File`."""

    filename: str
    url: str
    fields: dict[str, Any]
    attributes: tuple[tuple[str, str], ...] = ()

    def projects(self) -> set[str]:
        """Normal names of all projects of which its name may be a file's: ``a-b-1.zip`` is one of a and of a-b."""
        wheel = self.filename.endswith(_WHEEL)
        ends = [place for place, sign in enumerate(self.filename) if sign == "-"]
        return {canonicalize_name(self.filename[:end]) for end in (ends[:1] if wheel else ends)}


@dataclass(frozen=True)
class Page:
    """One project, from one index or merged from several.

    Attributes:
        name: normal name.
        top: everything of the JSON page but its files and versions; ``meta`` included.
        versions: as PEP 700 lists them.
        metas: HTML ``<meta>`` elements by name.
    """

    name: str
    files: tuple[File, ...] = ()
    top: Mapping[str, Any] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    metas: tuple[tuple[str, str], ...] = ()

    def find(self, filename: str) -> File | None:
        """The file of that name."""
        for file in self.files:
            if file.filename == filename:
                return file
        return None

    @property
    def quarantine(self) -> str | None:
        """Why the index that it comes from holds the whole project back (PEP 792), maybe empty; None if it does not."""
        status = self.top.get("project-status")
        if not isinstance(status, Mapping) or status.get("status") != "quarantined":
            return None
        return " ".join(str(status.get("reason") or "").split())[:200]

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts that the page's addresses name."""
        addresses = [file.url for file in self.files]
        addresses += [str(file.fields["provenance"]) for file in self.files if file.fields.get("provenance")]
        return frozenset(host for host in (urlsplit(address).hostname for address in addresses) if host)


def file_version(filename: str, project: str) -> str | None:
    """The version in a file's name, as pip reads it; None if the file is not one of ``project`` (a normal name).

    A version that is none by PEP 440 is returned as it stands: the policy then refuses rather than guesses.
    """
    if filename.endswith(_WHEEL):
        parts = filename[: -len(_WHEEL)].split("-")
        belongs = len(parts) in (5, 6) and canonicalize_name(parts[0]) == project
        return parts[1] if belongs else None
    stem = filename
    for suffix in _ARCHIVES:
        if filename.endswith(suffix):
            stem = filename[: -len(suffix)]
            break
    for place, sign in enumerate(stem):
        if sign == "-" and canonicalize_name(stem[:place]) == project and stem[place + 1 :]:
            return stem[place + 1 :]
    return None


def parse_json_page(body: bytes, url: str, project: str) -> Page:
    """Read a PEP 691 project page.

    Args:
        url: the page's own address; relative addresses start there.
        project: normal name; files of other projects are left out.

    Raises:
        PageError: if it is no such page, or of another major version.
    """
    return make_page(project, *read_json_page(body, url))


def make_page(project: str, links: Iterable[Link], rest: Page) -> Page:
    """The page of one project, of those links that are files of it."""
    files = (make_file(link.filename, link.url, link.fields, project, link.attributes) for link in links)
    return replace(rest, name=project, files=tuple(file for file in files if file is not None))


def read_json_page(body: bytes, url: str) -> tuple[list[Link], Page]:
    """All that a PEP 691 page names, and what it says besides.

    Raises:
        PageError: as :func:`parse_json_page`.
    """
    data = _json_object(body)
    listed = data.get("files")
    if not isinstance(listed, list):
        raise PageError("the page lists no files")
    links = []
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
            continue
        address, _ = urldefrag(urljoin(url, entry["url"]))
        filename = entry.get("filename") or _name_of(address)
        fields = dict(entry)
        if isinstance(fields.get("provenance"), str):
            fields["provenance"] = urljoin(url, fields["provenance"])
        links.append(Link(str(filename), address, fields))
    versions = data.get("versions")
    return links, Page(
        name="",
        top={key: value for key, value in data.items() if key not in ("files", "versions", "name")},
        versions=tuple(str(version) for version in versions) if isinstance(versions, list) else (),
    )


def parse_html_page(body: bytes, url: str, project: str, encoding: str | None = None) -> Page:
    """Read a PEP 503 project page, or any page of links (pip's ``find-links``).

    Args:
        url: the page's own address; relative addresses start there, or at its ``<base>``.
        project: normal name; links to other projects' files are left out.
    """
    return make_page(project, *read_html_page(body, url, encoding))


def read_html_page(body: bytes, url: str, encoding: str | None = None) -> tuple[list[Link], Page]:
    """All that an HTML page names, and what it says besides."""
    reader = _read_html(body, url, encoding)
    links = []
    for address, attributes in reader.links:
        plain, fragment = urldefrag(address)
        fields: dict[str, Any] = {"filename": _name_of(plain), "url": plain, "hashes": _fragment_hashes(fragment)}
        rest = _fields_from_attributes(fields, attributes, url)
        links.append(Link(fields["filename"], plain, fields, rest))
    top: dict[str, Any] = {"meta": {"api-version": "1.0"}}
    metas = tuple((name, value) for name, value in reader.metas if name.startswith("pypi:"))
    status = dict(metas).get("pypi:project-status")
    if status:
        reason = dict(metas).get("pypi:project-status-reason")
        top["project-status"] = {"status": status} | ({"reason": reason} if reason else {})
    return links, Page(name="", top=top, metas=metas)


def parse_names(body: bytes, content_type: str, url: str) -> list[str]:
    """The projects that an index lists on its root page.

    Raises:
        PageError: if it is no such page.
    """
    if is_json(content_type):
        listed = _json_object(body).get("projects")
        entries = listed if isinstance(listed, list) else []
        return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]
    return [text for text in _read_html(body, url, None).texts if text]


def is_json(content_type: str) -> bool:
    """Whether a page's content type is the JSON of PEP 691 (or plain JSON, as some mirrors label it)."""
    media = content_type.partition(";")[0].strip().lower()
    return media.endswith("+json") or media == "application/json"


def make_file(
    filename: str, url: str, fields: dict[str, Any], project: str, attributes: tuple[tuple[str, str], ...] = ()
) -> File | None:
    """One file, or None if its name is not one of the project's files or could lead out of its folder."""
    version = file_version(filename, project)
    if version is None or "/" in filename or "\\" in filename or not filename.isprintable():
        return None
    hashes = fields.get("hashes")
    known = hashes if isinstance(hashes, Mapping) else {}
    text = json.dumps([url, sorted((str(name), str(value)) for name, value in known.items())])
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    return File(filename, url, fields, version, attributes, key)


def merge(pages: Iterable[Page]) -> Page:
    """One page of several indexes' pages, in pip's order: of two files of the same name the first counts.

    What a page says about the project itself comes from the first index that has it. The API version is the oldest,
    because one index without sizes (PEP 700) makes the whole page one without.
    """
    found = list(pages)
    first = found[0]
    if len(found) == 1:
        return first
    files: dict[str, File] = {}
    for page in found:
        for file in page.files:
            files.setdefault(file.filename, file)
    versions = dict.fromkeys(version for page in found for version in page.versions)
    complete = all(page.versions for page in found)
    top = dict(first.top)
    meta = top.get("meta")
    oldest = min(_minor_version(page) for page in found)
    top["meta"] = {**(meta if isinstance(meta, Mapping) else {}), "api-version": f"1.{oldest}"}
    return Page(first.name, tuple(files.values()), top, tuple(versions) if complete else (), first.metas)


def _minor_version(page: Page) -> int:
    meta = page.top.get("meta")
    minor = str(meta.get("api-version", "1.0")).partition(".")[2] if isinstance(meta, Mapping) else "0"
    return int(minor) if minor.isdigit() else 0


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise PageError("the page is no JSON") from None
    if not isinstance(data, dict):
        raise PageError("the page is no JSON object")
    meta = data.get("meta")
    version = str(meta.get("api-version", "1.0")) if isinstance(meta, dict) else "1.0"
    if version.partition(".")[0] != "1":
        raise PageError(f"the page is of API version {version[:20]}, and this index knows 1")
    return data


def _name_of(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _fragment_hashes(fragment: str) -> dict[str, str]:
    for part in fragment.split("&"):
        name, separator, value = part.partition("=")
        if separator and name in _HASHES and value.isalnum():
            return {name: value.lower()}
    return {}


def _fields_from_attributes(
    fields: dict[str, Any], attributes: Mapping[str, str | None], url: str
) -> tuple[tuple[str, str], ...]:
    """Fill in what HTML says in attributes (PEP 503, 592, 658, 714, 740); return those that have no JSON key."""
    rest = []
    for name, value in attributes.items():
        text = value or ""
        if name == "data-requires-python":
            fields["requires-python"] = text
        elif name == "data-yanked":
            fields["yanked"] = text or True
        elif name in ("data-core-metadata", "data-dist-info-metadata"):
            fields[name.removeprefix("data-")] = _fragment_hashes(text) or True
        elif name == "data-gpg-sig":
            fields["gpg-sig"] = text == "true"
        elif name == "data-provenance" and text:
            fields["provenance"] = urljoin(url, text)
        elif name.startswith("data-"):
            rest.append((name, text))
    return tuple(rest)


class _LinkReader(HTMLParser):
    """Collects links, their texts, and the page's ``<meta>`` and ``<base>``."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base = url
        self.links: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.metas: list[tuple[str, str]] = []
        self._inside = False
        self._based = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "base" and found.get("href") and not self._based:
            self.base, self._based = urljoin(self.base, found["href"] or ""), True
        elif tag == "meta" and found.get("name"):
            self.metas.append((str(found["name"]), found.get("content") or ""))
        elif tag == "a" and found.get("href"):
            self.links.append((urljoin(self.base, (found.pop("href") or "").strip()), found))
            self.texts.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data.strip()


def _read_html(body: bytes, url: str, encoding: str | None) -> _LinkReader:
    reader = _LinkReader(url)
    try:
        text = body.decode(encoding or "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    reader.feed(text)
    reader.close()
    return reader
