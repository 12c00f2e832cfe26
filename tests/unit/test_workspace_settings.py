"""What a workspace is set up with: the forms of YAML that the project began with, and every mistake by its name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.workspace_settings import WorkspaceSettings, check_disk
from maestro_core.workspaces import WorkspaceChange, WorkspaceSpec

#: as the second of the two documents writes them
CONFIG = """
resources:
  cpu: 4
  memory: 8g
  gpu: 1
  disk: 20g
environment:
  python_version: "3.11"
  jupyter_version: "latest"
security:
  trusted_channels: ["conda-forge", "defaults", "pytorch"]
  blocked_packages: ["aiohttp", "telnetlib"]
"""
SECURITY = """
package_management:
  trusted_channels:
    - conda-forge
    - company-internal # Custom channel
  blocked_packages:
    - requests
    - os.system
  approval_required:
    - tensorflow
  allowlist:
    - numpy
"""
TEMPLATE = """
name: data-science-workspace
resources:
  cpu: 8
  memory: 16g
  gpu: 1
packages:
  - numpy
  - pandas
  - scikit-learn
security:
  trusted_channels: ["conda-forge", "defaults"]
  approval_required: []
environment:
  PYTHONPATH: "/workspace"
  JUPYTER_ENABLE_LAB: "yes"
"""


def read(text: str) -> WorkspaceSettings:
    return read_model(WorkspaceSettings, yaml.safe_load(text))


class TestTheFormsOfYaml:
    def test_resources_with_a_disk_and_versions(self) -> None:
        settings = read(CONFIG)
        assert settings.amounts is not None
        assert settings.amounts.show() == "4 cpu, 8 GiB, 1 gpu"
        assert settings.disk == 20 * 1024**3
        assert settings.environment is not None and settings.environment.python_version == "3.11"
        assert settings.variables == {}
        assert settings.security is not None
        assert [rule.package for rule in settings.security.blocked_packages or ()] == ["aiohttp", "telnetlib"]

    def test_package_management_is_another_word_for_security(self) -> None:
        security = read(SECURITY).security
        assert security is not None
        assert security.trusted_channels == ("conda-forge", "company-internal")
        assert [rule.package for rule in security.allowlist or ()] == ["numpy"]

    def test_a_template_with_packages_and_variables_is_a_whole_workspace(self) -> None:
        spec = read_model(WorkspaceSpec, yaml.safe_load(TEMPLATE))
        assert spec.name == "data-science-workspace"
        assert spec.packages == ("numpy", "pandas", "scikit-learn")
        assert spec.variables == {"PYTHONPATH": "/workspace", "JUPYTER_ENABLE_LAB": "yes"}

    @pytest.mark.parametrize("text", [CONFIG, SECURITY])
    def test_what_is_stored_is_read_back_the_same(self, text: str) -> None:
        settings = read(text)
        assert WorkspaceSettings.read(settings.stored()) == settings

    def test_a_linked_experiment_stays_and_can_be_let_go(self) -> None:
        linked = read_model(WorkspaceSettings, {"experiment": "exp-123"})
        assert linked.stored() == {"experiment": "exp-123"}
        assert linked.changed({"packages": ("numpy",)}).experiment == "exp-123"
        assert linked.changed({"experiment": None}).stored() == {}

    def test_nothing_is_stored_as_nothing(self) -> None:
        assert WorkspaceSettings().stored() == {}
        assert WorkspaceSettings.read(None) == WorkspaceSettings.read({}) == WorkspaceSettings()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"environment": {"LD_PRELOAD": "x.so"}}, "'LD_PRELOAD'"),
    ({"environment": {"JUPYTERHUB_API_TOKEN": "x"}}, "'JUPYTERHUB_API_TOKEN'"),
    ({"environment": {"python_version": 3.1}}, "quotes"),  # YAML's reading of 3.10
    ({"environment": {"python_version": "2.7"}}, "environment.python_version"),
    ({"environment": {"jupyter_version": "newest"}}, "environment.jupyter_version"),
    ({"environment": {"MY_NOTE": "two\nlines"}}, "'MY_NOTE'"),
    ({"packages": "numpy"}, "packages: this is a list"),
    ({"packages": ["numpy @ https://elsewhere.example.org/numpy.whl"]}, "without address"),
    ({"packages": ["r\u0435quests"]}, "only looks like a-z"),
    ({"packages": ["two words"]}, "'two words'"),
    ({"packages": ["--index-url=x"]}, "'--index-url=x'"),
    ({"security": {"index": {"upstream": "https://elsewhere.example.org"}}}, "maestro.yaml alone"),
    ({"security": {"blocked": []}}, "security.blocked"),
    ({"security": {}, "package_management": {}}, "mean the same"),
    ({"resources": {"cpu": "lots"}}, "'lots'"),
    ({"resources": {"disk": "-1"}}, "'-1'"),
    ({"resources": {"gpu_type": "{evil}"}}, "gpu type"),
    ({"experiment": ""}, "MLflow experiment"),
    ({"experiment": 3}, "MLflow experiment"),
    ({"experiment": "12"}, "link it by its name"),
    ({"ressources": {}}, "ressources: there is no such setting"),
]


@pytest.mark.parametrize(("body", "named"), MISTAKES, ids=[str(body)[:40] for body, _ in MISTAKES])
def test_a_mistake_is_named_in_one_sentence(body: dict[str, Any], named: str) -> None:
    with pytest.raises(MaestroError) as refusal:
        read_model(WorkspaceSettings, body)
    assert named in refusal.value.message
    assert "\n" not in refusal.value.message


class TestChanges:
    def test_a_section_is_replaced_and_others_stay(self) -> None:
        changed = read(CONFIG).changed({"packages": ("numpy",)})
        assert changed.packages == ("numpy",)
        assert changed.disk == 20 * 1024**3

    def test_null_empties_a_section(self) -> None:
        change = read_model(WorkspaceChange, {"resources": None})
        assert read(CONFIG).changed({"resources": change.resources}).amounts is None

    def test_an_empty_change_is_none(self) -> None:
        with pytest.raises(MaestroError, match="Nothing to change"):
            read_model(WorkspaceChange, {})


class TestDisk:
    def test_it_is_the_limit_where_the_workspace_does_not_say(self) -> None:
        assert check_disk(WorkspaceSettings(), 100, "demo") == 100
        assert check_disk(WorkspaceSettings(), None, "demo") is None

    def test_it_may_be_less_and_not_more(self) -> None:
        assert check_disk(read(CONFIG), 100 * 1024**3, "demo") == 20 * 1024**3
        with pytest.raises(MaestroError, match="disk of 20 GiB, and 10 GiB") as refusal:
            check_disk(read(CONFIG), 10 * 1024**3, "demo")
        assert refusal.value.code == "quota_exceeded"
