"""The authority: who belongs where, what may be launched, what runs. Its REST API, its loops and its pages.

``routes.py`` is the API on one page; a handler calls one function of ``domain/``, which works with an
:class:`~maestro_hub_services.workspaces.authority.Authority` (store, Hub, policy, volumes) and raises
:class:`maestro_core.errors.MaestroError`.
"""
