"""Where the platform keeps what it makes: an IO manager for each pattern, by the name of the pattern's module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_platform.operations.alert_channels import EmailChannel, LogChannel, WebhookChannel
from pattern_platform.orchestration.steps import StepsIOManager
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.data_overwrite_directory import DirectoryOverwriteIOManager
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency_files import KeyedFilesIOManager
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.proxy import ProxyIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger_history import HistoryMergerIOManager
from pattern_platform.patterns.idempotency.transactional_writer import TransactionalWriterIOManager
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform.warehouse.keyed_store import DuckDBStore
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform.warehouse.redis_store import RedisStore

if TYPE_CHECKING:
    import dagster as dg

    from pattern_platform.lake.io_manager import DeltaIOManager
    from pattern_platform.operations.alert_channels import Channel
    from pattern_platform.settings import Settings


def delta_tables(settings: Settings) -> dict[str, DeltaIOManager]:
    """The IO managers of the lake, whose tables are looked after at night."""
    lake = settings.lake_config
    return {
        "data_overwrite": DataOverwriteIOManager(**lake),
        "data_overwrite_shown": DataOverwriteIOManager(root_uri=str(settings.lake_on_disk)),
        "merger": MergerIOManager(**lake),
        "stateful_merger": StatefulMergerIOManager(**lake),
        "transactional_writer_delta": TransactionalAppendIOManager(**lake),
    }


def warehouse_and_exports(settings: Settings) -> dict[str, dg.ConfigurableIOManager]:
    """The IO managers of the DuckDB files, one for each concern, of the published versions and of plain files."""
    file, exports = (lambda concern: str(settings.warehouse / f"{concern}.duckdb")), str(settings.root)  # exports/...
    return {
        "data_overwrite_directory": DirectoryOverwriteIOManager(root_uri=exports),
        "data_overwrite_duckdb": WarehouseOverwriteIOManager(database=file("cubes")),
        "fast_metadata_cleaner": FastMetadataCleanerIOManager(database=file("visits")),
        "history_merger": HistoryMergerIOManager(database=file("devices")),
        "keyed_idempotency": KeyedIdempotencyIOManager(store=_sessions_store(settings)),
        "keyed_idempotency_files": KeyedFilesIOManager(root_uri=exports),
        "proxy": ProxyIOManager(root_uri=str(settings.lake_on_disk), database=file("catalogue")),
        "steps": StepsIOManager(root_uri=str(settings.root / "steps")),
        "transactional_writer": TransactionalWriterIOManager(database=file("billing")),
    }


def alert_channels(settings: Settings) -> list[Channel]:
    """Where alerts go: the log, and what is configured besides."""
    channels: list[Channel] = [LogChannel()]
    if settings.alerts.webhook:
        channels.append(WebhookChannel(settings.alerts.webhook.get_secret_value()))
    if email := settings.alerts.email:
        password = email.password.get_secret_value() if email.password else None
        channels.append(EmailChannel(email.host, email.sender, email.to, email.port, email.user, password))
    return channels


def _sessions_store(settings: Settings) -> DuckDBStore | PostgresStore | RedisStore:
    url = settings.sessions_store
    if url is None:
        return DuckDBStore(database=str(settings.warehouse / "sessions.duckdb"))
    return PostgresStore(url=url) if url.startswith("postgresql") else RedisStore(url=url)
