"""A decision as the LaunchPlan that the spawner applies: what it mounts, sets, labels and opens."""

from __future__ import annotations

import json
from collections.abc import Collection
from urllib.parse import quote

from maestro_core.clients import client_environment
from maestro_core.egress import LAUNCH_LABEL
from maestro_core.environment import KERNEL_ENVIRONMENT
from maestro_core.executions import CAPTURE_VARIABLE
from maestro_core.experiments import default_experiment, viewer_experiment
from maestro_core.launches import (
    CLIENT_CONFIG_DIR,
    ENVIRONMENT_DIR,
    WORKSPACE_DIR,
    LaunchPlan,
    Mount,
    PlanWorkspace,
    SpawnAsk,
)
from maestro_core.names import label_value, personal_workspace_name
from maestro_core.policy import Dataset
from maestro_core.profiles import Profile
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_core.workspaces import UserRef
from maestro_hub_services.settings import Settings
from maestro_hub_services.store import LaunchRow, WorkspaceRow


def asked_amounts(ask: SpawnAsk, workspace: WorkspaceRow) -> Resources | None:
    """The amounts that count as asked for: those of the ask, else the workspace's own where no profile is named."""
    if ask.profile is not None or ask.resources is not None:
        return ask.resources
    return WorkspaceSettings.read(workspace.settings).amounts


def experiment_of(ask: SpawnAsk, workspace: WorkspaceRow, role: Role) -> str:
    """The experiment of a launch's runs; a viewer's is fixed, and lies in their personal workspace."""
    if not role.covers(Role.EDITOR):
        return viewer_experiment(workspace.name)
    linked = WorkspaceSettings.read(workspace.settings).experiment
    return ask.mlflow_experiment or linked or default_experiment(workspace.name)


def template_of(ask: SpawnAsk, workspace: WorkspaceRow, role: Role) -> str | None:
    """The template of a launch: what was asked for, else the workspace's own; a viewer cannot have one put there."""
    return (ask.template or workspace.template) if role.covers(Role.EDITOR) else None


def default_url(notebook: str | None) -> str:
    """What JupyterLab opens: a notebook of the workspace, or its launcher."""
    return f"/lab/tree/{quote(notebook)}" if notebook else "/lab"


def visible_datasets(datasets: Collection[Dataset], groups: Collection[str]) -> tuple[Dataset, ...]:
    """The datasets that somebody in these Hub groups may see."""
    return tuple(one for one in datasets if not one.groups or any(group in groups for group in one.groups))


def build_plan(
    settings: Settings,
    user: UserRef,
    workspace: WorkspaceRow,
    launch: LaunchRow,
    profile: Profile,
    template: str | None,
    mounts: tuple[Mount, ...],
    index_token: str,
    environment_version: int = 0,
    *,
    startup_scan: str = "",
) -> LaunchPlan:
    """Put the plan together; nothing is decided here.

    Args:
        startup_scan: what a server does with an image that the policy blocks: ``warn``, ``refuse``, or empty: not look.
    """
    return LaunchPlan(
        launch_id=launch.id,
        user=user.name,
        server_name=launch.server_name,
        workspace=PlanWorkspace(workspace_id=workspace.id, name=workspace.name, gid=workspace.gid),
        role=launch.role,
        profile=profile.name,
        resources=launch.resources,
        gpu_resource=profile.gpu_resource,
        image=launch.image,
        idle_minutes=launch.idle_minutes,
        node_selector=profile.node_selector,
        tolerations=profile.tolerations,
        mounts=mounts,
        environment=_environment(settings, user, workspace, launch, template)
        | {"MAESTRO_ENVIRONMENT": str(environment_version or ""), "MAESTRO_STARTUP_SCAN": startup_scan},
        labels={
            "maestro.user": label_value(user.name),
            "maestro.workspace": label_value(workspace.name),
            LAUNCH_LABEL: launch.id,
            **({"maestro.job": launch.server_name.removeprefix("job:")} if launch.kind == "job" else {}),
            **({} if launch.idle_minutes is None else {"maestro.idle-minutes": str(launch.idle_minutes)}),
        },
        index_url=settings.index_url,
        index_token=index_token,
        default_url=launch.default_url,
        environment_version=environment_version,
    )


def _environment(
    settings: Settings, user: UserRef, workspace: WorkspaceRow, launch: LaunchRow, template: str | None
) -> dict[str, str]:
    writer = launch.role.covers(Role.EDITOR)
    written = WorkspaceSettings.read(workspace.settings)
    variables = written.variables
    return {
        "MAESTRO_LAUNCH_ID": launch.id,
        "MAESTRO_WORKSPACE": workspace.name,
        "MAESTRO_WORKSPACE_ID": workspace.id,
        "MAESTRO_ROLE": launch.role.value,
        "MAESTRO_USER": user.name,
        "MAESTRO_SERVICE_URL": settings.service_url,
        "MAESTRO_PUBLIC_URL": settings.public_url,
        "MAESTRO_PUBLIC_PREFIX": settings.base_url,
        "MAESTRO_WORKSPACE_DIR": WORKSPACE_DIR,
        "MAESTRO_TEMPLATE": template or "",
        "MAESTRO_EXPERIMENT": launch.experiment,
        CAPTURE_VARIABLE: written.captures,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_TRACKING_AUTH": "maestro",
        "MLFLOW_WORKSPACE": workspace.name if writer else personal_workspace_name(user.name, user.created),
        "MLFLOW_EXPERIMENT_NAME": launch.experiment,
        "MAESTRO_ENV": ENVIRONMENT_DIR,
        "MAESTRO_IDLE_MINUTES": "" if launch.idle_minutes is None else str(launch.idle_minutes),
        **({KERNEL_ENVIRONMENT: json.dumps(variables)} if variables else {}),
        **client_environment(CLIENT_CONFIG_DIR),
    }
