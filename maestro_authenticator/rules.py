"""Which user names and passwords a person may choose. Pure."""

from __future__ import annotations

import re
import secrets
import unicodedata

from maestro_core.errors import MaestroError

NAME_RULE = "Take 1 to 64 characters of a-z, 0-9 and . _ + - (a letter or digit at both ends), or an e-mail address."
PASSWORD_MIN = 10
PASSWORD_MAX = 1000  # argon2 hashes any length; the limit only bounds the work of one request

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._+-]*[a-z0-9])?(?:@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)?")
_NAME_MAX = 64
# without 0, 1, i, l and o: somebody types it from a terminal
_ONE_TIME_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def normal_name(text: object) -> str | None:
    """The user name as the Hub keeps it (lower case), or None if no account can have it.

    ASCII is demanded before lowering: U+212A (the Kelvin sign) lowers to ``k``, and look-alikes of other alphabets
    would sit beside the name that they imitate.
    """
    if not isinstance(text, str) or not text.isascii():
        return None
    name = text.strip().lower()
    return name if len(name) <= _NAME_MAX and _NAME.fullmatch(name) else None


def check_new_name(text: object) -> str:
    """The normal form of a name that somebody wants.

    Raises:
        MaestroError: ``invalid_name``.
    """
    name = normal_name(text)
    if name is None:
        raise MaestroError("invalid_name", f"This user name cannot be taken. {NAME_RULE}", {"field": "username"})
    return name


def normal_password(text: str) -> str:
    """The form that is hashed: NFKC, because keyboards write the same letter in different ways (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", text)


def check_new_password(password: str, again: str, name: str) -> str:
    """A password that somebody chooses, typed twice.

    Length counts, kinds of characters do not (NIST SP 800-63B); spaces are characters.

    Raises:
        MaestroError: ``invalid_request``, one sentence that says what to change.
    """
    if password != again:
        raise _refuse("The two passwords differ; type the same one twice.")
    if len(password) > PASSWORD_MAX:
        raise _refuse(f"The password is longer than {PASSWORD_MAX} characters; take a shorter one.")
    normal = normal_password(password)
    if len(normal) < PASSWORD_MIN:
        raise _refuse(f"The password is too short; take at least {PASSWORD_MIN} characters, a few words for example.")
    if len(set(normal)) < 5:
        raise _refuse("The password repeats too few characters; take one with at least 5 different ones.")
    own = name.partition("@")[0]
    if len(own) >= 4 and own in normal.lower() and len(normal) < PASSWORD_MIN + len(own):
        raise _refuse("The password contains the user name; take one that does not follow from it.")
    return password


def one_time_password() -> str:
    """A random password for somebody else to type once: 4 groups of 4, 79 bits."""
    letters = [secrets.choice(_ONE_TIME_ALPHABET) for _ in range(16)]
    return "-".join("".join(letters[at : at + 4]) for at in range(0, 16, 4))


def _refuse(message: str) -> MaestroError:
    return MaestroError("invalid_request", message, {"field": "password"})
