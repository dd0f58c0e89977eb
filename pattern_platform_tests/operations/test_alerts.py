"""Alerts on what real runs did, taken by a real HTTP server and a real mail server."""

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from pattern_platform.errors import AlertNotSentError, FileNotArrivedError, InvalidChannelError
from pattern_platform.operations import alerts
from pattern_platform.operations.alert_channels import Alert, Channel, EmailChannel, LogChannel, WebhookChannel
from pattern_platform.operations.alerts import alerts_sensor
from pattern_platform_tests.lake.tables import range_tags

DAYS = dg.DailyPartitionsDefinition("2024-05-01")
KEYS = [f"2024-05-{day:02}" for day in range(1, 13)]
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


# What goes wrong ------------------------------------------------------------------------------------------------------


@dg.asset(partitions_def=DAYS, key=["raw", "visits"])
def visits(context: dg.AssetExecutionContext) -> None:
    key = context.partition_key
    raise FileNotArrivedError(f"partition {key} refused", why=f"no file of {key}", mend=f"land the file of {key}")


@dg.asset(partitions_def=DAYS)
def moody(context: dg.AssetExecutionContext) -> None:
    if context.partition_key == KEYS[0]:
        raise ValueError("row 17 of 20 in 5d41402a-bc4b-4a76-b971-9d911017c592")
    if context.partition_key == KEYS[1]:
        raise ValueError("row 4 of 9 in 7d793037-a076-4c99-8d9a-3a1b2c3d4e5f")
    raise KeyError("another")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def fine() -> None: ...


@dg.asset_check(asset=fine, blocking=True)
def adds_up() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, metadata={"off_by": 3, "first": "a row"})


@dg.asset_check(asset=fine)
def is_complete() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"completeness": 0.5})


@dg.asset_check(asset=fine)
def something_arrived() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False)


@dg.asset_check(asset=fine)
def nothing_too_late() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=fine)
def passes() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


class Taken:
    """A channel that takes alerts, or not."""

    def __init__(self, name: str = "taken") -> None:
        self.name, self.alerts, self.is_away = name, list[Alert](), False

    def send(self, alert: Alert) -> None:
        if self.is_away:
            raise AlertNotSentError("not taken", why="away", mend="wait")
        self.alerts.append(alert)


class Watch:
    """The sensor over an instance, ticked as the daemon does."""

    def __init__(self, *channels: Channel, repeat_after: timedelta = timedelta(hours=1)) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.sensor = alerts_sensor(
            channels, namespace="night", webserver="http://dagster:3000/", repeat_after=repeat_after
        )
        self.cursor: str | None = None

    def run(self, *parts: Any, partition: str | None = None, **tags: str) -> str:
        assets = [part for part in parts if not isinstance(part, dg.AssetChecksDefinition)]
        result = dg.materialize(
            list(parts) if assets else [fine, *parts],
            tags=tags or {"dagster/partition": partition or KEYS[0]},
            instance=self.instance,
            raise_on_error=False,
            run_config=QUIET,
        )
        return result.run_id

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        assert not result.run_requests
        self.cursor = result.cursor
        return str(result.skip_reason.skip_message) if result.skip_reason else ""


def seen(watch: Watch, channel: Taken) -> list[Alert]:
    """What a tick tells."""
    before = len(channel.alerts)
    watch.tick()
    return channel.alerts[before:]


# One alert a cause ----------------------------------------------------------------------------------------------------


def test_a_cause_is_told_once_with_its_first_partitions_and_their_number() -> None:
    channel = Taken()
    watch = Watch(channel)
    runs = [watch.run(visits, partition=key) for key in KEYS]
    (alert,) = seen(watch, channel)
    assert (alert.kind, alert.subject, alert.error) == ("failed run", "raw/visits", "FileNotArrivedError")
    assert (list(alert.partitions), alert.partition_count) == (KEYS[:10], 12)
    assert alert.title == "[night] failed run: raw/visits (FileNotArrivedError, 12 partitions)"
    assert "2024-05-10 and 2 more" in alert.text
    assert "why:  no file of 2024-05-01" in alert.text
    assert f"http://dagster:3000/runs/{runs[-1]}" in alert.text
    assert f"pattern-platform logs --run {runs[-1][:8]}" in alert.text


def test_messages_that_differ_in_numbers_and_ids_are_one_cause_and_others_are_not() -> None:
    channel = Taken()
    watch = Watch(channel)
    for key in KEYS[:4]:
        watch.run(moody, partition=key)
    assert {(alert.error, alert.partition_count) for alert in seen(watch, channel)} == {
        ("ValueError", 2),
        ("KeyError", 2),
    }


def test_checks_are_told_by_what_they_mean() -> None:
    channel = Taken()
    watch = Watch(channel)
    for key in KEYS[:2]:
        watch.run(fine, adds_up, is_complete, something_arrived, nothing_too_late, passes, partition=key)
    told = {alert.subject: (alert.kind, alert.error, alert.partition_count) for alert in seen(watch, channel)}
    assert told == {
        "adds_up of fine": ("failed check", "ERROR", 2),  # and not once more as the failed step of a blocking check
        "is_complete of fine": ("withheld", "WARN", 2),
        "something_arrived of fine": ("withheld", "ERROR", 2),
        "nothing_too_late of fine": ("late data", "WARN", 2),
    }
    (text,) = (alert.text for alert in channel.alerts if alert.subject.startswith("adds_up"))
    assert "off_by: 3" in text
    assert "a row" not in text


def test_what_goes_well_is_not_told() -> None:
    channel = Taken()
    watch = Watch(channel)
    watch.run(fine, passes)
    assert watch.tick() == "0 alerts, 0 causes told before, 0 alerts wait"
    assert not channel.alerts


def test_a_run_over_several_partitions_names_the_first_and_the_last() -> None:
    channel = Taken()
    watch = Watch(channel)
    watch.run(fine, is_complete, **range_tags(KEYS[0], KEYS[2]))
    (alert,) = seen(watch, channel)
    assert list(alert.partitions) == [f"{KEYS[0]}...{KEYS[2]}"]


def test_a_run_that_died_or_was_refused_has_no_step_and_is_told() -> None:
    channel = Taken()
    watch = Watch(channel)
    job = dg.Definitions(assets=[fine], jobs=[dg.define_asset_job("nightly")]).resolve_job_def("nightly")
    for key in KEYS[:2]:
        run = watch.instance.create_run_for_job(job, tags={"dagster/partition": key})
        watch.instance.report_run_failed(run, f"Run {run.run_id} of {key} was refused")
    (alert,) = seen(watch, channel)
    assert (alert.subject, alert.partition_count) == ("nightly", 2)
    assert "was refused" in alert.text


def test_a_run_that_is_tried_again_is_not_told_until_the_last_try() -> None:
    channel = Taken()
    watch = Watch(channel)
    watch.run(visits, **{"dagster/partition": KEYS[0], "dagster/will_retry": "true"})
    assert not seen(watch, channel)
    watch.run(visits, partition=KEYS[0])
    assert len(seen(watch, channel)) == 1


# From tick to tick ----------------------------------------------------------------------------------------------------


def test_a_cause_is_not_repeated_before_its_time_and_then_is(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Taken()
    watch = Watch(channel, repeat_after=timedelta(days=2))
    watch.run(visits, partition=KEYS[0])
    assert len(seen(watch, channel)) == 1
    assert watch.tick() == "0 alerts, 0 causes told before, 0 alerts wait"  # the run was seen
    watch.run(visits, partition=KEYS[1])
    assert watch.tick() == "0 alerts, 1 causes told before, 0 alerts wait"
    now = alerts.time.time()
    watch.run(visits, partition=KEYS[2])
    monkeypatch.setattr("pattern_platform.operations.alerts.time.time", lambda: now + timedelta(days=2).total_seconds())
    (alert,) = seen(watch, channel)
    assert list(alert.partitions) == [KEYS[2]]


def test_without_a_pause_every_tick_tells() -> None:
    channel = Taken()
    watch = Watch(channel, repeat_after=timedelta(0))
    for key in KEYS[:2]:
        watch.run(visits, partition=key)
        assert len(seen(watch, channel)) == 1


def test_what_a_channel_did_not_take_it_gets_later_and_the_others_have_it() -> None:
    well, ill = Taken("well"), Taken("ill")
    watch, ill.is_away = Watch(ill, well), True
    watch.run(visits)
    watch.run(moody)
    assert watch.tick() == "2 alerts, 0 causes told before, 2 alerts wait"
    assert (len(well.alerts), len(ill.alerts)) == (2, 0)
    assert watch.tick().endswith("2 alerts wait")
    ill.is_away = False
    assert watch.tick().endswith("0 alerts wait")
    assert [alert.title for alert in ill.alerts] == [alert.title for alert in well.alerts]
    watch.tick()
    assert (len(well.alerts), len(ill.alerts)) == (2, 2)


def test_the_memory_of_the_sensor_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_MOST_CAUSES", 2)
    monkeypatch.setattr(alerts, "_MOST_WAITING", 2)
    channel = Taken()
    watch, channel.is_away = Watch(channel), True
    for part in (visits, moody):
        watch.run(part)
    watch.run(fine, is_complete, adds_up)
    watch.tick()
    state = json.loads(watch.cursor or "")
    assert (len(state["told"]), len(state["waiting"])) == (2, 2)


def test_more_runs_than_a_tick_takes_are_left_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_RUNS_AT_ONCE", 2)
    channel = Taken()
    watch = Watch(channel, repeat_after=timedelta(0))
    for key in KEYS[:5]:
        watch.run(visits, partition=key)
    told = [alert.partition_count for _ in range(4) for alert in seen(watch, channel)]
    assert told == [2, 2, 1]


# Channels -------------------------------------------------------------------------------------------------------------

ALERT = Alert(
    kind="failed run",
    subject="raw/visits",
    error="FileNotArrivedError",
    message="no file\nSubject: injected",
    partitions=["2024-05-06"],
    partition_count=1,
    run="abcdefgh-1",
    namespace="night",
    webserver="http://dagster",
)


def test_the_log_takes_an_alert_as_a_warning() -> None:
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("pattern_platform.alerts")
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        LogChannel().send(ALERT)
    finally:
        logger.removeHandler(handler)
    assert [(record.levelname, record.getMessage()) for record in records] == [("WARNING", ALERT.text)]


@contextmanager
def webhook(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers so, the last status for ever; its URL and what it was sent."""
    left, sent = list(statuses), list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Location", "http://127.0.0.1:9/other")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/services/T0/SECRET", sent
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_takes_an_alert_as_json() -> None:
    with webhook(200) as (url, sent):
        WebhookChannel(url).send(ALERT)
    (body,) = sent
    assert body["text"] == ALERT.text
    assert (body["kind"], body["subject"], body["partition_count"], body["run"]) == (
        *("failed run", "raw/visits", 1, "abcdefgh-1"),
    )


def test_a_webhook_that_is_busy_is_asked_again() -> None:
    with webhook(503, 429, 200) as (url, sent):
        WebhookChannel(url).send(ALERT)
    assert len(sent) == 3


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (404, 1), (403, 1), (302, 1)])
def test_a_webhook_that_does_not_take_it_says_why_without_its_secret(status: int, tries: int) -> None:
    with webhook(status) as (url, sent), pytest.raises(AlertNotSentError, match=f"it answered {status}") as refused:
        WebhookChannel(url, attempts=2).send(ALERT)
    assert len(sent) == tries
    assert "SECRET" not in str(refused.value)
    assert "SECRET" not in repr(WebhookChannel(url))


def test_a_webhook_that_is_not_there_says_so_without_its_secret() -> None:
    with webhook(200) as (url, _):
        pass
    with pytest.raises(AlertNotSentError, match="ConnectionError") as refused:
        WebhookChannel(url, attempts=1).send(ALERT)
    assert "SECRET" not in str(refused.value)


class Mail(socketserver.StreamRequestHandler):
    """A mail server that takes everything, or nothing."""

    def handle(self) -> None:
        server: Any = self.server
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                server.mails.append(b"".join(lines).decode())
                self.wfile.write(b"250 taken\r\n")
            elif word == "RCPT" and server.refuses:
                self.wfile.write(b"550 no relay\r\n")
            else:
                self.wfile.write(b"250 yes\r\n" if word != "QUIT" else b"221 bye\r\n")


@contextmanager
def mail_server(*, refuses: bool = False) -> Iterator[tuple[int, list[str]]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        mails: list[str] = []
        server.mails, server.refuses = mails, refuses  # ty: ignore[unresolved-attribute]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], mails
        finally:
            server.shutdown()
            thread.join()


def email(port: int, **options: Any) -> EmailChannel:
    return EmailChannel("127.0.0.1", "dagster@example.org", ["a@example.org", "b@example.org"], port=port, **options)


def test_a_mail_server_takes_an_alert() -> None:
    with mail_server() as (port, mails):
        email(port).send(ALERT)
    (mail,) = mails
    head, _, body = mail.partition("\r\n\r\n")
    assert "Subject: [night] failed run: raw/visits (FileNotArrivedError)" in head
    assert "To: a@example.org, b@example.org" in head
    assert "injected" not in head
    assert "Subject: injected" in body
    assert "pattern-platform logs --run abcdefgh" in body


def test_a_mail_server_that_refuses_or_is_not_there_says_why() -> None:
    with mail_server(refuses=True) as (port, mails), pytest.raises(AlertNotSentError, match="no relay"):
        email(port).send(ALERT)
    assert not mails
    with pytest.raises(AlertNotSentError, match=r"see alerts\.email: host, port"):
        email(port, attempts=1).send(ALERT)


def test_a_password_is_not_sent_where_everyone_could_read_it() -> None:
    with mail_server() as (port, mails), pytest.raises(AlertNotSentError, match="speaks no TLS"):
        email(port, user="dagster", password="hidden").send(ALERT)  # noqa: S106 - of the test
    assert not mails
    assert "hidden" not in repr(email(port, user="dagster", password="hidden"))  # noqa: S106 - of the test


def test_a_title_over_lines_adds_no_header() -> None:
    hostile = Alert(**{**ALERT.__dict__, "subject": "a\r\nBcc: evil@example.org"})
    with mail_server() as (port, mails):
        email(port).send(hostile)
    assert "\r\nBcc:" not in mails[0].partition("\r\n\r\n")[0]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: WebhookChannel(""), "alerts.webhook"),
        (lambda: WebhookChannel("hooks.example.org/x"), "alerts.webhook"),
        (lambda: WebhookChannel("ftp://hooks.example.org"), "alerts.webhook"),
        (lambda: WebhookChannel("https://"), "alerts.webhook"),
        (lambda: EmailChannel("mail", "nobody", ["a@example.org"]), "alerts.email.host"),
        (lambda: EmailChannel("mail", "a@example.org", []), "nobody to send to"),
        (lambda: EmailChannel("", "a@example.org", ["a@example.org"]), "it has no host"),
        (lambda: EmailChannel("mail", "a@example.org", ["a@example.org\nBcc: b@example.org"]), "no address"),
        (lambda: EmailChannel("mail", "a@example.org", ["a@example.org"], user="u"), "set both"),
        (lambda: EmailChannel("mail", "a@example.org", ["a@example.org"], password="p"), "set both"),  # noqa: S106
        (lambda: alerts_sensor([]), "give at least one channel"),
        (lambda: alerts_sensor([LogChannel(), LogChannel()]), "each with a name of its own"),
        (lambda: alerts_sensor(repeat_after=timedelta(minutes=-1)), "not negative"),
    ],
)
def test_a_channel_that_cannot_work_is_refused_with_what_to_set(made: Any, told: str) -> None:
    with pytest.raises(InvalidChannelError) as refused:
        made()
    assert told in str(refused.value)


def test_the_sensor_runs_by_default_and_loads() -> None:
    sensor = alerts_sensor()
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    dg.Definitions.validate_loadable(dg.Definitions(assets=[fine], sensors=[sensor]))
