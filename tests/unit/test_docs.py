"""The pages that are made from the code are current, and links between pages lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from maestro_core.quota import LEVELS, LIMITS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(generator().PAGES))
def test_a_generated_page_says_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == generator().PAGES[name](), "run: python docs/generate.py"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_admins_are_told_every_limit_and_level() -> None:
    page = (DOCS / "for-admins.md").read_text()
    assert [name for name in LIMITS if f"`{name}`" not in page] == []
    places = ("everyone", "groups.<name>", "users.<name>", "workspaces.<name>", "pools.everyone", "pools.groups.<name>")
    assert len(places) == len(LEVELS) and all(f"`quotas.{place}`" in page for place in places)


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^([a-z-]+)$", index, re.MULTILINE))
    assert listed == {page.stem for page in DOCS.glob("*.md")} - {"index"}
