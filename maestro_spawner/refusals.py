"""Refusals on their way through the Hub: one clean sentence on form, progress, pages and API."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException

from maestro_core.errors import MaestroError


class Refusal(SpawnException):
    """A start that is refused or cannot be made. The Hub logs it in one line and does not count it as its own failure.

    Attributes:
        code: a key of :data:`maestro_core.errors.ERRORS`; also the ``reason`` in the Hub's metrics.
    """

    def __init__(self, error: MaestroError, *, status_code: int | None = None) -> None:
        super().__init__(error.message, reason=error.code, status_code=status_code or error.status)
        self.code = error.code

    @property
    def jupyterhub_message(self) -> str:
        """What the Hub shows instead of the exception's repr."""
        return str(self.message)


class OnlyShown(Refusal):
    """A link with a query string: it fills in the form, which says so itself, and starts nothing."""

    def __init__(self) -> None:
        super().__init__(MaestroError("invalid_request", LINK_NOTICE), status_code=200)

    @property
    def jupyterhub_message(self) -> str:
        """Nothing: the form's notice says it, in a kinder colour than an error's."""
        return ""


LINK_NOTICE = "This link filled in the form; look at these choices and press Start."
