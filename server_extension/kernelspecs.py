"""Where this server finds kernels: the launch's own, those of installed packages, the user's, the prefix's."""

from __future__ import annotations

from jupyter_client.kernelspec import KernelSpecManager
from traitlets import List, Unicode


class LaunchKernelSpecs(KernelSpecManager):
    """Jupyter's own way to find kernels, with more folders to look in.

    With ``JUPYTER_PATH`` the server would load templates and extensions from beside them, too.
    """

    first_dirs = List(Unicode(), help="Folders of kernels, before those that Jupyter looks in.").tag(config=True)

    def _kernel_dirs_default(self) -> list[str]:
        return [*self.first_dirs, *super()._kernel_dirs_default()]
