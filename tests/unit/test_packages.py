"""The package policy: what is allowed, held back, blocked, and what people read then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from maestro_core.clients import client_environment, client_files
from maestro_core.errors import MaestroError
from maestro_core.near_miss import POPULAR, near_miss
from maestro_core.packages import (
    PAIRS,
    PYPI,
    Action,
    CompiledPolicy,
    Level,
    PackagePolicy,
    Rule,
    Sdists,
    compile_policy,
    decide,
    decide_file,
    normal_name,
    overridden,
    startup_policy,
)
from maestro_core.policy import parse_policy

ALLOW, ASK, BLOCK = Action.ALLOW, Action.ASK, Action.BLOCK


def policy(own: dict[str, Any] | None = None, decisions: tuple[Rule, ...] = (), **section: Any) -> CompiledPolicy:
    narrow = PackagePolicy.model_validate(own) if own is not None else None
    return compile_policy(PackagePolicy.model_validate(section), narrow, workspace_name="demo", decisions=decisions)


class TestPresets:
    def test_open_is_the_default_and_allows_everything(self) -> None:
        assert decide(policy(), "requests", "2.32.0").allowed
        assert decide(parse_policy_section(""), "anything").allowed

    def test_seed_has_the_lists_of_the_second_seed(self) -> None:
        seed = policy(preset="seed")
        assert [decide(seed, name).action for name in ("requests", "urllib3", "socket")] == [BLOCK] * 3
        assert [decide(seed, name).action for name in ("tensorflow", "custom-package")] == [ASK] * 2
        assert [decide(seed, name).action for name in ("numpy", "scikit_learn", "rich")] == [ALLOW] * 3
        assert seed.channels.names == ("conda-forge", "defaults", "pytorch", "nvidia")

    def test_strict_holds_back_what_the_allow_list_does_not_name(self) -> None:
        strict = policy(preset="strict", allowlist=["numpy<2"])
        assert decide(strict, "numpy", "1.26").allowed
        assert decide(strict, "numpy", "2.0").action is ASK
        assert decide(strict, "rich").action is ASK

    def test_a_written_key_replaces_the_presets_list(self) -> None:
        mine = policy(preset="seed", blocked_packages=["aiohttp"])
        assert decide(mine, "requests").allowed
        assert decide(mine, "aiohttp").action is BLOCK
        assert decide(mine, "tensorflow").action is ASK

    def test_a_workspaces_preset_only_tightens(self) -> None:
        assert decide(policy({"preset": "open"}, preset="strict"), "rich").action is ASK
        assert decide(policy({"preset": "strict"}), "rich").action is ASK
        assert decide(policy({"preset": "seed"}, approval_required=["numpy"]), "numpy").action is ASK


class TestLevels:
    def test_a_workspaces_own_list_opens_nothing_that_the_hub_holds_back(self) -> None:
        both = policy(
            {"allowlist": ["requests", "tensorflow"]}, blocked_packages=["requests"], approval_required=["tensorflow"]
        )
        assert decide(both, "requests").action is BLOCK
        assert decide(both, "tensorflow").action is ASK
        assert decide(policy({"allowlist": ["rich"]}, preset="strict"), "rich").action is ASK
        assert decide(policy({"allowlist": ["rich"], "preset": "strict"}), "rich").allowed, "it asked itself"
        assert decide(policy({"allowlist": ["rich"], "approval_required": ["rich<2"]}), "rich", "3").allowed

    def test_a_workspace_may_block_more(self) -> None:
        verdict = decide(policy({"blocked_packages": ["numpy"]}, allowlist=["numpy"]), "numpy")
        assert (verdict.action, verdict.level) == (BLOCK, "workspace")

    def test_a_decision_answers_the_question_of_the_file(self) -> None:
        approved = Rule(name="requests", specifier="<3", action=ALLOW, origin="decision")
        by_admin = policy(decisions=(approved,), approval_required=["requests"])
        assert decide(by_admin, "requests", "2.32").allowed
        assert decide(by_admin, "requests", "3.0").action is ASK
        back_in_question = approved.model_copy(update={"action": ASK})
        assert decide(policy(decisions=(back_in_question,), allowlist=["requests"]), "requests", "2.32").action is ASK

    @pytest.mark.parametrize("level", ["global", "workspace"])
    def test_no_approval_lifts_a_block(self, level: Level) -> None:
        approved = Rule(name="requests", action=ALLOW, level=level, origin="decision")
        assert decide(policy(decisions=(approved,), blocked_packages=["requests"]), "requests").action is BLOCK
        own = {"blocked_packages": ["requests"]}
        assert decide(policy(own, decisions=(approved,)), "requests").action is BLOCK

    def test_an_approval_answers_the_question_of_its_own_level(self) -> None:
        assert decide(policy(approval_required=["tensorflow"], allowlist=["tensorflow<3"]), "tensorflow", "2").allowed

    def test_workspaces_without_rules_share_the_revision_of_the_global_policy(self) -> None:
        section = {"blocked_packages": ["requests"]}
        assert policy(**section).revision == policy({}, **section).revision
        assert policy(**section).revision != policy({"blocked_packages": ["rich"]}, **section).revision


class TestNames:
    def test_spelling_does_not_matter(self) -> None:
        rules = policy(blocked_packages=["Typing_Extensions"])
        assert decide(rules, "typing.EXTENSIONS").action is BLOCK

    def test_letters_that_only_look_latin_are_refused(self) -> None:
        with pytest.raises(ValueError, match="only looks like"):
            decide(policy(), "rеquests")  # a Cyrillic е

    @pytest.mark.parametrize("channel, name", [(PYPI, "torch"), ("conda-forge", "pytorch"), ("pytorch", "pytorch")])
    @pytest.mark.parametrize("written", ["torch", "pytorch"])
    def test_one_rule_for_both_names_of_one_thing(self, written: str, channel: str, name: str) -> None:
        assert decide(policy(blocked_packages=[written]), name, "2.0", channel).action is BLOCK

    def test_an_allowed_torch_does_not_allow_the_project_that_took_condas_name(self) -> None:
        strict = policy(preset="strict", allowlist=["torch"])
        assert decide(strict, "torch").allowed
        assert decide(strict, "pytorch").action is ASK

    def test_modules_and_calls_are_rules_for_the_scan_too(self) -> None:
        compiled = policy(blocked_packages=["socket", "os.system", "requests"])
        assert compiled.scan == ("os.system", "socket")
        assert decide(compiled, "socket").action is BLOCK


class TestVersions:
    def test_a_rule_for_versions_says_nothing_about_the_package(self) -> None:
        rules = policy(blocked_packages=["numpy>=2"])
        assert decide(rules, "numpy").allowed
        assert decide(rules, "numpy", "2.1").action is BLOCK
        assert decide(rules, "numpy", "1.26").allowed
        assert not rules.is_uniform("numpy")
        assert rules.is_uniform("rich")

    def test_what_is_no_version_is_refused_rather_than_guessed(self) -> None:
        assert decide(policy(blocked_packages=["pytz<2004"]), "pytz", "2004d").action is BLOCK
        assert decide(policy(preset="strict", allowlist=["pytz>2004"]), "pytz", "2004d").action is ASK

    def test_pre_releases_and_local_versions_count(self) -> None:
        rules = policy(blocked_packages=["torch==2.1.*"])
        assert decide(rules, "torch", "2.1.0rc1").action is BLOCK
        assert decide(rules, "torch", "2.1.0+cu118").action is BLOCK


class TestChannels:
    def test_a_rule_may_be_about_one_channel(self) -> None:
        rules = policy(blocked_packages=["conda-forge::numpy"])
        assert decide(rules, "numpy", channel="conda-forge").action is BLOCK
        assert decide(rules, "numpy").allowed

    def test_an_untrusted_channel_is_blocked_whatever_it_has(self) -> None:
        verdict = decide(policy(allowlist=["numpy"]), "numpy", channel="somewhere")
        assert (verdict.action, verdict.rule) == (BLOCK, "trusted_channels")

    def test_an_approval_stands_no_longer_once_its_channel_is_trusted_no_more(self) -> None:
        approved = Rule(name="cuda", channel="conda-forge", action=ALLOW, origin="decision")
        assert decide(policy(decisions=(approved,), approval_required=["cuda"]), "cuda", None, "conda-forge").allowed
        narrowed = policy(decisions=(approved,), trusted_channels=["company-internal"])
        assert decide(narrowed, "cuda", None, "conda-forge").rule == "trusted_channels"

    def test_a_workspace_narrows_the_channels_that_are_trusted(self) -> None:
        rules = policy({"trusted_channels": ["conda-forge"]})
        assert decide(rules, "numpy", channel="conda-forge").allowed
        assert decide(rules, "torch", channel="pytorch").action is BLOCK

    def test_of_a_channel_that_no_admin_names_each_package_is_asked_for(self) -> None:
        own = {"trusted_channels": ["conda-forge", "bioconda"], "allowlist": ["bioconda::bwa", "nvidia::cuda"]}
        asking = policy(own)
        for name in ("samtools", "bwa"):  # a workspace's own list opens no channel
            verdict = decide(asking, name, channel="bioconda")
            assert (verdict.action, verdict.rule, verdict.level) == (ASK, "trusted_channels", "workspace")
        assert "'maestro request demo bioconda::NAME'" in verdict.reason
        assert decide(asking, "cuda", channel="nvidia").allowed, "the seed's channels may be opened by name"
        assert decide(asking, "samtools", channel="elsewhere").action is BLOCK
        approved = Rule(name="samtools", channel="bioconda", specifier="<2", action=ALLOW, level="workspace")
        answered = policy(own, decisions=(approved,))
        assert decide(answered, "samtools", "1.20", "bioconda").allowed
        assert decide(answered, "samtools", "2.0", "bioconda").action is ASK
        assert decide(answered, "bwa", "0.7", "bioconda").action is ASK
        assert decide(policy(decisions=(approved,)), "samtools", "1.20", "bioconda").action is BLOCK, "named no more"
        assert decide(policy(own, decisions=(approved,), trusted_channels=["pytorch"]), "samtools", "1.20",
                      "bioconda").action is BLOCK  # fmt: skip

    def test_no_workspace_opens_a_channel_that_the_admins_list_has_not(self) -> None:
        own = {"trusted_channels": ["conda-forge", "bioconda"], "allowlist": ["nvidia::cuda"]}
        rules = policy(own, trusted_channels=["conda-forge", "pytorch"])
        assert decide(rules, "numpy", channel="conda-forge").allowed
        narrowed = decide(rules, "torch", channel="pytorch")
        assert "not trusted by the policy of workspace demo (trusted_channels: conda-forge)" in narrowed.reason
        for channel, name in (("bioconda", "samtools"), ("nvidia", "cuda")):
            verdict = decide(rules, name, channel=channel)
            assert "by the global policy (trusted_channels: conda-forge, pytorch)" in verdict.reason

    def test_a_rule_that_names_a_channel_opens_it_for_that_package(self) -> None:
        rules = policy(allowlist=["bioconda::samtools"])
        assert decide(rules, "samtools", channel="bioconda").allowed
        assert decide(rules, "other", channel="bioconda").action is BLOCK

    def test_an_approval_neither_opens_such_a_channel_nor_closes_what_a_file_opened(self) -> None:
        approved = Rule(name="samtools", channel="bioconda", action=ALLOW, level="global")
        assert decide(policy(decisions=(approved,)), "samtools", channel="bioconda").action is BLOCK
        opened = policy(allowlist=["bioconda::samtools"], decisions=(approved,))
        assert decide(opened, "samtools", channel="bioconda").allowed


class TestCondaVersions:
    @pytest.mark.parametrize(
        ("rule", "version", "covered"),
        [
            ("numpy<2", "2.0rc1", True), ("numpy>=2", "2004d", True), ("openssl<1.1.1", "1.1.1w", True),
            ("openssl==1.1.*", "1.1.1w", True), ("openssl==1.1.*", "1.2", False), ("openssl~=1.1", "1.1.1w", True),
            ("openssl===1.1.1w", "1.1.1w", True), ("openssl!=1.1.*", "1.1.1w", False),
            ("conda-forge::openssl>=1.1.1v,<1.1.1x", "1.1.1w", True), ("conda-forge::tzdata<2024b", "2024a", True),
        ],
    )  # fmt: skip
    def test_they_are_compared_by_condas_order(self, rule: str, version: str, covered: bool) -> None:
        name = re.split("[<>=!~]", rule.rpartition("::")[2])[0]
        verdict = decide(policy(blocked_packages=[rule]), name, version, "conda-forge")
        assert verdict.allowed is not covered
        assert decide(policy(preset="strict", allowlist=[rule]), name, version, "conda-forge").allowed is covered

    def test_what_conda_cannot_read_is_refused_and_not_allowed(self) -> None:
        assert decide(policy(blocked_packages=["x<1"]), "x", "1.0 or so", "conda-forge").action is BLOCK
        assert not decide(policy(preset="strict", allowlist=["x<1"]), "x", "1.0 or so", "conda-forge").allowed

    @pytest.mark.parametrize("rule", ["openssl<1.1.1w", "pypi::openssl<1.1.1w", "conda-forge::openssl<<1", "a::b[x]<1"])
    def test_only_a_rule_about_a_channel_names_condas_versions(self, rule: str) -> None:
        with pytest.raises(MaestroError):
            parse_policy(f"packages: {{blocked_packages: ['{rule}']}}")

    def test_a_name_of_ones_own_is_no_strangers(self) -> None:
        own = {"internal_names": ["acme-*"], "channels": {"acme": "https://conda.example.org/acme"}}
        rules = policy(index=own, trusted_channels=["conda-forge", "acme"])
        verdict = decide(rules, "acme-tools", "1.0", "conda-forge")
        assert (verdict.action, verdict.rule) == (BLOCK, "internal_names")
        assert decide(rules, "acme-tools", "1.0", "acme").allowed


class TestSentences:
    """A refusal names the package, the rule, who set it, and what to do."""

    def test_block(self) -> None:
        rules = policy(blocked_packages=[{"package": "requests", "reason": "use the company's client"}])
        assert decide(rules, "Requests", "2.0").reason == (
            "requests is blocked by the global policy (rule requests): use the company's client. "
            "Ask an admin of this Hub to change the rule."
        )

    def test_block_of_versions_by_a_workspace(self) -> None:
        reason = decide(policy({"blocked_packages": ["numpy>=2"]}), "numpy", "2.1").reason
        assert reason.startswith("numpy 2.1 is blocked by the policy of workspace demo (rule numpy>=2).")
        assert "Install another version" in reason

    def test_ask(self) -> None:
        rules = policy(approval_required=["tensorflow"], decisions=(
            Rule(name="tensorflow", specifier="<3", action=ALLOW, level="workspace"),
        ))  # fmt: skip
        assert decide(rules, "tensorflow", "3.1").reason == (
            "tensorflow 3.1 needs an approval by the global policy (rule tensorflow). "
            "Install tensorflow<3, or ask for it with 'maestro request' or on the page Packages."
        )

    def test_strict(self) -> None:
        assert (
            "is not on the allow list of the global policy (preset strict)"
            in decide(policy(preset="strict"), "x").reason
        )


class TestYaml:
    @pytest.mark.parametrize(
        "section, sentence",
        [
            ("{blocked_packages: [rеquests]}", "blocked_packages.0.*only looks like"),
            ("{blocked_packages: ['numpy=1']}", "is no rule; write a name"),
            ("{blocked_packages: numpy}", "this is a list of packages"),
            ("{blocked: [numpy]}", "there is no such setting here; known are preset, trusted_channels"),
            ("{allowlist: ['a @ https://example.org/a.whl']}", "without address"),
            ("{allowlist: ['a; python_version < \"3\"']}", "without address, extras and conditions"),
            ("{preset: closed}", "preset"),
            ("{trusted_channels: ['a b']}", "no channel name"),
            ("{index: {upstream: ftp://x}}", "starts with https://"),
            ("{index: {cache: lots}}", "512Mi"),
        ],
    )
    def test_a_mistake_is_one_sentence_that_names_the_place(self, section: str, sentence: str) -> None:
        with pytest.raises(MaestroError, match=sentence) as caught:
            parse_policy(f"packages: {section}")
        assert caught.value.code in ("invalid_policy", "invalid_resources")
        assert "\n" not in caught.value.message

    def test_the_example_of_the_docs_is_a_policy(self) -> None:
        text = (Path(__file__).parents[2] / "docs/packages.md").read_text()
        compiled = compile_policy(parse_policy(text.partition("```yaml\n")[2].partition("```")[0]).packages)
        assert "blocked by the global policy (rule requests): use our client." in decide(compiled, "requests").reason
        assert decide(compiled, "tensorflow", "2.9").allowed and decide(compiled, "tensorflow", "3.0").action is ASK
        assert compiled.index.upstream and compiled.index.cache == 20 * 1024**3

    def test_the_workspace_yaml_of_the_second_seed(self) -> None:
        text = """
        packages:
          trusted_channels: [conda-forge, defaults, pytorch, nvidia, company-internal]
          blocked_packages: [requests, urllib3, socket, subprocess, os.system]
          approval_required: [tensorflow, pytorch, custom-package]
          allowlist: [numpy, pandas, scikit-learn, matplotlib]
        """
        compiled = compile_policy(parse_policy(text).packages)
        assert decide(compiled, "numpy", channel="company-internal").allowed
        assert CompiledPolicy.model_validate_json(compiled.model_dump_json()) == compiled


class TestSource:
    """A source archive is built before it is installed, and the build runs its code."""

    def verdict(self, rules: CompiledPolicy, version: str = "1.0", source: bool = True) -> Action:
        return decide_file(rules, "rich", version, source).action

    def test_nobody_says_anything_and_source_installs(self) -> None:
        assert self.verdict(policy()) is ALLOW

    def test_the_rule_is_about_source_alone(self) -> None:
        assert self.verdict(policy(sdists="block")) is BLOCK and self.verdict(policy(sdists="ask")) is ASK
        assert self.verdict(policy(sdists="block"), source=False) is ALLOW

    def test_a_workspace_only_tightens(self) -> None:
        assert self.verdict(policy({"sdists": "allow"}, sdists="ask")) is ASK
        assert self.verdict(policy({"allowlist": [{"package": "rich", "sdists": True}]}, sdists="ask")) is ASK
        assert self.verdict(policy({"sdists": "allow"}, sdists="block")) is BLOCK
        assert self.verdict(policy({"sdists": "block"})) is BLOCK

    def test_an_approval_is_about_source_too(self) -> None:
        approved = Rule(name="rich", specifier="<2", action=ALLOW, level="workspace", origin="decision")
        assert self.verdict(policy(decisions=(approved,), sdists="ask")) is ALLOW
        assert self.verdict(policy(decisions=(approved,), sdists="ask"), "2.0") is ASK
        assert self.verdict(policy(decisions=(approved,), sdists="block")) is BLOCK

    def test_an_allow_list_opens_it_where_it_says_so(self) -> None:
        opened, plain = [{"package": "rich<2", "sdists": True}], ["rich"]
        assert self.verdict(policy(allowlist=plain, sdists="ask")) is ASK
        assert self.verdict(policy(allowlist=opened, sdists="block")) is ALLOW
        assert self.verdict(policy(allowlist=opened, sdists="block"), "2.0") is BLOCK
        assert self.verdict(policy({"allowlist": opened}, sdists="block")) is BLOCK
        assert self.verdict(policy({"allowlist": opened, "sdists": "block"})) is ALLOW

    def test_what_is_refused_anyhow_keeps_its_own_sentence(self) -> None:
        rules = policy(sdists="block", blocked_packages=["rich"])
        assert decide_file(rules, "rich", "1.0", True).rule == "rich"

    def test_the_sentence(self) -> None:
        assert decide_file(policy(sdists="ask"), "Rich", "1.0", True).reason == (
            "rich 1.0 is offered to this Python as source only, and a build runs its code: that needs an approval by "
            "the global policy (rule sdists: ask). Install a version that has a wheel, or ask for it with "
            "'maestro request' or on the page Packages."
        )


class TestTheServicesEnvironment:
    """The variables that the project began with stand for lists of ``maestro.yaml``."""

    def rules(self, variables: dict[str, str], **section: Any) -> CompiledPolicy:
        return compile_policy(overridden(PackagePolicy.model_validate(section), variables))

    def test_a_list_replaces_the_blocked_packages(self) -> None:
        rules = self.rules(
            {"FETCHML_JUPYTER_BLOCKED_PACKAGES": "aiohttp, numpy>=1,<2,telnetlib"}, blocked_packages=["requests"]
        )
        assert decide(rules, "aiohttp").action is BLOCK and decide(rules, "telnetlib").action is BLOCK
        assert decide(rules, "numpy", "1.5").action is BLOCK and decide(rules, "numpy", "2.0").allowed
        assert decide(rules, "requests").allowed

    def test_off_is_an_empty_list_and_nothing_is_no_change(self) -> None:
        assert decide(self.rules({"FETCHML_JUPYTER_BLOCKED_PACKAGES": "off"}, preset="seed"), "requests").allowed
        for nothing in ({}, {"FETCHML_JUPYTER_BLOCKED_PACKAGES": " "}):
            assert decide(self.rules(nothing, preset="seed"), "requests").action is BLOCK

    def test_installs_may_be_blocked_and_images_that_have_the_same_start(self) -> None:
        rules = self.rules(
            {
                "FETCHML_JUPYTER_BLOCKED_PACKAGES": "requests,urllib3,httpx",
                "FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES": "off",
            }
        )
        assert decide(rules, "requests").action is BLOCK
        assert decide(startup_policy(rules), "requests").allowed

    def test_an_image_is_held_to_what_blocks_installs_or_to_a_list_of_its_own(self) -> None:
        plain = self.rules({}, blocked_packages=["requests"], approval_required=["tensorflow"], preset="strict")
        assert decide(startup_policy(plain), "requests").action is BLOCK
        assert decide(startup_policy(plain), "tensorflow").allowed and decide(startup_policy(plain), "rich").allowed
        own = self.rules({"FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES": "xmrig"}, blocked_packages=["requests"])
        assert decide(startup_policy(own), "xmrig").action is BLOCK and decide(own, "xmrig").allowed
        assert decide(startup_policy(own), "requests").allowed

    def test_a_mistake_names_the_variable(self) -> None:
        with pytest.raises(MaestroError, match="FETCHML_JUPYTER_BLOCKED_PACKAGES: 'a b' is no package name"):
            self.rules({"FETCHML_JUPYTER_BLOCKED_PACKAGES": "requests,a b"})


class TestNearMisses:
    @pytest.mark.parametrize(
        "written, meant",
        [
            ("reqeusts", "requests"), ("Request", "requests"), ("tenserflow", "tensorflow"), ("nunpy", "numpy"),
            ("python-requests", "requests"), ("pandas_python", "pandas"), ("djang0", "django"), ("urlib3", "urllib3"),
            ("py-torch", "torch"), ("pytorch", "torch"), ("sklearn", "scikit-learn"), ("scikitlearn", "scikit-learn"),
            ("learn-scikit", "scikit-learn"), ("matplotlb", "matplotlib"), ("crypt0graphy", "cryptography"),
        ],
    )  # fmt: skip
    def test_what_was_meant_comes_first(self, written: str, meant: str) -> None:
        assert near_miss(written)[0] == meant

    @pytest.mark.parametrize("name", ["requests", "Scikit_Learn", "torch", "acme-billing", "geopy", "xy"])
    def test_popular_names_and_those_like_none_are_no_misses(self, name: str) -> None:
        assert near_miss(name) == []

    def test_the_names_that_are_compared_with_are_normal(self) -> None:
        assert {normal_name(name) for name in POPULAR} == POPULAR

    def test_look_alike_letters_are_refused_and_not_compared(self) -> None:
        with pytest.raises(ValueError, match="only looks like"):
            near_miss("rеquests")  # a Cyrillic е


def parse_policy_section(text: str) -> CompiledPolicy:
    return compile_policy(parse_policy(text).packages)


# A slow model, written from the rules in words: it sorts every rule that covers the version by how much it counts.

NAMES = st.sampled_from(["numpy", "torch", "pytorch", "tables", "pytables", "rich"])
VERSIONS = st.sampled_from(["1.0", "1.5", "2.0rc1", "2.0", "2.0+cu1", "3.1", "2004d", None])
CHANNELS = st.sampled_from([PYPI, "conda-forge", "elsewhere"])
RULES = st.builds(
    Rule,
    name=NAMES,
    specifier=st.sampled_from(["", "", "<2", ">=2", "==1.*", "!=2.0"]),
    channel=st.sampled_from([None, None, PYPI, "conda-forge", "elsewhere"]),
    action=st.sampled_from(list(Action)),
    level=st.sampled_from(["global", "workspace"]),
    origin=st.sampled_from(["file", "decision"]),
    sdists=st.booleans(),
)
SDISTS = st.builds(Sdists, action=st.sampled_from(list(Action)), level=st.sampled_from(["global", "workspace"]))


def means(rule: Rule, name: str, channel: str) -> bool:
    if rule.channel and rule.channel != channel:
        return False
    if rule.name == name:
        return True
    return any(
        (channel == PYPI and (rule.name, name) == (conda, pypi))
        or (channel != PYPI and (rule.name, name) == (pypi, conda))
        for conda, pypi in PAIRS
    )


#: of :data:`VERSIONS`, as conda orders them, and what the conditions of :data:`RULES` mean there
CONDA_ORDER = ["1.0", "1.5", "2.0rc1", "2.0+cu1", "2.0", "3.1", "2004d"]
CONDA_MEANS = {
    "<2": CONDA_ORDER[:4], ">=2": CONDA_ORDER[4:], "==1.*": CONDA_ORDER[:2],
    "!=2.0": [it for it in CONDA_ORDER if it != "2.0"],
}  # fmt: skip


def covers(rule: Rule, version: str | None, channel: str) -> bool:
    if rule.specifier == "":
        return True
    if version is None:
        return False
    if channel != PYPI:
        return version in CONDA_MEANS[rule.specifier]
    try:
        return Version(version) in SpecifierSet(rule.specifier, prereleases=True)
    except InvalidVersion:
        return rule.action is not ALLOW


def slow(compiled: CompiledPolicy, name: str, version: str | None, channel: str) -> Action:
    speaking = [rule for rule in compiled.rules if means(rule, name, channel) and covers(rule, version, channel)]
    spoken = {}
    for level in ("global", "workspace"):
        here = [rule for rule in speaking if rule.level == level]
        if not any(rule.action is BLOCK for rule in here):
            here = [rule for rule in here if rule.origin == "decision"] or here
        for action in (ASK, ALLOW, BLOCK):
            matching = [rule for rule in here if rule.action is action]
            if matching:
                spoken[level] = (action, matching)
    if any(action is BLOCK for action, _ in spoken.values()):
        return BLOCK
    # a file opens it by naming the channel; a decision answers a question, and lasts no longer than the channel's trust
    opened = any(rule.action is ALLOW and rule.origin == "file" and rule.channel for rule in speaking)
    if channel != PYPI and channel not in compiled.channels.names and not opened:
        return BLOCK
    hub = spoken["global"][0] if "global" in spoken else None
    own, rules = spoken.get("workspace", (None, []))
    if own is ALLOW and not any(rule.origin == "decision" for rule in rules):
        # a workspace's own list answers only what the workspace asks
        preset = compiled.fallback
        asked_by_hub = hub is ASK or (hub is None and preset.action is ASK and preset.level == "global")
        return ASK if asked_by_hub else ALLOW
    return own or hub or compiled.fallback.action


@given(
    rules=st.lists(RULES, max_size=8),
    preset=st.sampled_from(["open", "strict"]),
    name=NAMES,
    version=VERSIONS,
    channel=CHANNELS,
)
def test_the_decision_agrees_with_the_slow_model(
    rules: list[Rule], preset: str, name: str, version: str | None, channel: str
) -> None:
    compiled = policy(preset=preset).model_copy(update={"rules": tuple(rules)})
    verdict = decide(compiled, name, version, channel)
    assert verdict.action is slow(compiled, name, version, channel)
    assert bool(verdict.reason) is not verdict.allowed
    assert verdict.reason.isprintable()


def slow_source(compiled: CompiledPolicy, name: str, version: str) -> Action:
    """For a source archive: what decides on the version first; then the rule, unless somebody allowed source."""
    action, rule = slow(compiled, name, version, PYPI), compiled.sdists
    if action is not ALLOW or rule.action is ALLOW:
        return action
    for each in compiled.rules:
        if each.action is ALLOW and means(each, name, PYPI) and covers(each, version, PYPI):
            if rule.level == "global" and each.level == "workspace" and each.origin == "file":
                continue  # a workspace's own list answers only what the workspace asks
            if rule.action is ASK and (each.sdists or each.origin == "decision"):
                return ALLOW
            if each.sdists and (each.level, rule.level) != ("workspace", "global"):
                return ALLOW
    return rule.action


@given(
    rules=st.lists(RULES, max_size=6), sdists=SDISTS, name=NAMES, version=VERSIONS.filter(bool), source=st.booleans()
)
def test_the_decision_on_a_file_agrees_with_the_slow_model(
    rules: list[Rule], sdists: Sdists, name: str, version: str, source: bool
) -> None:
    compiled = policy().model_copy(update={"rules": tuple(rules), "sdists": sdists})
    verdict = decide_file(compiled, name, version, source)
    assert verdict.action is (slow_source if source else lambda *it: slow(*it, PYPI))(compiled, name, version)
    assert bool(verdict.reason) is not verdict.allowed


@given(rules=st.lists(RULES, max_size=6), version=VERSIONS)
def test_no_workspace_rule_lifts_a_global_block(rules: list[Rule], version: str | None) -> None:
    base = [rule for rule in rules if rule.level == "global"]
    alone = policy().model_copy(update={"rules": tuple(base)})
    together = policy().model_copy(update={"rules": tuple(rules)})
    if decide(alone, "numpy", version).action is BLOCK:
        assert decide(together, "numpy", version).action is BLOCK


@given(st.text(max_size=30))
def test_a_name_is_normal_or_refused(text: str) -> None:
    try:
        name = normal_name(text)
    except ValueError:
        return
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert normal_name(name) == name


class TestClientFiles:
    def test_the_token_stands_in_netrc_and_where_conda_looks_for_it(self) -> None:
        files = client_files("http://127.0.0.1:8182/services/packages", "s3cret")
        assert [name for name, text in files.items() if "s3cret" in text] == ["netrc", "condarc"]
        assert files["netrc"] == "machine localhost login launch password s3cret\n"
        assert "index-url = http://localhost:8182/services/packages/simple/\n" in files["pip.conf"]
        assert set(files) == {value.rpartition("/")[2] for value in client_environment("/x").values()} - {"1"}

    def test_conda_knows_one_channel_and_one_place(self) -> None:
        told = yaml.safe_load(client_files("http://127.0.0.1:8182/services/packages/", "s3cret")["condarc"])
        assert told["channel_alias"] == "http://localhost:8182/services/packages/conda/t/s3cret"
        assert (told["channels"], told["default_channels"]) == (["conda-forge"], [])

    def test_requests_to_the_hub_keep_their_own_token(self) -> None:
        """netrc knows no ports: on one machine the index goes by a name that the Hub's addresses do not have."""
        assert "127.0.0.1" not in "".join(client_files("http://127.0.0.1:8182/x", "t").values())

    def test_plain_http_is_trusted_where_pip_would_refuse_it(self) -> None:
        assert "trusted-host" not in client_files("http://127.0.0.1:1/x", "t")["pip.conf"]
        assert "trusted-host" not in client_files("https://hub.example.org/x", "t")["pip.conf"]
        assert "trusted-host = packages:8182\n" in client_files("http://packages:8182/x", "t")["pip.conf"]

    @pytest.mark.parametrize(
        "url, token",
        [("ftp://a/", "t"), ("http://u:p@a/", "t"), ("http://a/\n[x]", "t"), ("http://a/", "a b"), ("http://a/", "")],
    )
    def test_what_could_break_the_files_is_refused(self, url: str, token: str) -> None:
        with pytest.raises(ValueError, match="index"):
            client_files(url, token)
