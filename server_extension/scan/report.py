"""The server's part of a scan: asks what is installed, what the service says to it, what is in the files."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.scans import Finding, Package, ScanAnswer, ScanQuestion, ScanReport, in_order

from ..service import NotAnswered, Service

#: seconds for one part
PART_SECONDS = 240.0


class Scanner:
    """Scans this server's workspace; one scan at a time, and who asks meanwhile gets the same.

    Args:
        service: of this launch; None: the policy and the advisories are left out, and the report says so.
    """

    def __init__(self, environ: Mapping[str, str], service: Service | None) -> None:
        self._environ = environ
        self._service = service
        self._running: asyncio.Task[ScanReport] | None = None

    async def scan(self) -> ScanReport:
        """Look at everything.

        Raises:
            MaestroError: ``internal``, when a part of it did not end.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._scan())
        return await asyncio.shield(self._running)

    async def image(self) -> tuple[Finding, ...]:
        """What the image contains that it may not.

        Raises:
            MaestroError: as :meth:`scan`. NotAnswered: the service does not say.
        """
        if self._service is None:
            return ()
        packages, _ = await self._packages(image=True)
        answer = await self._service.ask("startup-scan", ScanQuestion(packages=packages).model_dump_json())
        return read_model(ScanAnswer, answer, "internal").findings

    async def _scan(self) -> ScanReport:
        packages, notes = await self._packages()
        answer = ScanAnswer()
        try:
            if self._service is None:
                raise NotAnswered("no service")
            body = ScanQuestion(packages=packages).model_dump_json()
            answer = read_model(ScanAnswer, await self._service.ask("scan", body), "internal")
        except (NotAnswered, MaestroError):
            notes.append("Maestro's service did not answer: packages were not compared with policy and advisories.")
        folder = self._environ.get("MAESTRO_WORKSPACE_DIR", "")
        found = await _run("files", {"folder": folder, "names": answer.blocked_names})
        return ScanReport(
            workspace=self._environ.get("MAESTRO_WORKSPACE", ""),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            packages=packages,
            files=found["files"],
            findings=in_order([*answer.findings, *map(Finding.model_validate, found["findings"])]),
            notes=(*notes, *found["notes"]),
            advisories=answer.advisories,
        )

    async def _packages(self, *, image: bool = False) -> tuple[tuple[Package, ...], list[str]]:
        folders = [self._environ.get("MAESTRO_WORKSPACE_DIR", ""), str(Path.home())]
        question = {"environment": self._environ.get("MAESTRO_ENV", ""), "folders": [one for one in folders if one]}
        found = await _run("packages", {} if image else question)
        return tuple(Package.model_validate(one) for one in found["packages"]), list(found["notes"])


async def _run(part: str, question: Mapping[str, Any]) -> Any:
    """One part of the scan, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-m", "server_extension.scan", part),
        cwd="/", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        answer, _ = await asyncio.wait_for(process.communicate(json.dumps(question).encode()), PART_SECONDS)
        if process.returncode == 0:
            return json.loads(answer)
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    raise MaestroError("internal", f"The scan of {part} did not end well; try again, or tell an admin.")
