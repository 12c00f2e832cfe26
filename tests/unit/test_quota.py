"""Quotas: which limit holds, and whether one more launch fits, compared with a slow and plain way of saying it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.allowance import InUse, Use, check, left_of, most, shown_servers
from maestro_core.errors import MaestroError
from maestro_core.quota import LEVELS, LIMITS, Override, PoolQuota, Pools, Quota, Quotas, limits_for, parse_figure
from maestro_core.resources import Resources

FEW = st.one_of(st.none(), st.integers(0, 5))
SHARED = {"max_concurrent_notebooks": FEW, "max_gpu_total": FEW, "max_gpu_hours_per_month": FEW}
POOL = st.builds(PoolQuota, **SHARED)
QUOTA = st.builds(
    Quota,
    max_gpu_per_notebook=st.one_of(st.none(), st.integers(0, 4)),
    max_cpu_per_notebook=st.one_of(st.none(), st.integers(1, 16)),
    **SHARED,
)
QUOTAS = st.builds(
    Quotas,
    everyone=QUOTA,
    groups=st.dictionaries(st.sampled_from(["a", "b", "c"]), QUOTA),
    users=st.dictionaries(st.sampled_from(["ann", "bob"]), QUOTA),
    workspaces=st.dictionaries(st.sampled_from(["demo", "other"]), QUOTA),
    pools=st.builds(Pools, everyone=POOL, groups=st.dictionaries(st.sampled_from(["a", "b", "d"]), POOL)),
)
USE = st.builds(Use, servers=st.integers(0, 6), gpu=st.integers(0, 5), gpu_hours=st.integers(0, 6))
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

    def test_pools_hold_besides_the_ones_of_all_ones_groups(self) -> None:
        pools = Pools(everyone=PoolQuota(max_gpu_total=9), groups={g: PoolQuota(max_gpu_total=8) for g in ("a", "z")})
        found = limits_for(Quotas(everyone=Quota(max_gpu_total=1), pools=pools), "ann", {"a", "b"}, "demo")
        assert [(limit.scope, limit.key, limit.value, limit.source) for limit in found] == [
            ("user", "", 1, "everyone"),
            ("pool", "a", 8, "the pool of group a"),
            ("pool", "", 9, "the pool of everyone"),
        ]

    def test_a_figure_of_runtime_wins_at_its_level_and_no_further(self) -> None:
        quotas = Quotas(everyone=Quota(max_gpu_total=1), users={"ann": Quota(max_gpu_total=2)})
        noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
        for level, name, value in (("everyone", "", 2), ("user", "ann", 5)):
            (limit,) = limits_for(quotas, "ann", (), None, [Override(level, name, "max_gpu_total", 5, "root", noon)])
            assert limit.value == value
        assert (limit.origin, limit.set_for) == ("root on 2026-11-24", "set for user ann by root on 2026-11-24")

    def test_the_most_generous_of_groups_of_file_and_runtime(self) -> None:
        rows = [Override("group", "b", "max_gpu_total", 3, "root", datetime(2026, 11, 24, tzinfo=UTC))]
        quotas = Quotas(groups={"a": Quota(max_gpu_total=2), "b": Quota(max_gpu_total=9)})
        (limit,) = limits_for(quotas, "ann", {"a", "b"}, None, rows)
        assert (limit.value, limit.source) == (3, "group b")

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

    def shared(limit: Callable[[str], float | None], use: Use) -> bool:
        hours = limit("max_gpu_hours_per_month")
        return (
            fits(limit("max_concurrent_notebooks"), use.servers + 1)
            and (not asked.gpu or fits(limit("max_gpu_total"), use.gpu + asked.gpu))
            and (not asked.gpu or hours is None or use.gpu_hours < hours)
        )

    pools = quotas.pools
    return (
        shared(person, in_use.user)
        and shared(here, in_use.workspace)
        and shared(lambda name: getattr(pools.everyone, name), in_use.pools.get("", Use()))
        and all(
            shared(lambda name, group=group: getattr(pools.groups[group], name), in_use.pools.get(group, Use()))
            for group in groups & pools.groups.keys()
        )
        and all(fits(limit("max_cpu_per_notebook"), asked.cpu) for limit in (person, here))
        and all(fits(limit("max_gpu_per_notebook"), asked.gpu) for limit in (person, here))
    )


class TestWhetherItFits:
    @given(
        QUOTAS,
        GROUPS,
        st.builds(
            InUse,
            user=USE,
            workspace=USE,
            pools=st.dictionaries(st.sampled_from(["", "a", "b", "d"]), USE),
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
            assert error.details["limit"] in error.message and error.details["source"] in error.message
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


class TestWhatIsLeft:
    quotas = Quotas(
        everyone=Quota(
            max_concurrent_notebooks=3, max_gpu_total=4, max_gpu_hours_per_month=10, max_cpu_per_notebook=16
        ),
        workspaces={"demo": Quota(max_memory_total="64Gi")},
        pools=Pools(groups={"ml": PoolQuota(max_gpu_total=8)}),
    )
    limits = limits_for(quotas, "ann", {"ml"}, "demo")
    in_use = InUse(Use(2, 4, 0, 1, 40, 3.5), Use(memory=6 * 1024**3), {"ml": Use(gpu=6)})

    def test_in_words(self) -> None:
        assert [left.sentence for left in left_of(self.limits, self.in_use)] == [
            "2 of 3 servers",
            "6 GiB of 64 GiB memory of workspace demo",
            "1 of 4 GPUs",
            "6 of 8 GPUs of group ml",
            "3.5 of 10 GPU hours this month",
        ]

    def test_the_most_that_may_be_asked_for_is_a_profiles_ceiling_within_every_limit(self) -> None:
        assert most(self.limits, self.in_use, Resources(cpu=32, memory="100Gi", gpu=8)) == Resources(
            cpu=16, memory="58Gi", gpu=2
        )
        assert most([], InUse(), Resources(cpu=2, gpu=1)) == Resources(cpu=2, gpu=1)

    def test_nothing_where_not_even_the_least_fits(self) -> None:
        full = InUse(workspace=Use(memory=64 * 1024**3))
        assert most(self.limits, full, Resources()) is None

    def test_no_gpu_when_their_hours_are_used_up(self) -> None:
        spent = InUse(Use(gpu_hours=10))
        assert most(self.limits, spent, Resources(gpu=1)) == Resources(gpu=0)

    @given(
        QUOTAS,
        GROUPS,
        st.builds(InUse, user=USE, workspace=USE, pools=st.dictionaries(st.sampled_from(["", "a", "b"]), USE)),
    )
    def test_it_is_admitted_and_one_gpu_more_is_not(self, quotas: Quotas, groups: set[str], in_use: InUse) -> None:
        limits = [one for one in limits_for(quotas, "ann", groups, "demo") if one.name != "max_concurrent_notebooks"]
        top = most(limits, in_use, Resources(cpu=4, gpu=4))
        if top is None:
            return
        check(limits, in_use, top)
        if top.gpu < 4:
            with pytest.raises(MaestroError):
                check(limits, in_use, top.model_copy(update={"gpu": top.gpu + 1}))


def test_a_figure_is_written_as_the_file_writes_it() -> None:
    assert parse_figure("user", "max_memory_total", "1Gi") == 1024**3
    assert parse_figure("group-pool", "max_cpu_total", "500") == 500
    assert parse_figure("everyone", "max_gpu_hours_per_month", "0.5") == 0.5
    for level in LEVELS:
        assert parse_figure(level, "max_concurrent_notebooks", 0) == 0


@pytest.mark.parametrize(
    ("limit", "value", "told"),
    [
        ("max_concurrent_notebooks", "abc", "max_concurrent_notebooks: write a whole number."),
        ("max_concurrent_notebooks", 1.5, "max_concurrent_notebooks: write a whole number."),
        ("max_gpu_hours_per_month", "abc", "max_gpu_hours_per_month: write a number."),
    ],
)
def test_a_figure_that_is_no_number_is_refused_in_plain_words(limit: str, value: object, told: str) -> None:
    with pytest.raises(MaestroError) as caught:
        parse_figure("everyone", limit, value)
    assert caught.value.message == told
