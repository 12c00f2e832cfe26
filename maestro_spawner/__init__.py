"""The spawners of Maestro: they ask the workspaces service for a launch plan and apply it, and decide nothing.

``maestro-kube`` (:class:`maestro_spawner.kube.MaestroKubeSpawner`) and ``maestro-local``
(:class:`maestro_spawner.local.MaestroLocalSpawner`) share :class:`maestro_spawner.mixin.MaestroMixin`.
"""
