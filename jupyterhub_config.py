"""Maestro on one machine: what a Hub gains, part by part. `make run` starts it; every value has its variable.

An existing Hub calls the same functions without `set_up_hub`: docs/add-to-your-hub.md.
"""

from maestro_hub_services import compose
from maestro_hub_services.installation import Installation

c = get_config()
maestro = Installation.from_environment()

c.Authenticator.admin_users = {"admin"}

compose.set_up_hub(c, maestro)  # data below ./state, ports, keys, the proxy
compose.add_roles(c)  # who may do what
compose.add_spawner(c, maestro)  # servers as launches into workspaces
compose.add_culler(c, maestro, idle_minutes=12 * 60)  # idle servers; a profile's own time comes first
compose.add_authenticator(c, maestro)  # local accounts: sign up, approval, passwords
compose.add_services(c, maestro)  # workspaces, package index, MLflow
compose.add_proxy(c, maestro)  # their routes
compose.add_pages(c)  # landing page, navigation, forms
