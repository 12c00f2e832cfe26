"""Writes the pages of docs/ that are made from the code: ``python docs/generate.py [--check]``.

``PAGES`` is the table: a page's file and the function that writes its text. ``tests/unit/test_docs.py`` fails when a
committed page and the code disagree.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from maestro_authenticator import MaestroAuthenticator  # noqa: E402
from maestro_core.errors import ERRORS  # noqa: E402
from maestro_core.events import EVENTS  # noqa: E402
from maestro_hub_services import settings  # noqa: E402
from maestro_hub_services.installation import PORTS, Installation  # noqa: E402
from maestro_hub_services.workspaces.routes import API, ROUTES  # noqa: E402
from maestro_spawner.kube import MaestroKubeSpawner  # noqa: E402
from maestro_spawner.local import MaestroLocalSpawner  # noqa: E402
from maestro_spawner.mixin import MaestroMixin  # noqa: E402
from notebooks.cli import main as cli  # noqa: E402

NOTE = "<!-- Made by docs/generate.py from the code: change the code, then run it again. -->\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * len(list(head)))
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """docs/cli.md: each command's own help."""
    parts = [NOTE, "# The `maestro` command\n"]
    parts.append(
        "`maestro` and `python -m notebooks.cli` are the same. Every refusal is one sentence on standard error,\n"
    )
    parts.append("with the exit code of its row in [Errors](errors.md).\n")
    for context in _contexts(cli, "maestro"):
        parts.append(f"\n## {context.command_path}\n\n```text\n{context.get_help()}\n```\n")
    return "".join(parts)


def _contexts(command: click.Command, name: str, parent: click.Context | None = None) -> Iterable[click.Context]:
    settings = {**command.context_settings, "terminal_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context
    if isinstance(command, click.Group):
        for child, subcommand in sorted(command.commands.items()):
            yield from _contexts(subcommand, child, context)


def errors_page() -> str:
    """docs/errors.md: the codes of refusals, and the events."""
    rows = [(f"`{code}`", str(kind.status), str(kind.exit_code), kind.meaning) for code, kind in ERRORS.items()]
    events = [
        (f"`{name}`", kind.meaning, ", ".join(f"`{field}`" for field in kind.fields)) for name, kind in EVENTS.items()
    ]
    return (
        f"{NOTE}# Errors and events\n\n"
        'The API answers every refusal with `{"error": {"code", "message", "details"}}`. The message is one sentence\n'
        "for a person; the code is for a program.\n\n"
        + table(("code", "status", "exit code of `maestro`", "meaning"), rows)
        + "\n## Events\n\nEvery event carries who, when and the workspace, and these fields.\n\n"
        + table(("event", "meaning", "fields"), events)
    )


def rest_page() -> str:
    """docs/rest.md: the routes of the workspaces service."""
    rows = [
        (
            f"`{route.method} {route.path}`"
            + "".join(f"<br>`?{query.name}=` {query.description}" for query in route.query),
            f"`{route.scope.removeprefix('custom:maestro:')}`" if route.scope else "",
            route.summary,
            f"`{route.request.__name__}`" if route.request else "",
            ", ".join(str(status) for status in route.statuses),
            f"`{route.response.__name__}`" if route.response else "",
        )
        for route in ROUTES
    ]
    return (
        f"{NOTE}# The REST API\n\n"
        f"Below `/services/workspaces/{API}/`, and for tokens at the Hub's root too: `/{API}/`.\n"
        "Send a Hub token as `Authorization: token ...`; a token in an address counts nowhere. Bodies are JSON.\n"
        "`personal` stands for one's own personal workspace wherever `{workspace}` stands. The models with their\n"
        "fields are in `openapi.json` there; refusals are described in [Errors](errors.md).\n\n"
        + table(("request", "scope", "what", "body", "status", "answer"), rows)
        + "\nA scope is short for `custom:maestro:...`. A notebook server's own token holds `use`, acts in its own\n"
        "workspace only and at most as an editor. A [job](jobs.md)'s token acts there too: it looks, and runs its own\n"
        "job. `plan`, `policy` and `authorize` are held by other parts of\n"
        "Maestro.\n"
    )


CONFIGURABLE = (MaestroMixin, MaestroLocalSpawner, MaestroKubeSpawner, MaestroAuthenticator)


def configuration_page() -> str:
    """docs/configuration.md: maestro.yaml as it stands, the traits of each class, the environment variables."""
    parts = [
        f"{NOTE}# Configuration\n\n"
        "Three places, each for somebody else:\n\n"
        "- **`maestro.yaml`**: the policy. The service reads it again when it changes; a file with a mistake leaves\n"
        "  the last good one in force and shows the error to admins.\n"
        "- **`jupyterhub_config.py`**: how the Hub is put together, with the traits below.\n"
        "- **environment variables**: where this installation keeps its data and on which ports it listens.\n",
        f"\n## maestro.yaml\n\n```yaml\n{(DOCS.parent / 'maestro.yaml').read_text().strip()}\n```\n",
        "\n## Traits\n\nSet as `c.<Class>.<trait> = value`. A subclass takes its parents' traits too; what is a trait\n"
        "of KubeSpawner or LocalProcessSpawner is documented there.\n",
    ]
    for configurable in CONFIGURABLE:
        parts.append(f"\n### {configurable.__name__}\n\n{_first_line(configurable)}\n")
        own = sorted(configurable.class_own_traits(config=True).items())
        rows = [(f"`{name}`", f"`{trait.default_value_repr()}`", _meaning(configurable, name)) for name, trait in own]
        parts.append("\n" + table(("trait", "default", "meaning"), rows) if rows else "")
    ports = [(f"`{port.variable}`", str(port.default), port.what) for port in PORTS.values()]
    parts.append(
        "\n## Environment of `make run`\n\n"
        + _paragraph(str(Installation.from_environment.__doc__)).split(" Raises")[0]
    )
    parts.append("\n\n" + table(("port", "default", "what listens there"), ports))
    variables = re.sub(r"^``", "\n``", str(inspect.getdoc(settings)), flags=re.MULTILINE)
    parts.append(f"\n## Environment of a service\n\n{_paragraphs(variables)}\n")
    return "".join(parts)


def _meaning(configurable: type, name: str) -> str:
    for parent in configurable.__mro__[1:]:
        if name in vars(parent):
            return f"{parent.__name__}'s own trait, with another default."
    return _paragraph(getattr(configurable, name).help)


def _first_line(documented: object) -> str:
    return str(inspect.getdoc(documented)).splitlines()[0].replace("``", "`")


def _paragraph(text: str) -> str:
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", " ".join(text.split())).replace("``", "`")


def _paragraphs(text: str) -> str:
    """Blocks that begin with a variable become a list, the rest prose."""
    blocks = [_paragraph(block) for block in text.split("\n\n")]
    return "\n".join(f"- {block}" if block.startswith("`") else f"\n{block}\n" for block in blocks if block).strip()


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "errors.md": errors_page,
    "rest.md": rest_page,
}


def main() -> int:
    """Write the pages, or with ``--check`` say which are old (exit code 1)."""
    old = [name for name, page in PAGES.items() if not _current(DOCS / name, page())]
    if "--check" in sys.argv[1:]:
        for name in old:
            print(f"docs/{name} is old: run python docs/generate.py")
        return 1 if old else 0
    for name in old:
        (DOCS / name).write_text(PAGES[name]())
    return 0


def _current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
