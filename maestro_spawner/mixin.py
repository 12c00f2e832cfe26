"""What both spawners share: ask the service, apply what it says, tell it how it went.

A launch goes through here in this order: form or API -> ``user_options`` -> :meth:`MaestroMixin.take_plan` (the one
question) -> the subclass starts something -> :meth:`MaestroMixin.came_up` -> confirm -> ... -> release. The decision is
the service's; without an answer nothing starts.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from jupyterhub.utils import isoformat, maybe_future
from traitlets import Float, List, Unicode, default
from traitlets.config import LoggingConfigurable

from maestro_core.environment import plan_environment
from maestro_core.errors import MaestroError
from maestro_core.launches import (
    ENVIRONMENT_DIR,
    WORKSPACE_DIR,
    FormRequest,
    LaunchPlan,
    PlanRequest,
    ask_from_form,
    parse_ask,
)
from maestro_core.models import read_model
from maestro_core.workspaces import UserRef

from . import form
from .refusals import LINK_NOTICE, OnlyShown, Refusal
from .service import PlanService, try_again
from .steps import Steps

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner as _Spawner
else:
    _Spawner = LoggingConfigurable

#: a launch's id names a folder and stands in addresses
LAUNCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

# After a failed POST the Hub renders the form of the user's unnamed server whatever server was asked for. The form's
# fields are read on the right one, in the same task, so it is remembered here with what was filled in.
_submitted: ContextVar[tuple[MaestroMixin, dict[str, str]] | None] = ContextVar("maestro_submitted", default=None)


class MaestroMixin(_Spawner):
    """What both spawners share: set here, it holds for either."""

    # Put in front of a Spawner class; the subclass calls take_plan() before and came_up() after it starts something.

    service_url = Unicode(
        config=True,
        help="""
        Base address of the workspaces service's API, as the Hub reaches it
        (``http://127.0.0.1:8181/services/workspaces/api/v1/jupyter``).

        Default: the variable ``MAESTRO_SERVICE_URL``.
        """,
    )
    service_token = Unicode(
        config=True,
        help="""
        Token of the Hub service ``maestro-spawner`` (scope ``custom:maestro:plan``). Better kept in a file: see
        ``service_token_file``.

        Default: the content of that file, else the variable ``MAESTRO_SPAWNER_TOKEN``.
        """,
    )
    service_token_file = Unicode(
        config=True,
        help="""
        File that holds the token, mode 0600; read at each start of a server, so that a token can be changed.

        Default: the variable ``MAESTRO_SPAWNER_TOKEN_FILE``.
        """,
    )
    service_timeout = Float(
        10.0,
        min=0.1,
        config=True,
        help="Seconds to wait for one answer of the workspaces service. Without an answer nothing starts.",
    )
    form_template_paths = List(
        Unicode(),
        config=True,
        help="""
        Folders in which ``spawn_form.html`` is looked for, the first match wins.

        Default: Maestro's own.
        """,
    )

    plan: LaunchPlan | None = None
    launch_id: str = ""

    #: deliveries to the service that outlive their spawner object; kept here so that they are not collected
    _deliveries: ClassVar[set[asyncio.Task[Any]]] = set()
    _came_up = False
    #: why the launch ended, where the subclass knows better
    _ended: str = ""

    @default("service_url")
    def _default_service_url(self) -> str:
        return os.environ.get("MAESTRO_SERVICE_URL", "")

    @default("service_token_file")
    def _default_token_file(self) -> str:
        return os.environ.get("MAESTRO_SPAWNER_TOKEN_FILE", "")

    @default("form_template_paths")
    def _default_template_paths(self) -> list[str]:
        return form.template_folders()

    @default("options_form")
    def _default_options_form(self) -> Any:
        # Where it is unset, the Hub's home page starts servers without showing the form.
        return lambda spawner: spawner.get_options_form()

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        # The plan applies them. Unset, the Hub would log a warning with the keys of every ask.
        return lambda spawner, options: None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = Steps()
        if self.name:
            # The Hub's own id for server `c` of user `a-b` is also that of user `a-b-c`. "!" is left by no quote().
            self.oauth_client_id = f"jupyterhub-user-{quote(self.user.name)}!{self.name}"

    # -- the service ------------------------------------------------------------------------------------------------

    def _service(self) -> PlanService:
        """The client, shared by all spawners.

        Raises:
            MaestroError: ``service_unavailable`` when address or token are not configured.
        """
        token = self.service_token or self._token_from_file() or os.environ.get("MAESTRO_SPAWNER_TOKEN", "")
        if not self.service_url or not token:
            self.log.error("Maestro's spawner lacks service_url or service_token(_file): add them to the Hub's config")
            raise MaestroError(
                "service_unavailable",
                "The Hub does not know its workspaces service, so nothing was started; tell an admin.",
            )
        return PlanService.shared(self.service_url, token, self.service_timeout)

    def _token_from_file(self) -> str:
        if not self.service_token_file:
            return ""
        try:
            return Path(self.service_token_file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            self.log.error("Cannot read the token in service_token_file: %s", type(error).__name__)
            return ""

    def _user_ref(self) -> UserRef:
        """The user as the Hub's own objects describe them: nobody is asked.

        Raises:
            MaestroError: ``invalid_name`` for a name that Maestro does not take.
        """
        return read_model(
            UserRef,
            {
                "name": self.user.name,
                "created": isoformat(self.user.created),
                "admin": bool(self.user.admin),
                "groups": sorted(group.name for group in self.user.groups),
            },
        )

    async def take_plan(self) -> LaunchPlan:
        """Ask once whether this may start; from then on this spawner holds a reservation that it must give back.

        Raises:
            Refusal: with the service's sentence, or the one that says that it does not answer.
        """
        self.steps.add(5, "Checking quota")
        try:
            ask = parse_ask(self.user_options)
            question = PlanRequest(user=self._user_ref(), server_name=self.name, ask=ask.as_user_options())
            plan = await self._service().reserve(question)
            if not LAUNCH_ID.fullmatch(plan.launch_id):
                raise MaestroError("internal", "The workspaces service gave a launch no usable id; tell an admin.")
            self.plan, self.launch_id = plan, plan.launch_id
            if (plan.user, plan.server_name) != (self.user.name, self.name):
                raise MaestroError("internal", "The workspaces service gave a plan for another server; tell an admin.")
            plan_environment(plan.environment)
        except MaestroError as error:
            raise Refusal(error) from None
        self.mem_limit, self.cpu_limit = plan.resources.memory, plan.resources.cpu
        self.steps.add(10, f"Admitted to {plan.workspace.name} as {plan.role.value}: {plan.resources.show()}")
        if plan.environment_version:
            self.steps.add(15, f"It starts with version {plan.environment_version} of the workspace's environment")
        return plan

    def came_up(self) -> None:
        """The subclass has started it: tell the service as soon as the Hub finds the server ready."""
        self._came_up = True
        self._deliver(self._confirm_when_ready(self.launch_id))

    async def _confirm_when_ready(self, launch_id: str) -> None:
        spawning = self._spawn_future
        if spawning is not None:
            await asyncio.wait([spawning])
            if spawning.cancelled() or spawning.exception() is not None:
                return  # the Hub stops it, and that releases the launch
        service = self._service()
        await try_again(lambda: service.confirm(launch_id))

    def _deliver(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._deliveries.add(task)
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[Any]) -> None:
        self._deliveries.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log.error("Telling the workspaces service failed: %s", task.exception())

    # -- the end of a launch ----------------------------------------------------------------------------------------

    def run_post_stop_hook(self) -> Any:
        """The Hub calls it after every stop and every failed start, refusals too: the launch is released here."""
        return self._after_stop(super().run_post_stop_hook())

    async def _after_stop(self, hook: Any) -> None:
        try:
            await maybe_future(hook)
        except Exception:
            self.log.exception("Error in post_stop_hook of %s", self._log_name)
        if self.launch_id:
            await self._release()

    async def _release(self) -> None:
        launch_id = self.launch_id
        if await self.poll() is None:
            self.log.error("Server %s did not end, so its launch %s is kept", self._log_name, launch_id)
            return
        reason = self._ended or ("stopped" if self._came_up else "did not start")
        try:
            service = self._service()
            await service.release(launch_id, reason)
        except MaestroError as error:
            if error.code == "service_unavailable" and self.service_url:
                self._deliver(self._release_later(launch_id, reason))
            else:
                self.log.warning("Launch %s could not be released: %s", launch_id, error.message)

    async def _release_later(self, launch_id: str, reason: str) -> None:
        service = self._service()
        if not await try_again(lambda: service.release(launch_id, reason)):
            # The service compares its launches with the Hub's servers, and finds it by itself.
            self.log.warning("Launch %s is over, but the workspaces service could not be told", launch_id)

    def get_state(self) -> dict[str, Any]:
        """The launch's id besides the subclass's own: a Hub that is started again goes on with it."""
        state: dict[str, Any] = super().get_state()
        if self.launch_id:
            state["maestro_launch_id"] = self.launch_id
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with a launch of the Hub before."""
        super().load_state(state)
        launch_id = state.get("maestro_launch_id", "")
        if isinstance(launch_id, str) and LAUNCH_ID.fullmatch(launch_id):
            self.launch_id = launch_id
            self._came_up = True

    def clear_state(self) -> None:
        """Nothing of a launch is left to the next."""
        super().clear_state()
        self.plan = None
        self.launch_id = ""
        self._came_up = False
        self._ended = ""

    # -- what the server is told ------------------------------------------------------------------------------------

    def get_env(self) -> dict[str, Any]:
        """The Hub's variables, then the plan's, which go through no template."""
        env: dict[str, Any] = super().get_env()
        if self.plan is None:
            return env
        env.update(plan_environment(self.plan.environment))
        env.setdefault("MAESTRO_ENV", ENVIRONMENT_DIR)
        if self.plan.resources.gpu == 0:
            env["NVIDIA_VISIBLE_DEVICES"] = "void"  # else a node's runtime may show them all
        if not self.notebook_dir:
            env["JUPYTERHUB_ROOT_DIR"] = WORKSPACE_DIR
        env["JUPYTERHUB_DEFAULT_URL"] = self.plan.default_url
        return env

    # -- the form ---------------------------------------------------------------------------------------------------

    async def get_options_form(self) -> str:
        """The spawn form of this server, or after a failed POST of the one that was asked for. Never empty: for the
        Hub an empty form means "start at once"."""
        submitted = _submitted.get()
        if submitted is not None and submitted[0].user is self.user:
            spawner, chosen = submitted
            return await spawner._render_form(chosen, None)
        chosen, notice = self._filled_in()
        return await self._render_form(chosen, notice, saved=notice is None)

    async def _render_form(self, chosen: Mapping[str, Any], notice: str | None, saved: bool = False) -> str:
        """``saved``: it is of an earlier start, so only what still fits is filled in. What was sent just now and
        refused stays to be mended, and a link's choice is answered when it is sent."""
        try:
            question = FormRequest(user=self._user_ref(), server_name=self.name)
            view = await self._service().form(question)
        except MaestroError as error:
            view = form.refused(error)
        note = await asyncio.to_thread(self.limits_note)
        filled_in = form.filled(view, form.fitting(view, chosen) if saved else chosen)
        return form.render(self.form_template_paths, view, filled_in, notice, note)

    def limits_note(self) -> str | None:
        """What the form says where amounts are shown but nothing enforces them; blocks shortly."""
        return None

    def _filled_in(self) -> tuple[dict[str, Any], str | None]:
        """A link's query, else what was chosen last time."""
        request = getattr(self.handler, "request", None)
        linked = form.chosen_in(request.query_arguments) if request is not None and request.method == "GET" else {}
        if linked:
            return linked, LINK_NOTICE
        return form.chosen_before(self.user_options), None

    def run_options_from_form(self, form_data: Mapping[str, list[str]]) -> dict[str, Any]:
        """``user_options`` from the submitted form.

        Raises:
            Refusal: naming the field that cannot be read.
        """
        _submitted.set((self, form.chosen_in(form_data)))
        try:
            return ask_from_form(form_data)
        except MaestroError as error:
            raise Refusal(error) from None

    def options_from_query(self, query_data: Mapping[str, list[str]]) -> dict[str, Any]:
        """A link starts nothing, whoever made it: the Hub would start a server for it, from any site.

        Raises:
            OnlyShown: always; the Hub then shows the form, filled in.
        """
        raise OnlyShown

    # -- progress ---------------------------------------------------------------------------------------------------

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Our steps, then those of the spawner behind us."""
        async for step in self.steps.follow():
            yield step
        async for event in super().progress():
            yield event
