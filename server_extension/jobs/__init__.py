"""The worker of a job: ``python -P -m server_extension.jobs`` runs one attempt of a notebook or script and tells of it.

It runs where a notebook server would, with the same environment, kernel and identity, and imports no more than it needs
before the first cell: a job should start about as fast as ``jupyter nbconvert --execute``.
"""
