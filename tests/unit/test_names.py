"""Names: of workspaces and servers, personal workspaces, homes, labels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.names import (
    RESERVED,
    check_group_name,
    check_name,
    check_new_workspace_name,
    check_user_name,
    claim_name,
    digest,
    home_directory_name,
    label_value,
    personal_workspace_name,
    slug,
    valid_name,
)

#: any text that a Hub might take for a user's name, and what people try
USERS = st.one_of(
    st.text(min_size=1, max_size=255),
    st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10})?@[a-z]{1,10}\.org", fullmatch=True),
    st.sampled_from(["ann", "Ann", "a-b", "a--b", "-a", "日本語", "a/b", "..", "{username}", "a" * 255]),
)
#: Kubernetes' own rule for a label's value
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
#: a DNS subdomain, Kubernetes' rule for the name of a claim
DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def jupyterhubs_own_rule(name: str) -> bool:
    """A server's name as JupyterHub 6 checks it, written from its documentation."""
    return (
        1 <= len(name) <= 30
        and name[0] in "abcdefghijklmnopqrstuvwxyz"
        and name[-1] != "-"
        and "--" not in name
        and all(sign in "abcdefghijklmnopqrstuvwxyz0123456789-" for sign in name)
    )


class TestWorkspaces:
    @pytest.mark.parametrize("name", ["ab", "demo", "ml-research-team", "a1", "x" * 30, "a-1-b"])
    def test_names_that_are_taken(self, name: str) -> None:
        assert check_name(name) == check_new_workspace_name(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", "A", "1a", "a--b", "a-", "-a", "x" * 31, "a_b", "a.b", "a b", "a\n", "dеmo", "../a", None, 7, ["a"]],
    )
    def test_names_that_are_refused_with_the_rule(self, name: object) -> None:
        with pytest.raises(MaestroError, match="a letter first") as caught:
            check_name(name)
        assert caught.value.code == "invalid_name"

    @given(st.one_of(st.text(max_size=40), st.text("ab1-", max_size=35)))
    def test_the_rule_is_the_hubs(self, name: str) -> None:
        assert valid_name(name) == jupyterhubs_own_rule(name)

    @pytest.mark.parametrize(
        "name", [*sorted(RESERVED), personal_workspace_name("ann", "c"), "u-0123ab", "a", f"w-{5:020x}"]
    )
    def test_a_new_one_takes_no_name_of_the_systems(self, name: str) -> None:
        with pytest.raises(MaestroError, match="kept for the system"):
            check_new_workspace_name(name)

    @given(st.text(max_size=200))
    def test_a_refusal_does_not_repeat_a_long_text(self, text: str) -> None:
        try:
            check_name(text)
        except MaestroError as error:
            assert len(error.message) < 400


class TestPersonal:
    @given(USERS, st.text(min_size=1, max_size=64))
    def test_it_can_name_a_workspace_a_server_and_an_mlflow_workspace(self, user: str, created: str) -> None:
        name = personal_workspace_name(user, created)
        assert valid_name(name) and name.startswith("u-")
        with pytest.raises(MaestroError):
            check_new_workspace_name(name)

    @given(USERS)
    def test_a_recreated_user_has_another_one_and_another_home(self, user: str) -> None:
        assert personal_workspace_name(user, "2026-01-01") != personal_workspace_name(user, "2026-01-02")
        assert home_directory_name(user, "2026-01-01") != home_directory_name(user, "2026-01-02")

    @given(USERS, st.text(max_size=40))
    def test_a_home_is_one_plain_directory(self, user: str, created: str) -> None:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", home_directory_name(user, created))

    def test_users_that_look_alike_have_homes_of_their_own(self) -> None:
        alike = ["a.b", "a-b", "a b", "A-B", "a@b"]
        assert len({home_directory_name(user, "c") for user in alike}) == len(alike)

    @given(st.tuples(st.text(max_size=5), st.text(max_size=5)), st.tuples(st.text(max_size=5), st.text(max_size=5)))
    def test_parts_of_a_digest_do_not_run_together(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        if one != other:
            assert digest(*one, length=64) != digest(*other, length=64)


class TestLabels:
    @given(USERS)
    def test_any_name_becomes_a_label(self, user: str) -> None:
        label = label_value(user)
        assert len(label) <= 63 and LABEL.fullmatch(label) and label

    @given(st.lists(USERS, min_size=2, max_size=20, unique=True))
    def test_and_different_names_different_ones(self, users: list[str]) -> None:
        labels = {label_value(user) for user in users} | {label_value(label_value(user)) for user in users}
        assert len({label_value(user) for user in users}) == len(users) <= len(labels)

    def test_a_plain_name_is_itself(self) -> None:
        assert label_value("demo") == "demo"
        assert label_value("john@example.org").startswith("john-example-org---")
        assert label_value("a---12345678") != "a---12345678"

    @given(st.from_regex(r"[a-z](-?[a-z0-9]){0,14}", fullmatch=True))
    def test_a_claim_is_named_like_its_workspace(self, name: str) -> None:
        assert DNS.fullmatch(claim_name(name)) and claim_name(name) == f"workspace-{name}"


class TestPeople:
    @pytest.mark.parametrize("name", ["ann", "john@example.org", "日本語", "a b", "a/b"])
    def test_names_as_the_hub_may_have_them(self, name: str) -> None:
        assert check_user_name(name) == check_group_name(name) == name

    @pytest.mark.parametrize("name", ["", " ann", "ann\n", "a\x00b", "x" * 256, None, 3])
    def test_what_is_none(self, name: object) -> None:
        for check, what in ((check_user_name, "user"), (check_group_name, "group")):
            with pytest.raises(MaestroError, match=f"not a {what} name"):
                check(name)


@given(st.text(max_size=300), st.integers(1, 40))
def test_a_slug_is_plain_and_short(text: str, length: int) -> None:
    made = slug(text, length)
    assert len(made) <= length and (made == "" or DNS.fullmatch(made)) and "--" not in made
