"""The project's own composition on a cluster: what an admin adds is the namespace and the image."""

import os

from maestro_hub_services.installation import data_path

c = get_config()
load_subconfig(str(data_path("jupyterhub_config.py")))

c.KubeSpawner.namespace = os.environ["MAESTRO_NAMESPACE"]
c.KubeSpawner.image = os.environ["MAESTRO_SINGLEUSER_IMAGE"]
c.KubeSpawner.image_pull_policy = "IfNotPresent"


def hurry(spawner):
    """What never starts is waited for shortly: no other test waits for it."""
    if spawner.user_options.get("profile") in ("nowhere", "imageless"):
        spawner.start_timeout = 5


c.KubeSpawner.pre_spawn_hook = hurry
