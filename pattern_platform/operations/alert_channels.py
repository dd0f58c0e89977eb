"""Where alerts go: the log, a webhook, a mail server. No channel tells a secret, also not when it fails."""

from __future__ import annotations

import logging
import re
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pattern_platform.errors import AlertNotSentError, InvalidChannelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logging.getLogger("pattern_platform.alerts")
_TIMEOUT_SECONDS = 10
_TLS_PORT = 465
_PASSING = (ConnectionError, TimeoutError, smtplib.SMTPServerDisconnected)
_TRY_LATER = 429
_BROKEN = 500


@dataclass(frozen=True)
class Alert:
    """One cause, however many partitions it struck.

    Args:
        kind: ``failed run``, ``failed check``, ``late data`` or ``withheld``.
        subject: The assets, and the check where it is one.
        error: Class of the error, or severity of the check.
        message: What was said the first time.
        partitions: Some of the partitions, the first ones.
        partition_count: How many there are.
        run: The newest run.
        namespace: Whose platform it is.
        webserver: Where its runs can be seen.
    """

    kind: str
    subject: str
    error: str
    message: str
    partitions: Sequence[str]
    partition_count: int
    run: str
    namespace: str
    webserver: str

    @property
    def title(self) -> str:
        """One line."""
        struck = f", {self.partition_count} partitions" if self.partition_count > 1 else ""
        return f"[{self.namespace}] {self.kind}: {self.subject} ({self.error}{struck})"

    @property
    def text(self) -> str:
        """What a person reads: what happened, to what, and where to look."""
        others = self.partition_count - len(self.partitions)
        shown = ", ".join(self.partitions) + (f" and {others} more" if others else "")
        lines = [
            self.title,
            *([self.message] if self.message else []),
            *([f"partitions: {shown}"] if self.partitions else []),
            f"run:        {self.webserver.rstrip('/')}/runs/{self.run}",
            f"logs:       pattern-platform logs --run {self.run[:8]} --level warning --last 1d",
        ]
        return "\n".join(lines)


class Channel(Protocol):
    """Something that takes alerts."""

    @property
    def name(self) -> str:
        """How the log calls it."""
        ...

    def send(self, alert: Alert) -> None:
        """Take an alert.

        Raises:
            AlertNotSentError: It did not; it is asked again later.
        """
        ...


@dataclass(frozen=True)
class LogChannel:
    """The log, as a warning of ``pattern_platform.alerts``."""

    name: str = "log"

    def send(self, alert: Alert) -> None:
        """Log an alert."""
        _log.warning("%s", alert.text)


@dataclass(frozen=True)
class WebhookChannel:
    """A URL that takes a JSON object, with ``text`` as Slack, Mattermost and Teams read it.

    Args:
        url: The URL; what follows its host is a secret.
        attempts: How often it is tried.

    Raises:
        InvalidChannelError: It is no address of a web server.
    """

    url: str = field(repr=False)
    attempts: int = 3
    name: str = "webhook"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidChannelError(
                "the webhook of the alerts was refused",
                why="its URL does not begin with http:// or https:// and the name of a host",
                mend="set alerts.webhook to the URL that the chat gave, whole",
            )

    def send(self, alert: Alert) -> None:
        """Post an alert; a server that is away or busy is asked again at once, a few times."""
        body: dict[str, Any] = {
            "text": alert.text,
            "title": alert.title,
            "kind": alert.kind,
            "subject": alert.subject,
            "error": alert.error,
            "message": alert.message,
            "partitions": list(alert.partitions),
            "partition_count": alert.partition_count,
            "run": alert.run,
            "namespace": alert.namespace,
        }
        try:
            _again(lambda: self._post(body), self.attempts, requests.ConnectionError, requests.Timeout, _BusyError)
        except requests.RequestException as error:
            answer = error.response
            why = f"it answered {answer.status_code}" if answer is not None else type(error).__name__
            raise AlertNotSentError(
                f"the webhook at {urlsplit(self.url).hostname} did not take an alert",
                why=why,
                mend="see that its URL is the one that the chat gave, and that this machine reaches it",
            ) from None  # the error names the URL, which is a secret

    def _post(self, body: dict[str, Any]) -> None:
        answer = requests.post(self.url, json=body, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        if answer.status_code == _TRY_LATER or answer.status_code >= _BROKEN:
            raise _BusyError(response=answer)
        if not answer.ok or answer.is_redirect:
            raise requests.HTTPError(response=answer)


class _BusyError(requests.HTTPError):
    """The server asks for patience."""


@dataclass(frozen=True)
class EmailChannel:
    """A mail server. What it offers is used: TLS where it knows it, and never a password without.

    Args:
        host: Name of the server.
        sender: From whom.
        to: To whom, at least one address.
        port: Its port; 465 speaks TLS from the beginning.
        user: Login, where the server asks for one.
        password: Of the login.
        attempts: How often it is tried.

    Raises:
        InvalidChannelError: An address is none, or the login is incomplete.
    """

    host: str
    sender: str
    to: Sequence[str]
    port: int = 25
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    attempts: int = 3
    name: str = "e-mail"

    def __post_init__(self) -> None:
        wrong = [address for address in (self.sender, *self.to) if not re.fullmatch(r"[^@\s]+@[^@\s]+", address)]
        if wrong or not self.to or not self.host:
            raise InvalidChannelError(
                "the e-mail of the alerts was refused",
                why=f"{', '.join(map(repr, wrong))}: no address" if wrong else "it has no host, or nobody to send to",
                mend="set alerts.email.host, and .sender and .to to addresses as team@example.org",
            )
        if (self.user is None) != (self.password is None):
            raise InvalidChannelError(
                "the e-mail of the alerts was refused",
                why="it has a user without a password, or a password without a user",
                mend="set both alerts.email.user and alerts.email.password, or neither",
            )

    def send(self, alert: Alert) -> None:
        """Send an alert; a server that is away is asked again at once, a few times."""
        message = EmailMessage()
        message["Subject"] = " ".join(alert.title.split())
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message.set_content(alert.text)
        try:
            _again(
                lambda: self._deliver(message),
                self.attempts,
                ConnectionError,
                TimeoutError,
                smtplib.SMTPServerDisconnected,
            )
        except OSError as error:  # that of smtplib is one
            raise AlertNotSentError(
                f"the mail server {self.host}:{self.port} did not take an alert",
                why=f"{type(error).__name__}: {error}",
                mend="see alerts.email: host, port, user and password, and whether the server relays for the sender",
            ) from error

    def _deliver(self, message: EmailMessage) -> None:
        is_tls = self.port == _TLS_PORT
        connect = smtplib.SMTP_SSL if is_tls else smtplib.SMTP
        with connect(self.host, self.port, timeout=_TIMEOUT_SECONDS) as server:
            server.ehlo()
            if not is_tls and server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
                is_tls = True
            if self.user is not None and self.password is not None:
                if not is_tls:
                    why = "the server speaks no TLS, and the password would be read on the way"
                    raise smtplib.SMTPNotSupportedError(why)
                server.login(self.user, self.password)
            server.send_message(message)


def _again(work: Callable[[], None], attempts: int, *errors: type[Exception]) -> None:
    """Try a few times, with a pause that grows."""
    Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.4, max=2),
        retry=retry_if_exception_type(errors),
        reraise=True,
    )(work)
