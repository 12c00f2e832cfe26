"""The rules of Maestro, pure: no I/O, no Hub, no tornado.

Every other package of the project may import this one; it imports none of them
(``tests/test_architecture.py`` proves it).
"""

__version__ = "0.1.0"
