"""One page of a source: requested, checked and streamed to a file, in an attempt that says whether another may help."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

import requests
import urllib3

from pattern_platform.errors import SourceRefusedError
from pattern_platform.ingestion.http.bodies import WrongBodyError, ends_inside_a_line, land_body
from pattern_platform.ingestion.http.retrying import TransientError, seconds_to_wait
from pattern_platform.ingestion.http.urls import check_url, masked
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pattern_platform.ingestion.http.source import HttpSource

_CHUNK = 1 << 16
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_UNAUTHORIZED = {401, 403, 407}
_SAYS_NOTHING = {"", "text/plain", "application/octet-stream", "binary/octet-stream"}
_TYPES = {
    "jsonl": {"application/x-ndjson", "application/jsonl", "application/jsonlines", "application/json"},
    "csv": {"text/csv", "application/csv"},
    "json": {"application/json"},
}


@dataclass(frozen=True)
class Page:
    """A page that has landed.

    Args:
        file: Name of its file.
        rows: Number of rows.
        bytes: Size of the file.
        sha256: Of the file.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


class Pages(requests.Session):
    """Requests for the pages of a source. Its headers go to the host of its URL alone.

    Args:
        source: The source.
        first: URL of the first page.
        headers: Headers of the source, with their values.
    """

    def __init__(self, source: HttpSource, first: str, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._source, self._first, self._own = source, first, headers
        self.auth = _as_it_is

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:  # noqa: ARG002 - as of the session
        """Take every header of the source from a request that goes on to another host, not Authorization alone."""
        if self.should_strip_auth(self._first, str(prepared_request.url)):
            for name in self._own:
                prepared_request.headers.pop(name, None)

    def land(self, url: str, file: Path) -> tuple[Page, str | None]:
        """Fetch a page into a file, which appears whole or not at all.

        Args:
            url: URL of the page.
            file: The file.

        Returns:
            The page, and the URL of the next; None after the last.

        Raises:
            TransientError: Trying again may help.
            SourceRefusedError: It would not.
        """
        own = {} if self.should_strip_auth(self._first, url) else self._own
        try:
            response = self.get(
                url, headers={**own, "Accept-Encoding": "gzip"}, stream=True, timeout=self._source.timeout
            )
        except requests.exceptions.SSLError:
            raise _refused(url, "no safe connection was made: TLS failed", "see to the certificate of it") from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise TransientError(f"it did not answer ({type(error).__name__})") from None
        except (requests.RequestException, ValueError) as error:  # the second of a Location that is no URL
            raise _refused(url, f"{type(error).__name__}", "see to its URL, and to where it redirects to") from None
        with response:
            _check_status(response, url)
            _check_type(response, url, self._source.format)
            with whole_file(file) as unfinished:
                rows = self._land_body(response, url, unfinished)
                with unfinished.open("rb") as landed:
                    digest = hashlib.file_digest(landed, "sha256").hexdigest()
                page = Page(file.name, rows, unfinished.stat().st_size, digest)
            return page, _next_of(response, url)

    def _land_body(self, response: requests.Response, url: str, landed: Path) -> int:
        body, form = landed.with_name(f"{landed.name}.body"), self._source.format
        sized = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        try:
            self._stream(response, url, body)
            if not sized and form != "json" and ends_inside_a_line(body):
                raise TransientError("the body ends inside a line, and its length was not told")
            return land_body(form, body, landed)
        except WrongBodyError as error:
            if not sized and form == "json":
                raise TransientError("the body is no array, and its length was not told") from None
            raise _refused(
                url, f"the body is no {form}: {error}", "see what it serves, and declare its format"
            ) from None
        finally:
            body.unlink(missing_ok=True)

    def _stream(self, response: requests.Response, url: str, file: Path) -> None:
        """Write the body to a file. Its gzip is read here: urllib3 passes over one that breaks off."""
        raw, size = response.raw, 0
        body = gzip.GzipFile(fileobj=raw) if response.headers.get("Content-Encoding") == "gzip" else raw
        with file.open("wb") as written:
            try:
                while chunk := body.read(_CHUNK):
                    size += len(chunk)
                    if size > self._source.most_bytes:
                        why = f"a page is larger than {self._source.most_bytes:,} bytes"
                        raise _refused(url, why, "ask for smaller pages, or raise most_bytes")
                    written.write(chunk)
            except (urllib3.exceptions.HTTPError, EOFError) as error:
                raise TransientError(f"the body broke off ({type(error).__name__})") from None
            except (gzip.BadGzipFile, zlib.error):
                raise _refused(url, "the body is not gzip, as its header says", "let the source mend it") from None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authorization is what the headers say: requests would put that of a netrc file in its place."""
    return request


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status == HTTPStatus.OK:
        return
    named = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in _TRANSIENT:
        raise TransientError(f"it answered {named}", seconds_to_wait(response.headers.get("Retry-After")))
    mend = (
        "see to the URL, the window and what the source asks for; a next page may be gone: land it again from the first"
    )
    if status in _UNAUTHORIZED:
        mend = "see to the headers: whether the variables that they name hold valid credentials"
    raise _refused(url, f"it answered {named}", mend)


def _check_type(response: requests.Response, url: str, form: str) -> None:
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    kind = header.get_content_type() if response.headers.get("Content-Type") else ""
    if kind not in _TYPES[form] | _SAYS_NOTHING:
        raise _refused(url, f"it answered with {kind}, not with {form}", "see what it serves at this URL")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", "gzip"):
        raise _refused(url, f"it answered in encoding {encoding}", "let it answer in gzip, the one that is asked for")


def _next_of(response: requests.Response, url: str) -> str | None:
    for link in requests.utils.parse_header_links(response.headers.get("Link", "")):
        if "next" in link.get("rel", "").lower().split():
            try:
                following = urldefrag(urljoin(response.url, link["url"])).url
            except ValueError:
                raise _refused(url, "its next link is no URL", "let the source mend its next links") from None
            check_url(following, f"the page after {masked(url)}")
            return following
    return None


def _refused(url: str, why: str, mend: str) -> SourceRefusedError:
    return SourceRefusedError(f"{masked(url)} was refused", why=why, mend=mend)
