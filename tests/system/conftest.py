"""The system tests' fixtures.

``maestro`` (session)   THE running system: one ``python -m maestro_hub_services.run`` on a temporary state, all ports
                        random, the admin signed in. A :class:`house.Maestro`: ``url``, ``ready``, ``state``, ``admin``,
                        ``person("ann")`` (added by the admin, signed in), ``account(name, action)``, ``log()``.
                        People (:class:`house.Person`) have ``get``, ``submit`` (a form, its XSRF token),
                        ``token()``, ``api()`` (Maestro's REST API), ``hub()`` (the Hub's), ``name``, ``password``.
``new_run``             starts further runs on states of their own (for what ends or breaks a run): a function
                        ``new_run(*arguments, state=..., before=..., **variables) -> house.Run``; all end with the test.
``mlflow`` (session)    Maestro's MLflow alone, with stand-ins for the Hub and the workspaces service. A
                        :class:`mlflow_alone.MlflowAlone`: ``client(user, workspace, server)``, ``workspaces.member()``.

Tests share the session's system: take names of your own, and leave others' servers alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.house import ROOT, Maestro, Run
from tests.system.mlflow_alone import MlflowAlone


@pytest.fixture(scope="session")
def maestro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maestro]:
    """The running system; ends with the session."""
    folder = tmp_path_factory.mktemp("maestro")
    policy = shutil.copy(ROOT / "maestro.yaml", folder / "maestro.yaml")
    run = Run(folder / "state", environment={"MAESTRO_POLICY": str(policy)})
    try:
        yield Maestro(run, policy)
    finally:
        run.stop()
        kept = os.environ.get("MAESTRO_TEST_LOGS")  # for whoever looks into a failure
        if kept and (run.state / "log").is_dir():
            shutil.copytree(run.state / "log", kept, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowAlone]:
    """MLflow alone; ends with the session."""
    alone = MlflowAlone(tmp_path_factory.mktemp("mlflow"))
    try:
        yield alone
    finally:
        alone.close()


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start runs of the test's own."""
    runs: list[Run] = []

    def start(*arguments: str, state: Path | None = None, before: Sequence[str] = (), **environment: str) -> Run:
        runs.append(Run(state or tmp_path / "state", *arguments, environment=environment, before=before))
        return runs[-1]

    try:
        yield start
    finally:
        for run in runs:
            run.stop()
