"""The URLs of a source: checked, filled in for a partition, and shown without their secrets."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from string import Formatter
from urllib.parse import quote, urlsplit

from pattern_platform.errors import SourceRefusedError

_USER = re.compile(r"//(?:[^/?#]*|[^?#]*:[^?#]*)@")
_SECRET = re.compile(
    r"([?&;][^=&;#]*(?:token|key|secret|passw|pwd|sig|auth|credential|session)[^=&;#]*=)[^&;#]*", re.IGNORECASE
)
_SAMPLE = datetime(2024, 1, 1, tzinfo=UTC)


def masked(url: str) -> str:
    """A URL as it may be shown: without user and password, and without the values of parameters named like secrets."""
    return _SECRET.sub(r"\1***", _USER.sub("//***@", url))


def check_template(template: str) -> None:
    """Refuse a template that makes no URL, or the same one for every partition.

    Args:
        template: A URL with ``{start}`` and ``{end}``, or ``{start:%Y-%m-%d}`` and the like.

    Raises:
        SourceRefusedError: With what to write instead.
    """

    def refused(why: str) -> SourceRefusedError:
        mend = 'write it as "https://api.example.org/visits?from={start}&to={end}" or with {start:%Y-%m-%d}'
        return SourceRefusedError(f"the source {masked(template)} was refused", why=why, mend=mend)

    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError:
        raise refused("its braces do not match") from None
    for _, name, form, conversion in fields:
        if name not in ("start", "end") or conversion:
            raise refused(f"{{{name}}} is not known: the times of a partition are {{start}} and {{end}}")
        if form and "%" not in form:
            raise refused(f"{{{name}:{form}}} is no format of strftime, such as %Y-%m-%d")
    if "start" not in {name for _, name, _, _ in fields}:
        raise refused("it is the same for every partition, without {start}")
    check_url(filled(template, _SAMPLE, _SAMPLE), "the source")


def check_url(url: str, what: str) -> None:
    """Refuse what is no URL over HTTP.

    Args:
        url: The URL.
        what: What names it, for the message.

    Raises:
        SourceRefusedError: Of another scheme, without host, or with a password in it.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        why = "it is no URL"  # and not shown: nobody can tell which part of it is a password
    else:
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
            return
        why = f"{masked(url)} has no scheme http or https, or no host"
        if "@" in parts.netloc:
            why = f"{masked(url)} holds a user or a password, and a URL is written to files"
    raise SourceRefusedError(
        f"the URL of {what} was refused",
        why=why,
        mend='give "https://host/path"; a credential is sent by a header whose value is "env:NAME_OF_A_VARIABLE"',
    )


def filled(template: str, start: datetime, end: datetime) -> str:
    """The URL of a partition.

    Args:
        template: As of :func:`check_template`.
        start: Start of the partition, inclusive.
        end: End of the partition, exclusive.
    """
    times = {"start": start.astimezone(UTC), "end": end.astimezone(UTC)}
    url = ""
    for literal, name, form, _ in Formatter().parse(template):
        url += literal
        if name is not None:
            text = times[name].strftime(form) if form else times[name].isoformat().replace("+00:00", "Z")
            url += quote(text)
    return url
