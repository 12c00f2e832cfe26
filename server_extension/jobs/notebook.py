"""A notebook, cell by cell, with nbclient on the kernel that notebook servers have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kernelspec import NAME
from ..launch import Launch
from ..usage.sampler import Sampler
from . import parameters
from .order import SUCCEEDED, End, Order

#: seconds that a cell has to end when it was interrupted
INTERRUPT_SECONDS = 5.0


@dataclass
class Hears:
    """Who is told how it goes.

    Attributes:
        cell: which of how many begins.
        wrote: the text of a cell.
        changed: the notebook is another than before.
        kernel: it is about to start; nbclient has put its own handlers of signals in place of the worker's.
        ending: how it ended, before the kernel is shut down.
    """

    cell: Callable[[int, int], None]
    wrote: Callable[[str], None]
    changed: Callable[[], None]
    kernel: Callable[[], None]
    ending: Callable[[End], None]


class Notebook:
    """One notebook of a job.

    Args:
        order: what runs. launch: where. hears: who is told. sampler: says whether memory ran out.

    Raises:
        ValueError: it is no notebook that can be run.
    """

    def __init__(self, order: Order, launch: Launch, hears: Hears, sampler: Sampler) -> None:
        from nbformat import v4

        self._launch, self._hears = launch, hears
        if json.loads(order.content).get("nbformat") != 4:
            raise ValueError("it is no notebook of nbformat 4")
        self.node: Any = v4.reads(order.content)
        for cell in self.node.cells:
            if cell.cell_type == "code":
                cell.setdefault("outputs", [])
                cell.setdefault("execution_count", None)
        if order.parameters and self._language() != "python":
            raise ValueError("Parameters are given to notebooks of Python; this one has another language.")
        parameters.inject(self.node, order.parameters)
        self._runs = [
            index for index, cell in enumerate(self.node.cells) if cell.cell_type == "code" and cell.source.strip()
        ]
        self._folder = folder_of(launch.workspace_dir, order.path)
        self._client: Any = None
        self._now = 0
        self._sampler = sampler
        self._kills = self._sampler.oom_kills()

    @property
    def launch(self) -> Launch:
        """Where it runs."""
        return self._launch

    @property
    def cells(self) -> int:
        """How many will run."""
        return len(self._runs)

    async def run(self) -> End:
        """Run it to its end, its first error, or the kernel's death."""
        from nbclient.exceptions import CellExecutionError, DeadKernelError

        end = SUCCEEDED
        self._client = _client(self.node, self._launch, self._folder, self)
        try:
            async with self._client.async_setup_kernel(cleanup_kc=True):
                try:
                    await self._cells()
                except CellExecutionError as error:
                    self._hears.wrote(f"{error.traceback}\n")
                    end = End(
                        "failed", f"Cell {self._now} raised {error.ename}: {error.evalue}"[:900].rstrip(".: ") + "."
                    )
                except DeadKernelError:
                    end = End("failed", f"The kernel died while it ran cell {self._now}{self._for_memory()}.")
                self._hears.ending(end)
        except DeadKernelError:
            return End("failed", "The kernel died before it ran a cell.")
        except RuntimeError as error:  # jupyter_client's words for a kernel that does not start
            if end is not SUCCEEDED:
                return end
            return End("failed", f"The kernel did not start: {' '.join(str(error).split())[:500]}.")
        return end

    async def _cells(self) -> None:
        client = self._client
        client.reset_execution_trackers()
        reply = await client.async_wait_for_reply(await _ensured(client.kc.kernel_info()))
        if reply is not None and "language_info" in reply["content"]:
            self.node.metadata["language_info"] = reply["content"]["language_info"]
        for index, cell in enumerate(self.node.cells):
            await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        client.set_widgets_metadata()

    async def interrupt(self) -> None:
        """Interrupt the cell that runs, as the button in JupyterLab does; a kernel that goes on is killed."""
        manager = getattr(self._client, "km", None)
        if manager is None:
            return
        with contextlib.suppress(Exception):  # it is ending by itself
            await manager.interrupt_kernel()

    async def kill(self) -> None:
        """Kill the kernel."""
        manager = getattr(self._client, "km", None)
        if manager is not None:
            with contextlib.suppress(Exception):
                await manager.shutdown_kernel(now=True)

    # -- what nbclient tells ------------------------------------------------------------------------------------------

    def begins(self, cell: Any, cell_index: int) -> None:
        """nbclient's ``on_cell_start``."""
        self._now = self._runs.index(cell_index) + 1 if cell_index in self._runs else self._now
        self._hears.cell(self._now, self.cells)

    def ended(self, cell: Any, cell_index: int, **rest: Any) -> None:
        """nbclient's ``on_cell_executed``."""
        self._hears.changed()

    def gave(self, output: Any) -> None:
        """An output of the cell that runs."""
        if output is not None and output.get("output_type") == "stream":
            self._hears.wrote(output["text"])
        elif output is not None and (text := output.get("data", {}).get("text/plain")):
            self._hears.wrote(f"{text}\n")
        self._hears.changed()

    def starts(self) -> None:
        """The kernel is about to start."""
        self._hears.kernel()

    def _language(self) -> str:
        metadata = self.node.get("metadata", {})
        named = (metadata.get("language_info") or {}).get("name") or (metadata.get("kernelspec") or {}).get("language")
        return str(named or "python").lower()

    def _for_memory(self) -> str:
        kills = self._sampler.oom_kills()
        return "" if kills is None or kills == self._kills else " (memory ran out)"


def folder_of(workspace: Path, path: str) -> Path:
    """Where a notebook or script works: in its own folder, as in JupyterLab, or in the workspace where that is gone."""
    folder = (workspace / path).parent
    return folder if folder.is_dir() else workspace


def _client(node: Any, launch: Launch, folder: Path, notebook: Notebook) -> Any:
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import KernelProvisionerFactory
    from nbclient import NotebookClient

    from ..kernelspecs import LaunchKernelSpecs

    class Client(NotebookClient):
        """nbclient with a word about each output, and about the kernel's start."""

        def output(self, *arguments: Any, **options: Any) -> Any:
            found = super().output(*arguments, **options)
            notebook.gave(found)
            return found

        async def async_start_new_kernel(self, **options: Any) -> None:
            notebook.starts()
            await super().async_start_new_kernel(**options)

    KernelProvisionerFactory.instance().default_provisioner_name = "maestro-provisioner"
    specs = LaunchKernelSpecs(
        first_dirs=[
            str(place) for place in (launch.kernels, launch.installed_data / "kernels", launch.own_data / "kernels")
        ],
        ensure_native_kernel=False,
    )
    name = (node.metadata.get("kernelspec") or {}).get("name") or NAME
    manager = AsyncKernelManager(
        kernel_name=name if name in specs.find_kernel_specs() else NAME,
        kernel_spec_manager=specs,
        # on one machine all jobs share the loopback interface, and a kernel's output is sent to whoever connects
        transport_encryption="auto",
    )
    return Client(
        node,
        km=manager,
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        on_cell_start=notebook.begins,
        on_cell_executed=notebook.ended,
    )


async def _ensured(found: Any) -> Any:
    return await found if asyncio.iscoroutine(found) or asyncio.isfuture(found) else found
