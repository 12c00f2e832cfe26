"""Ends runs whose launch has ended: a server that was culled, killed or lost its machine says nothing to MLflow.

Like ``removal.py`` this knows the tables of mlflow 3.17.2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from maestro_core.experiments import TAG_LAUNCH, TAG_REASON
from maestro_core.workspaces import EndedLaunches, EndedQuestion

from .again import for_ever

#: seconds between two looks
INTERVAL = 10.0
TIMEOUT_SECONDS = 10.0
#: launches of one question, runs of one transaction
_MANY = 500
log = logging.getLogger("maestro.tracking")


class Orphans:
    """The loop.

    Args:
        client: an HTTP client without default credentials. api_url, token: of the workspaces service, and this one's.
        launches: the launches that active runs name. end: ends the active runs of launches, with a reason each.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        api_url: str,
        token: str,
        launches: Callable[[], Awaitable[list[str]]],
        end: Callable[[Mapping[str, str]], Awaitable[int]],
    ) -> None:
        self._client = client
        self._url = api_url.rstrip("/") + "/authorize/ended"
        self._headers = {"Authorization": f"token {token}"}
        self._launches = launches
        self._end = end

    async def run(self) -> None:
        """Look for ever; a look that fails is made again."""
        await for_ever(self.once, "Runs of ended servers", INTERVAL)

    async def once(self) -> None:
        """End what is to end.

        Raises:
            httpx.HTTPError: the service does not answer, or refuses.
            Exception: whatever MLflow's store raises.
        """
        named = await self._launches()
        for at in range(0, len(named), _MANY):
            question = EndedQuestion(launches=tuple(named[at : at + _MANY]))
            answer = await self._client.post(
                self._url, json=question.model_dump(), headers=self._headers, timeout=TIMEOUT_SECONDS
            )
            ended = EndedLaunches.model_validate(answer.raise_for_status().json()).ended
            if ended and (count := await self._end(ended)):
                log.info("Ended %d runs of servers that have ended.", count)


def launches_of_active_runs(store: Any) -> list[str]:
    """The launches that runs name which are RUNNING. Blocking: call it in a thread.

    Args:
        store: MLflow's workspace store.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

    with store.ManagedSessionMaker(read_only=True) as session:
        query = session.query(SqlTag.value).join(SqlRun, SqlRun.run_uuid == SqlTag.run_uuid)
        found = query.filter(SqlTag.key == TAG_LAUNCH, SqlRun.status == "RUNNING").distinct().all()
    return sorted(str(row[0])[:64] for row in found)


def end_runs(store: Any, reasons: Mapping[str, str]) -> int:
    """End the RUNNING runs of launches as KILLED, with the reason as a tag; how many. Blocking: call it in a thread.

    Args:
        store: MLflow's workspace store. reasons: launch -> why it ended.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

    with store.ManagedSessionMaker(read_only=False) as session:
        query = session.query(SqlRun, SqlTag.value).join(SqlTag, SqlRun.run_uuid == SqlTag.run_uuid)
        query = query.filter(SqlTag.key == TAG_LAUNCH, SqlTag.value.in_(list(reasons)), SqlRun.status == "RUNNING")
        found = query.limit(_MANY).all()
        for run, launch in found:
            run.status, run.end_time = "KILLED", int(time.time() * 1000)
            session.merge(SqlTag(run_uuid=run.run_uuid, key=TAG_REASON, value=f"the server ended: {reasons[launch]}"))
        return len(found)
