"""Conda's words, and what a policy makes of a channel's records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from maestro_core.conda import (
    Fate,
    channel_verdict,
    conda_channel,
    fate_of,
    has_varied_fates,
    hindrance,
)
from maestro_core.conda_environments import CondaChange
from maestro_core.conda_files import CondaFile, check_subdir, parse_file_name
from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.packages import (
    Action,
    CompiledPolicy,
    IndexSettings,
    PackagePolicy,
    Rule,
    compile_policy,
    decide,
    parse_rule_text,
)
from notebooks.conda_files import ExplicitFile, Wish, named, read_file

FORGE = "conda-forge"


def policy(**section: Any) -> CompiledPolicy:
    """The compiled policy of a maestro.yaml that says this."""
    return compile_policy(PackagePolicy.model_validate(section))


class TestNames:
    @pytest.mark.parametrize(
        ("filename", "parts"),
        [
            ("numpy-2.1.0-py312h1_0.conda", ("numpy", "2.1.0", "py312h1_0")),
            ("scikit-learn-1.5-0.tar.bz2", ("scikit-learn", "1.5", "0")),
            ("_libgcc_mutex-0.1-conda_forge.tar.bz2", ("_libgcc_mutex", "0.1", "conda_forge")),
            ("numpy-2.1.0-py312_0.conda.zst", None),
            ("numpy.conda", None),
            ("num/py-1-0.conda", None),
            ("nump\u0443-1-0.conda", None),
        ],
    )
    def test_a_files_name_tells_name_version_and_build(self, filename: str, parts: tuple[str, str, str] | None) -> None:
        assert parse_file_name(filename) == (CondaFile(*parts) if parts else None)

    @pytest.mark.parametrize("text", ["../noarch", "linux-64/..", "", "Linux-64", "noarch2"])
    def test_what_is_no_folder_of_a_channel(self, text: str) -> None:
        with pytest.raises(ValueError, match="no folder"):
            check_subdir(text)

    @pytest.mark.parametrize("text", ["pypi", "PyPI", "a/../b", "..", "a//b", ".hidden", "a/", "a b", "http://x"])
    def test_what_is_no_channel(self, text: str) -> None:
        with pytest.raises(ValueError, match="channel"):
            conda_channel(text)

    def test_a_label_belongs_to_the_channels_name(self) -> None:
        assert conda_channel("Conda-Forge/label/dev") == "conda-forge/label/dev"

    def test_names_with_leading_underscores_can_be_ruled(self) -> None:
        assert parse_rule_text("conda-forge::_libgcc_mutex>=0.1") == ("_libgcc-mutex", ">=0.1", FORGE)
        strict = policy(preset="strict", allowlist=["_libgcc_mutex"])
        assert decide(strict, "_libgcc_mutex", "0.1", FORGE).allowed
        assert not decide(strict, "libgcc-mutex", "0.1", FORGE).allowed

    def test_addresses_of_channels_are_addresses(self) -> None:
        settings = IndexSettings.model_validate({"channels": {"Internal": "https://conda.example.org/internal"}})
        assert settings.channels == {"internal": "https://conda.example.org/internal"}
        for bad in ({"channel_alias": "ftp://x"}, {"channels": {"a": "/etc"}}, {"channels": {"..": "https://x"}}):
            with pytest.raises(ValueError, match=r"address|channel"):
                IndexSettings.model_validate(bad)


class TestFate:
    def test_what_is_refused_as_a_whole_stays_so_that_its_file_can_say_why(self) -> None:
        blocked = policy(blocked_packages=["requests"])
        fate, verdict = fate_of(blocked, FORGE, "requests", "2.0")
        assert fate is Fate.KEEP
        assert verdict.reason.startswith("requests is blocked by the global policy (rule requests)")

    def test_refused_versions_get_the_reason_as_a_dependency(self) -> None:
        some = policy(blocked_packages=["numpy>=2"])
        assert fate_of(some, FORGE, "numpy", "1.26")[0] is Fate.KEEP
        fate, verdict = fate_of(some, FORGE, "numpy", "2.1")
        assert fate is Fate.HINDER
        assert hindrance(verdict) == "numpy-2-1-is-blocked-by-the-global-policy-rule-numpy-above-2"

    def test_one_rule_covers_both_names(self) -> None:
        asks = policy(approval_required=["torch<2"])
        assert fate_of(asks, FORGE, "pytorch", "1.13")[0] is Fate.HINDER
        assert has_varied_fates(asks, FORGE, "pytorch")
        assert not has_varied_fates(asks, FORGE, "numpy")
        assert not has_varied_fates(policy(blocked_packages=["torch"]), FORGE, "pytorch")

    def test_versions_are_compared_as_conda_does(self) -> None:
        blocked = policy(blocked_packages=["openssl<1.1.1"])
        assert fate_of(blocked, FORGE, "openssl", "1.1.1w")[0] is Fate.HINDER
        assert fate_of(blocked, FORGE, "openssl", "1.1.1")[0] is Fate.KEEP
        assert fate_of(blocked, FORGE, "openssl", "1.1.1 or so")[0] is Fate.HINDER, "it cannot be read"

    def test_a_channel_that_asks_shows_what_was_approved_of_it(self) -> None:
        own = PackagePolicy.model_validate({"trusted_channels": [FORGE, "bioconda"]})
        approved = Rule(name="samtools", channel="bioconda", action=Action.ALLOW, level="workspace")
        asking = compile_policy(PackagePolicy(), own, workspace_name="demo")
        assert channel_verdict(asking, "bioconda").action is Action.ASK
        answered = compile_policy(PackagePolicy(), own, workspace_name="demo", decisions=[approved])
        assert channel_verdict(answered, "bioconda").allowed
        assert fate_of(answered, "bioconda", "samtools", "1.20")[0] is Fate.KEEP
        assert fate_of(answered, "bioconda", "bwa", "0.7")[0] is Fate.LEAVE_OUT

    def test_of_an_untrusted_channel_only_what_a_rule_names_is_shown(self) -> None:
        named = policy(trusted_channels=[FORGE], allowlist=["bioconda::samtools"])
        assert channel_verdict(named, "bioconda").allowed
        assert has_varied_fates(named, "bioconda", "samtools")
        assert not has_varied_fates(named, "bioconda", "bwa")
        assert fate_of(named, "bioconda", "samtools", "1.0")[0] is Fate.KEEP
        assert fate_of(named, "bioconda", "bwa", "1.0")[0] is Fate.LEAVE_OUT

    def test_another_untrusted_channel_is_refused_whole_with_the_reason(self) -> None:
        verdict = channel_verdict(policy(trusted_channels=[FORGE]), "bioconda")
        assert not verdict.allowed
        assert "The channel bioconda is not trusted by the global policy (trusted_channels: conda-forge)" in (
            verdict.reason
        )
        assert channel_verdict(policy(), FORGE).allowed


EXPLICIT = """# This file may be used to create an environment using:
# $ conda create --name <env> --file <this file>
# platform: linux-64
@EXPLICIT
https://conda.example.org/t/secret/conda-forge/linux-64/numpy-2.1.0-py312h1_0.conda#0123456789abcdef0123456789abcdef
https://conda.example.org/conda-forge/label/dev/noarch/tqdm-4.66-pyhd8ed1ab_0.conda
"""


class TestFiles:
    """What people write; what it names comes from the server's own index or not at all."""

    @staticmethod
    def read(folder: Path, text: str) -> Wish:
        path = folder / "environment.yml"
        path.write_text(text)
        return read_file(path)

    def refusal(self, folder: Path, text: str) -> str:
        with pytest.raises(MaestroError) as caught:
            self.read(folder, text)
        assert caught.value.code == "invalid_request", caught.value.message
        return caught.value.message

    def test_an_environment_file_names_channels_packages_and_a_pip_section(self, tmp_path: Path) -> None:
        wish = self.read(
            tmp_path,
            """
            name: course
            channels: [conda-forge, nodefaults]
            dependencies: [numpy >=2, python=3.12, "pytorch::pytorch", pip, {pip: ["rich<14"]}]
            prefix: /home/somebody/envs/course
            variables: {A: b}
            """,
        )
        assert wish.specs == ("numpy >=2", "python=3.12", "pytorch::pytorch", "pip", "pypi::rich<14")
        assert wish.channels == ("conda-forge", "pytorch")
        assert wish.left_out == ("variables",)

    def test_an_explicit_file_names_files_whoever_hosts_them(self, tmp_path: Path) -> None:
        wish = self.read(tmp_path, EXPLICIT)
        assert wish.files == (
            ExplicitFile("conda-forge", "linux-64", "numpy-2.1.0-py312h1_0.conda", "0123456789abcdef0123456789abcdef"),
            ExplicitFile("conda-forge/label/dev", "noarch", "tqdm-4.66-pyhd8ed1ab_0.conda"),
        )
        assert [it.name for it in wish.files] == ["numpy", "tqdm"]

    @pytest.mark.parametrize(
        "line",
        ["numpy", "https://conda.example.org/numpy-1-0.conda", "https://x/a/linux-64/numpy-1-0.conda#short",
         "https://x/../linux-64/numpy-1-0.conda", "https://x/a/elsewhere/numpy-1-0.conda", "/a/noarch/numpy-1-0.conda"],
    )  # fmt: skip
    def test_a_line_that_names_no_file_is_refused(self, line: str, tmp_path: Path) -> None:
        assert "environment.yml: " in self.refusal(tmp_path, f"@EXPLICIT\n{line}\n")

    def test_a_token_in_an_address_is_not_shown(self, tmp_path: Path) -> None:
        assert "secret" not in self.refusal(tmp_path, "@EXPLICIT\nhttps://x/t/secret/numpy\n")

    @pytest.mark.parametrize(
        "text",
        ["", "- numpy", "dependencies: numpy", "dependencies: []", "dependencies: [{conda: [x]}]",
         "dependencies: [1]", "dependencies: [numpy]\nscripts: [x]", "dependencies: [{pip: ['-r more.txt']}]",
         "dependencies: [{pip: ['x @ https://example.org/x.whl']}]", "dependencies: [{pip: ['./here']}]"],
    )  # fmt: skip
    def test_what_is_no_environment_is_refused(self, text: str, tmp_path: Path) -> None:
        assert self.refusal(tmp_path, text).startswith("environment.yml: ")

    @pytest.mark.parametrize(
        "channel", ["https://example.org/ch", "file:///tmp/ch", "/tmp/ch", "./ch", "~/ch", "c:/ch", "", "pypi"]
    )
    def test_a_channel_that_is_an_address_is_refused(self, channel: str, tmp_path: Path) -> None:
        said = self.refusal(tmp_path, yaml.safe_dump({"channels": [FORGE, channel], "dependencies": ["numpy"]}))
        assert "channel" in said

    @pytest.mark.parametrize(
        "spec",
        [
            "numpy[url=https://example.org/ch/noarch/numpy-1-0.conda]",
            "numpy[channel=https://example.org/ch]",
            "conda-forge::numpy[channel=https://example.org/ch]",
            "https://example.org/ch/noarch/numpy-1-0.conda",
            "/tmp/noarch/numpy-1-0.conda",
            "conda-forge:ns:numpy",
            "https://example.org/ch::numpy",
            "/tmp/ch::numpy",
        ],
    )
    def test_a_package_that_says_where_it_lies_is_refused(self, spec: str, tmp_path: Path) -> None:
        with pytest.raises(MaestroError):
            named([spec])
        self.refusal(tmp_path, yaml.safe_dump({"dependencies": [spec]}))
        with pytest.raises(MaestroError):
            read_model(CondaChange, {"add": [spec]})
