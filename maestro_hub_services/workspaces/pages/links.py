"""Addresses that the pages link to. Every name is quoted as the Hub quotes it, whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlencode


def escape(name: str) -> str:
    """One path segment; ``@`` and ``~`` stay, as in the Hub's own URLs."""
    return quote(name, safe="@~")


@dataclass(frozen=True)
class Links:
    """Builds addresses from the three prefixes, each with its slashes.

    Attributes:
        base: the Hub's ``base_url`` (``/``), with the Hub's host before it where services have a domain of their own.
        prefix: where this service lies (``/services/workspaces/``).
        root: the services' prefix (``/services/``).
    """

    base: str = "/"
    prefix: str = "/services/workspaces/"

    @property
    def home(self) -> str:
        """The landing page."""
        return self.prefix

    @property
    def root(self) -> str:
        """Where the Hub sends people first."""
        return self.base

    @property
    def services(self) -> str:
        """The prefix of all services."""
        return self.prefix.rstrip("/").rpartition("/")[0] + "/"

    def hub(self, path: str = "") -> str:
        """A page of the Hub."""
        return f"{self.base}hub/{path}"

    def hub_static(self, path: str) -> str:
        """A file of the Hub's look."""
        return self.hub(f"static/{path}")

    def static(self, path: str) -> str:
        """A file of ours."""
        return f"{self.prefix}static/{path}"

    def spawn(self, user: str, server_name: str) -> str:
        """The Hub's spawn form of one server; the unnamed one opens the personal workspace."""
        return self.hub(f"spawn/{escape(user)}" + (f"/{escape(server_name)}" if server_name else ""))

    def pending(self, user: str, server_name: str) -> str:
        """The Hub's progress page of a starting server."""
        return self.hub(f"spawn-pending/{escape(user)}" + (f"/{escape(server_name)}" if server_name else ""))

    def server(self, path: str) -> str:
        """A running server, from its path below the Hub's address (``/user/ann/demo/lab``).

        A path that already begins with the Hub's prefix is taken as it is.
        """
        below = self.base[self.base.find("/", self.base.find("//") + 2) :] if "//" in self.base else self.base
        if below != "/" and path.startswith(below):
            path = path.removeprefix(below)
        return self.base + path.lstrip("/")

    def mlflow(self, workspace: str) -> str:
        """The experiments of a workspace in MLflow (its pages route behind the hash)."""
        return f"{self.services}mlflow/#/experiments?{urlencode({'workspace': workspace})}"

    def run(self, workspace: str, run_id: str) -> str:
        """One run in MLflow, whatever experiment it is in."""
        return f"{self.services}mlflow/#/runs/{escape(run_id)}?{urlencode({'workspace': workspace})}"

    def tracked(self, workspace: str, address: str) -> str:
        """What a saved version made: its runs and models, at MLflow."""
        return f"{self.services}mlflow/maestro/versions/{address}?{urlencode({'workspace': workspace})}"

    @property
    def create(self) -> str:
        """Where a new workspace is posted."""
        return f"{self.prefix}new"

    def cards(self, digest: str) -> str:
        """The cards alone, or nothing when they still have this digest."""
        return f"{self.prefix}cards?{urlencode({'shown': digest})}"

    def workspace(self, name: str) -> str:
        """A workspace's page."""
        return f"{self.prefix}w/{escape(name)}"

    def change(self, name: str) -> str:
        """Where a new description is posted."""
        return f"{self.workspace(name)}/about"

    def capture(self, name: str) -> str:
        """Where it is posted whether executed cells become runs."""
        return f"{self.workspace(name)}/capture"

    def versions(self, name: str, notebook: str = "") -> str:
        """The saved versions of a workspace's notebooks, or of one."""
        return f"{self.workspace(name)}/versions" + (f"?{urlencode({'notebook': notebook})}" if notebook else "")

    def version(self, name: str, address: str) -> str:
        """One saved version; MLflow's runs and model versions link to it (maestro_core.experiments, version_note)."""
        return f"{self.workspace(name)}/versions/{escape(address)}"

    def members(self, name: str) -> str:
        """Where a member is added or changed."""
        return f"{self.workspace(name)}/members"

    def remove_member(self, name: str) -> str:
        """Where a member is removed."""
        return f"{self.workspace(name)}/members/remove"

    def archive(self, name: str) -> str:
        """Where a workspace is archived."""
        return f"{self.workspace(name)}/archive"

    def restore(self, name: str) -> str:
        """Where an archived workspace is opened again."""
        return f"{self.workspace(name)}/restore"

    def purge(self, name: str) -> str:
        """Where an archived workspace is removed for good."""
        return f"{self.workspace(name)}/purge"

    def purged(self, workspace_id: str) -> str:
        """The report of a purge."""
        return f"{self.prefix}purged/{escape(workspace_id)}"

    def transfer(self, name: str) -> str:
        """Where a workspace is handed over."""
        return f"{self.workspace(name)}/transfer"

    def invite(self, name: str) -> str:
        """Where somebody is invited."""
        return f"{self.workspace(name)}/invitations"

    def withdraw(self, name: str) -> str:
        """Where an invitation is withdrawn."""
        return f"{self.workspace(name)}/invitations/withdraw"

    @property
    def accept(self) -> str:
        """Where an invitation is accepted."""
        return f"{self.prefix}invitations/accept"

    @property
    def decline(self) -> str:
        """Where an invitation is declined."""
        return f"{self.prefix}invitations/decline"

    def stop(self, session_id: str) -> str:
        """Where a server is stopped."""
        return f"{self.prefix}stop/{escape(session_id)}"

    def scale(self, session_id: str) -> str:
        """Where a server gets other amounts."""
        return f"{self.prefix}scale/{escape(session_id)}"

    @property
    def admin(self) -> str:
        """The admin page."""
        return f"{self.prefix}admin"

    @property
    def quotas(self) -> str:
        """The admin's quotas, and where one is posted."""
        return f"{self.admin}/quotas"

    @property
    def remove_quota(self) -> str:
        """Where a quota of runtime is taken back."""
        return f"{self.quotas}/remove"

    @property
    def jobs(self) -> str:
        """Jobs; ``?workspace=`` those of one."""
        return f"{self.prefix}jobs"

    def jobs_of(self, workspace: str) -> str:
        """The jobs of a workspace."""
        return f"{self.jobs}?{urlencode({'workspace': workspace})}"

    def job(self, job_id: str) -> str:
        """One job."""
        return f"{self.jobs}/{escape(job_id)}"

    def sweep(self, sweep_id: str) -> str:
        """One sweep."""
        return f"{self.prefix}sweeps/{escape(sweep_id)}"

    def cancel_sweep(self, sweep_id: str) -> str:
        """Where it is cancelled."""
        return f"{self.sweep(sweep_id)}/cancel"

    def job_live(self, job_id: str, digest: str) -> str:
        """What changes of it, or nothing when it still has this digest."""
        return f"{self.job(job_id)}/live?{urlencode({'shown': digest})}"

    def job_notebook(self, job_id: str) -> str:
        """Its executed notebook, to download."""
        return f"{self.job(job_id)}/notebook"

    def cancel_job(self, job_id: str) -> str:
        """Where it is cancelled."""
        return f"{self.job(job_id)}/cancel"

    def end_schedule(self, job_id: str) -> str:
        """Where its schedule is ended."""
        return f"{self.job(job_id)}/schedule"

    @property
    def requests(self) -> str:
        """Requests for packages, and where one is posted; ``?workspace=&package=&version=`` fill its form in."""
        return f"{self.prefix}requests"

    def request(self, request_id: str) -> str:
        """One request."""
        return f"{self.requests}/{escape(request_id)}"

    def approve_request(self, request_id: str) -> str:
        """Where one is approved."""
        return f"{self.request(request_id)}/approve"

    def deny_request(self, request_id: str) -> str:
        """Where one is denied."""
        return f"{self.request(request_id)}/deny"

    def withdraw_request(self, request_id: str) -> str:
        """Where one is withdrawn."""
        return f"{self.request(request_id)}/withdraw"
