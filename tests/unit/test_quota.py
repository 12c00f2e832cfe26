"""Quotas: which limit holds, and whether one more launch fits, compared with a slow and plain way of saying it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.allowance import InUse, Use, check, shown_servers
from maestro_core.errors import MaestroError
from maestro_core.quota import LIMITS, Quota, Quotas, limits_for
from maestro_core.resources import Resources

FEW = st.one_of(st.none(), st.integers(0, 5))
QUOTA = st.builds(
    Quota,
    max_concurrent_notebooks=FEW,
    max_gpu_per_notebook=st.one_of(st.none(), st.integers(0, 4)),
    max_cpu_per_notebook=st.one_of(st.none(), st.integers(1, 16)),
)
QUOTAS = st.builds(
    Quotas,
    everyone=QUOTA,
    groups=st.dictionaries(st.sampled_from(["a", "b", "c"]), QUOTA),
    users=st.dictionaries(st.sampled_from(["ann", "bob"]), QUOTA),
    workspaces=st.dictionaries(st.sampled_from(["demo", "other"]), QUOTA),
)
GROUPS = st.sets(st.sampled_from(["a", "b", "c", "d"]))


class TestWhichOneHolds:
    def values(self, quotas: Quotas, groups: set[str] | frozenset[str] = frozenset()) -> dict[str, tuple[float, str]]:
        found = limits_for(quotas, "ann", groups, "demo")
        return {f"{limit.scope}.{limit.name}": (limit.value, limit.source) for limit in found}

    def test_nobody_set_one_so_there_is_none(self) -> None:
        assert self.values(Quotas()) == {}

    def test_the_user_over_groups_over_everyone(self) -> None:
        three, five, one = (Quota(max_concurrent_notebooks=number) for number in (3, 5, 1))
        key = "user.max_concurrent_notebooks"
        assert self.values(Quotas(everyone=three))[key] == (3, "everyone")
        assert self.values(Quotas(everyone=three, groups={"a": five}), {"a"})[key] == (5, "group a")
        assert self.values(Quotas(everyone=three, groups={"a": five}))[key] == (3, "everyone")
        assert self.values(Quotas(everyone=five, groups={"a": five}, users={"ann": one}), {"a"})[key] == (1, "user ann")

    def test_the_most_generous_of_the_groups(self) -> None:
        quotas = Quotas(groups={name: Quota(max_concurrent_notebooks=number) for name, number in (("a", 2), ("b", 7))})
        assert self.values(quotas, {"a", "b"})["user.max_concurrent_notebooks"] == (7, "group b")

    def test_each_figure_for_itself(self) -> None:
        quotas = Quotas(
            everyone=Quota(max_concurrent_notebooks=3, max_cpu_per_notebook=16),
            users={"ann": Quota(max_cpu_per_notebook=32)},
        )
        assert self.values(quotas) == {
            "user.max_concurrent_notebooks": (3, "everyone"),
            "user.max_cpu_per_notebook": (32, "user ann"),
        }

    def test_the_workspaces_holds_besides(self) -> None:
        quotas = Quotas(
            users={"ann": Quota(max_concurrent_notebooks=9)}, workspaces={"demo": Quota(max_concurrent_notebooks=2)}
        )
        assert self.values(quotas) == {
            "user.max_concurrent_notebooks": (9, "user ann"),
            "workspace.max_concurrent_notebooks": (2, "workspace demo"),
        }

    @given(QUOTAS, GROUPS)
    def test_the_order_of_groups_does_not_matter(self, quotas: Quotas, groups: set[str]) -> None:
        assert limits_for(quotas, "ann", sorted(groups), "demo") == limits_for(
            quotas, "ann", sorted(groups, reverse=True), "demo"
        )


def slow_answer(quotas: Quotas, groups: set[str], in_use: InUse, asked: Resources) -> bool:
    """Whether a launch fits, said plainly and without the code's own tables."""

    def person(name: str) -> float | None:
        own = getattr(quotas.users.get("ann", Quota()), name)
        if own is not None:
            return own
        of_groups = [getattr(quotas.groups[group], name) for group in groups if group in quotas.groups]
        of_groups = [value for value in of_groups if value is not None]
        return max(of_groups) if of_groups else getattr(quotas.everyone, name)

    def here(name: str) -> float | None:
        return getattr(quotas.workspaces.get("demo", Quota()), name)

    def fits(limit: float | None, amount: float) -> bool:
        return limit is None or amount <= limit

    return (
        fits(person("max_concurrent_notebooks"), in_use.user.servers + 1)
        and fits(here("max_concurrent_notebooks"), in_use.workspace.servers + 1)
        and all(fits(limit("max_cpu_per_notebook"), asked.cpu) for limit in (person, here))
        and all(fits(limit("max_gpu_per_notebook"), asked.gpu) for limit in (person, here))
    )


class TestWhetherItFits:
    @given(
        QUOTAS,
        GROUPS,
        st.builds(
            InUse,
            user=st.builds(Use, servers=st.integers(0, 6)),
            workspace=st.builds(Use, servers=st.integers(0, 6)),
        ),
        st.builds(Resources, cpu=st.integers(1, 20), gpu=st.integers(0, 6)),
    )
    def test_as_the_slow_answer_says(self, quotas: Quotas, groups: set[str], in_use: InUse, asked: Resources) -> None:
        try:
            check(limits_for(quotas, "ann", groups, "demo"), in_use, asked)
            admitted = True
        except MaestroError as error:
            admitted = False
            assert error.code == "quota_exceeded"
            assert error.details["in_use"] + error.details["asked"] > error.details["value"]
        assert admitted == slow_answer(quotas, groups, in_use, asked)

    def test_the_sentence_says_which_how_much_by_what_and_what_to_do(self) -> None:
        limits = limits_for(Quotas(everyone=Quota(max_concurrent_notebooks=3)), "ann", (), "demo")
        with pytest.raises(MaestroError) as caught:
            check(limits, InUse(Use(3), Use(1), user_servers=("demo", "other", "your personal server")), Resources())
        assert caught.value.message == (
            "You have 3 of 3 servers running or starting (demo, other, your personal server) "
            "(max_concurrent_notebooks 3, set for everyone); stop one of them, or ask an admin for more."
        )

    def test_and_for_an_amount(self) -> None:
        limits = limits_for(Quotas(users={"ann": Quota(max_memory_per_notebook="8Gi")}), "ann", (), None)
        with pytest.raises(MaestroError, match="asks for 16 GiB of at most 8 GiB memory a server"):
            check(limits, InUse(), Resources(memory="16Gi"))

    def test_a_limit_of_zero_closes(self) -> None:
        limits = limits_for(Quotas(workspaces={"demo": Quota(max_concurrent_notebooks=0)}), "ann", (), "demo")
        with pytest.raises(MaestroError, match="Workspace demo has 0 of 0 servers"):
            check(limits, InUse(), Resources())

    def test_storage_is_not_a_matter_of_launches(self) -> None:
        limits = limits_for(Quotas(everyone=Quota(max_storage_per_workspace="1Gi")), "ann", (), None)
        check(limits, InUse(), Resources())


def test_what_cards_show() -> None:
    quotas = Quotas(everyone=Quota(max_concurrent_notebooks=3), workspaces={"demo": Quota(max_concurrent_notebooks=1)})
    assert shown_servers(limits_for(quotas, "ann", (), "demo"), InUse(Use(2))) == {"used": 2, "limit": 3}
    assert shown_servers([], InUse(Use(2))) == {"used": 2, "limit": None}


def test_every_limit_can_be_set_and_shown() -> None:
    assert set(LIMITS) == set(Quota.model_fields)
    for kind in LIMITS.values():
        assert kind.title and kind.show(1024.0**3)
