"""The filtering package index: what pip and uv see instead of the index behind it.

``app.py`` is the whole service on one page. A request goes through these rooms:

``authority.py``    whose token is it, and which policy is in force (asked at the workspaces service, kept 5 s)
``library.py``      which source owns a name (``upstream.py``: one source; ``pip_config.py``: what pip is told here)
``pages.py``        a project's page as data, from PEP 503 HTML or PEP 691 JSON
``views.py``        the page as this policy shows it, in either form
``downloads.py``    files: fetched once, verified, kept in ``cache.py``
``metadata.py``     what a wheel says of itself, and whether that may be installed from here
``denials.py``      what was refused, for the one who asked

A refusal never shows on a project's page, because clients swallow the reason there: the page lists the real files, and
the file itself is refused with the reason.
"""
