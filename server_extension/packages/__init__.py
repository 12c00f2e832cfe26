"""The workspace's environment in this server: built before the server starts, watched while it runs.

``build`` installs the version that the launch names; ``watch`` sees what people install and remove, and makes it a
new version. Both run before or beside the server, with nothing imported that a start without an environment would
have to wait for.
"""
