"""Passwords and tokens in notebooks: in the code, and in what cells wrote. What was found is never repeated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings

from maestro_core.scans import Finding, Kind, Severity

from .sources import Source, Text

#: longer lines are data: pictures, tables of numbers
_MAX_LINE = 2000
_MAX_LINES = 3000
#: Those that know a secret by its shape. The ones that measure entropy take every hash for one.
_DETECTORS = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
    "KeywordDetector",
)
#: a keyword beside these is an example, or read from somewhere
_EXAMPLE = re.compile(r"\*{3}|<[^>]+>|\{\w*\}|environ|getenv|getpass|example|changeme|xxx|your[-_ ]", re.IGNORECASE)
_SETTINGS = {"plugins_used": [{"name": name} for name in _DETECTORS], "filters_used": []}


def secrets_in(source: Source) -> Iterator[Finding]:
    """Each place once."""
    with transient_settings(_SETTINGS):
        for text in source.texts:
            yield from _in_text(source.path, text)


def _in_text(path: str, text: Text) -> Iterator[Finding]:
    seen = set()
    for number, line in enumerate(text.text.split("\n")[:_MAX_LINES], 1):
        if not line.strip() or len(line) > _MAX_LINE:
            continue
        for one in scan_line(line):
            example = one.type == "Secret Keyword" and _EXAMPLE.search(line)
            if example or (one.type, number) in seen:
                continue
            seen.add((one.type, number))
            yield Finding(
                kind=Kind.SECRET,
                severity=Severity.HIGH,
                what=f"{one.type} in {'an output' if text.written else 'the code'}",
                rule=one.type,
                why="Whoever may read this file has it, and so does every version of it.",
                todo="Revoke it where it was made, then clear the output."
                if text.written
                else "Revoke it where it was made; read the new one from a file or a prompt.",
                path=path,
                cell=text.cell,
                line=number,
            )
