"""The conda side of the package index: channels as one policy shows them.

``condarc.py``   where channels lie, as conda and rattler on this machine are configured
``places.py``    where a policy's channels lie
``channels.py``  a channel's folder: fetched, taken in, shown; its files found by name (``catalog.py``)
``repodata.py``  repodata read, cleaned and changed, record by record (``worker.py`` runs it in a process of its own)
``handlers.py``  what clients get
"""
