"""``python -m maestro_hub_services.run``: Maestro on one machine, from the checks to the box with the address.

``__main__`` is the sequence. ``checks`` refuses what cannot work in one sentence, ``processes`` knows what is ours and
ends it, ``ready`` waits until everything answers, ``demo`` makes the sample workspace, ``box`` prints.
"""
