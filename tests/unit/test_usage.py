"""What servers and the service tell each other while a launch runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.usage import Heartbeat, Notices

BEAT = {"cpu_seconds": 12.5, "memory": 2**30, "busy": True, "kernels": 1}


def test_a_heartbeat_says_what_is_known_and_leaves_out_the_rest() -> None:
    beat = read_model(Heartbeat, BEAT)
    assert (beat.memory_limit, beat.gpus, beat.workspace_bytes) == (None, (), None)
    full = BEAT | {"memory_limit": 2**31, "workspace_bytes": 0, "gpus": [{"name": "A100", "utilization": 97.0}]}
    assert read_model(Heartbeat, full).gpus[0].utilization == 97


def test_a_server_and_a_service_of_different_versions_understand_each_other() -> None:
    assert read_model(Heartbeat, BEAT | {"of_tomorrow": 1}).kernels == 1
    seen = read_model(Notices, {"notices": [{"id": "a", "message": "Hello.", "of_tomorrow": 1}], "more": 2})
    assert seen.notices[0].kind == "info"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpu_seconds": -1},
        {"cpu_seconds": float("nan")},
        {"cpu_seconds": float("inf")},
        {"memory": -1},
        {"memory": "lots"},
        {"kernels": None},
        {"gpus": [{}] * 65},
        {"gpus": [{"utilization": 101}]},
    ],
)
def test_figures_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MaestroError, match=next(iter(wrong))):
        read_model(Heartbeat, BEAT | wrong)


def test_a_notice_says_until_when_with_its_time_zone() -> None:
    until = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    notices = {"notices": [{"id": "cull", "kind": "cull", "message": "m", "until": until, "action": "keep"}]}
    assert read_model(Notices, read_model(Notices, notices).model_dump(mode="json")).notices[0].until == until


@pytest.mark.parametrize("wrong", [{"id": ""}, {"kind": "advert"}, {"action": "rm"}, {"message": "m" * 2001}])
def test_a_notice_of_another_kind_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MaestroError):
        read_model(Notices, {"notices": [{"id": "a", "message": "m"} | wrong]})
