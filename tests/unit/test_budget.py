"""Budgets: hours of a month of UTC, whatever a month's end, a time zone or a clock does to the intervals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.budget import Interval, hours, month_of

DAY = 86400.0
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)).map(lambda moment: moment.replace(tzinfo=UTC))
INTERVALS = st.builds(
    lambda amount, began, length: Interval(amount, began.timestamp(), began.timestamp() + length),
    st.sampled_from([0.5, 1, 2, 8]),
    MOMENTS,
    st.floats(0, 70 * DAY),
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class TestMonths:
    def test_a_month_is_one_of_utc_wherever_the_moment_was_seen(self) -> None:
        east = datetime(2026, 12, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))  # 23:30 of November in UTC
        assert month_of(east).name == "November 2026"
        assert month_of(east.astimezone(ZoneInfo("America/New_York"))) == month_of(east)

    def test_it_ends_where_the_next_one_begins(self) -> None:
        december = month_of(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
        assert (december.end, december.over) == (datetime(2027, 1, 1, tzinfo=UTC), "1 January")

    @given(MOMENTS)
    def test_every_moment_lies_in_one_month(self, moment: datetime) -> None:
        month = month_of(moment)
        assert month.start <= moment < month.end
        assert month_of(month.end - timedelta(microseconds=1)) == month != month_of(month.end)

    def test_a_moment_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="without a zone"):
            month_of(datetime(2026, 1, 1))


class TestHours:
    november = month_of(datetime(2026, 11, 15, tzinfo=UTC))

    def test_amount_times_hours(self) -> None:
        two_gpus = Interval(2, at("2026-11-03 10:00"), at("2026-11-03 13:30"))
        assert hours([two_gpus], self.november, at("2026-11-20 00:00")) == 7

    def test_what_is_still_held_counts_until_now(self) -> None:
        running = Interval(1, at("2026-11-03 10:00"), None)
        assert hours([running], self.november, at("2026-11-03 12:00")) == 2

    def test_what_crosses_the_months_end_gives_each_month_its_part(self) -> None:
        night = Interval(1, at("2026-11-30 22:00"), at("2026-12-01 03:00"))
        now = at("2026-12-10 00:00")
        december = month_of(datetime(2026, 12, 10, tzinfo=UTC))
        assert (hours([night], self.november, now), hours([night], december, now)) == (2, 3)

    def test_the_hour_that_a_country_has_twice_is_one_hour(self) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        began = datetime(2026, 10, 25, 1, 30, tzinfo=berlin)
        ended = datetime(2026, 10, 25, 3, 30, tzinfo=berlin)  # the clock went back at 3: three hours
        month = month_of(began)
        assert hours([Interval(1, began.timestamp(), ended.timestamp())], month, ended.timestamp()) == 3

    def test_a_clock_that_went_backwards_gives_nothing_back(self) -> None:
        backwards = Interval(1, at("2026-11-03 10:00"), at("2026-11-03 09:00"))
        future = Interval(1, at("2026-11-03 10:00"), None)
        assert hours([backwards, future], self.november, at("2026-11-03 09:00")) == 0

    @given(st.lists(INTERVALS, max_size=6), st.integers(0, 30))
    def test_the_months_together_are_the_whole(self, intervals: list[Interval], before: int) -> None:
        now = at("2030-01-01 00:00")
        month, total = month_of(datetime(2023, 12, 15, tzinfo=UTC) - timedelta(days=30 * before)), 0.0
        while month.start < datetime(2028, 6, 1, tzinfo=UTC):
            total += hours(intervals, month, now)
            month = month_of(month.end)
        whole = sum(one.amount * ((one.ended or 0) - one.began) for one in intervals) / 3600
        assert total == pytest.approx(whole, abs=1e-6)
