"""The worker program as both runners start it: its command, and what its environment says besides the launch's plan."""

from __future__ import annotations

import os

from maestro_core.environment import plan_environment
from maestro_core.launches import ENVIRONMENT_DIR, LaunchPlan

from .protocol import JobAddress

#: after the interpreter of the notebook servers' environment
ARGUMENTS = ("-P", "-m", "server_extension.jobs")
#: where the worker, MLflow's plugin and the package index's client look for the token
TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - a variable's name
#: of the service's own, as the Hub hands them to servers
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")


def worker_environment(plan: LaunchPlan, work: JobAddress) -> dict[str, str]:
    """A worker's variables, without its token.

    Raises:
        MaestroError: ``internal`` for a plan that sets what no plan may set.
    """
    variables = {
        **{name: os.environ[name] for name in _KEPT if os.environ.get(name)},
        "MAESTRO_ENV": ENVIRONMENT_DIR,
        **plan_environment(plan.environment),
        "MAESTRO_SERVICE_URL": work.api_url,
        # as the Hub tells servers
        "JUPYTERHUB_USER": plan.user,
        "CPU_LIMIT": f"{plan.resources.cpu:g}",
        "MEM_LIMIT": str(plan.resources.memory),
        "MAESTRO_JOB": work.job_id,
        "MAESTRO_JOB_ATTEMPT": str(work.attempt),
    }
    if plan.resources.gpu == 0:
        variables["NVIDIA_VISIBLE_DEVICES"] = "void"  # else a node's runtime may show them all
    return variables
