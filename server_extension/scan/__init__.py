"""The security scan of a workspace, from inside its notebook server.

The server's part (:mod:`.report`) asks the service about what is installed, and starts a process of its own
(:mod:`.__main__`), which reads files that strangers may have written: :mod:`.installed` finds packages, :mod:`.sources`
turns notebooks into code, :mod:`.code` looks at the code, :mod:`.secrets` for passwords and tokens. What an image
already contains is compared with the policy when the server starts (:mod:`.startup`).
"""
