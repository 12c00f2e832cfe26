"""Asks: what a form, a client and anybody else may hand to the Hub as ``user_options``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.launches import (
    LaunchPlan,
    LaunchRequest,
    LaunchStatus,
    PlanWorkspace,
    SpawnAsk,
    ask_from_form,
    parse_ask,
)
from maestro_core.models import read_model
from maestro_core.resources import Resources
from maestro_core.roles import Role

ASKS = st.builds(
    SpawnAsk,
    workspace=st.one_of(st.none(), st.just("demo"), st.just("personal")),
    profile=st.one_of(st.none(), st.just("small")),
    resources=st.one_of(st.none(), st.builds(Resources, cpu=st.integers(1, 8), gpu=st.integers(0, 2))),
    template=st.one_of(st.none(), st.just("start-here")),
    mlflow_experiment=st.one_of(st.none(), st.just("Churn, Q3")),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)),
    max_leaves=8,
)


class TestAsks:
    @given(ASKS)
    def test_what_is_handed_to_the_hub_reads_back_as_it_was(self, ask: SpawnAsk) -> None:
        assert parse_ask(ask.as_user_options()) == ask

    @pytest.mark.parametrize("nothing", [None, {}])
    def test_nothing_is_the_default(self, nothing: object) -> None:
        assert parse_ask(nothing) == SpawnAsk()
        assert parse_ask(nothing).as_user_options() == {}

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            ({"image": "registry.example/evil:latest"}, "invalid_name"),
            ({"git_repo": "https://example.org/x.git"}, "invalid_request"),
            ([], "invalid_request"),
            ("demo", "invalid_request"),
            ({"workspace": "Demo"}, "invalid_name"),
            ({"workspace": ["demo"]}, "invalid_name"),
            ({"template": "../../etc/passwd"}, "invalid_name"),
            ({"profile": "{username}"}, "invalid_name"),
            ({"resources": {"memory": "lots"}}, "invalid_resources"),
            ({"resources": {"disk": "1Gi"}}, "invalid_request"),
            ({"resources": "big"}, "invalid_request"),
            ({"mlflow_experiment": "a\nb"}, "invalid_name"),
            ({"mlflow_experiment": "x" * 251}, "invalid_name"),
            ({7: 7}, "invalid_request"),
        ],
    )
    def test_anything_else_is_refused_by_name(self, options: Any, code: str) -> None:
        with pytest.raises(MaestroError) as caught:
            parse_ask(options)
        assert caught.value.code == code and "\n" not in caught.value.message

    @given(st.one_of(ANYTHING, st.dictionaries(st.sampled_from([*SpawnAsk.model_fields]), ANYTHING, max_size=4)))
    def test_whatever_comes_is_an_ask_or_a_short_sentence(self, options: Any) -> None:
        try:
            parse_ask(options)
        except MaestroError as error:
            assert error.code.startswith("invalid_") and len(error.message) < 600


class TestForms:
    def test_lists_of_strings_become_an_ask(self) -> None:
        fields = {"_xsrf": ["t"], "workspace": ["demo"], "profile": [""], "cpu": ["2"], "memory": ["4Gi"], "gpu": []}
        assert ask_from_form(fields) == {
            "workspace": "demo",
            "resources": {"cpu": 2.0, "memory": 4 * 1024**3},
        }

    def test_an_empty_form_is_an_empty_ask(self) -> None:
        assert ask_from_form({"profile": ["", " "], "_xsrf": ["t"]}) == {}

    def test_an_unknown_field_is_refused(self) -> None:
        with pytest.raises(MaestroError, match="'admin'"):
            ask_from_form({"admin": ["1"]})


class TestRequests:
    def test_the_ask_leaves_out_whose_and_which_server_it_is(self) -> None:
        body = {"workspace": "demo", "server_name": "more", "user": "bob", "profile": "small"}
        request = read_model(LaunchRequest, body)
        assert request.ask().as_user_options() == {"workspace": "demo", "profile": "small"}

    def test_no_workspace_is_the_personal_one(self) -> None:
        assert read_model(LaunchRequest, {}).ask().workspace == "personal"


class TestPlans:
    @pytest.mark.parametrize(("role", "read_only"), [(Role.OWNER, False), (Role.EDITOR, False), (Role.VIEWER, True)])
    def test_who_may_not_write_files_reads(self, role: Role, read_only: bool) -> None:
        plan = LaunchPlan(
            launch_id="l",
            user="ann",
            server_name="",
            workspace=PlanWorkspace(workspace_id="w", name="demo", gid=1),
            role=role,
            profile="small",
            resources=Resources(),
            index_token="secret-of-the-launch",
        )
        assert plan.read_only is read_only
        assert "secret-of-the-launch" not in f"{plan} {plan!r}"

    def test_only_an_ended_launch_does_not_count(self) -> None:
        assert [status for status in LaunchStatus if not status.active] == [LaunchStatus.ENDED]
