"""Sign-in for JupyterHub with accounts of its own: sign up, wait for the admin's word, sign in.

The Hub finds :class:`MaestroAuthenticator` by its entry point ``maestro``. The parts: ``rules`` (which names and
passwords are taken), ``passwords`` (argon2 off the loop), ``accounts`` (the database), ``throttle`` (back-off after
failures), ``sessions`` (ending what a person has open), ``handlers`` (the pages), ``authenticator`` (the Hub's hooks).
"""

from .authenticator import MaestroAuthenticator

__all__ = ["MaestroAuthenticator"]
