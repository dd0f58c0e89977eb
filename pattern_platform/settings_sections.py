"""The sections of ``platform.yaml``, each with what it may say."""

from __future__ import annotations

from typing import Annotated, Any, Self

from dagster_deltalake import AzureConfig, GcsConfig, LocalConfig, S3Config
from dagster_deltalake.config import ClientConfig
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from pattern_platform.lake.location import options_of


def _no_truth(number: Any) -> Any:  # noqa: ANN401 - whatever is in the file
    if isinstance(number, bool):
        message = "a number, not yes or no"
        raise ValueError(message)  # noqa: TRY004 - pydantic takes no other
    return number


_STORES: dict[Any, Any] = {"local": LocalConfig, "s3": S3Config, "azure": AzureConfig, "gcs": GcsConfig}
_SECRET = {
    "secret_access_key",
    "token",
    "account_key",
    "sas_key",
    "client_secret",
    "service_account_key",
}  # of the config classes of dagster_deltalake
Count = Annotated[int, BeforeValidator(_no_truth), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Section):
    """How many runs there are at a time, in all and of each kind.

    Args:
        runs: Of all kinds.
        ingestion: That read landed files.
        late_data: That bring late rows into hours that were published before.
        page_speed: That read measurements of a region.
        team_web: Of the data sets of the web team.
        team_flights: Of those of the flights team.
    """

    runs: Count = 4
    ingestion: Count = 3
    late_data: Count = 1
    page_speed: Count = 2
    team_web: Count = 3
    team_flights: Count = 3


class Thresholds(_Section):
    """From where on something is not good enough.

    Args:
        estimate_floor: Share of its hours with which a day's estimate is published, from 0 to 1.
        stale_after_hours: Age of the daily cube, in hours, at which its freshness fails.
    """

    estimate_floor: Annotated[float, Field(gt=0, le=1)] = 0.5
    stale_after_hours: Count = 48


class Privacy(_Section):
    """What is done with personal data.

    Args:
        subject_columns: Columns, and fields of records, that identify a person.
        retention_days: How long personal data is kept where the registry does not say.
    """

    subject_columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("user_id",)
    retention_days: Count = 30


class Storage(_Section):
    """Where tables are.

    Secrets are never here: engines take them from the environment, such as ``AWS_SECRET_ACCESS_KEY``.

    Args:
        root_uri: Folder of all namespaces on an object store, such as ``s3://bucket/platform``; below ``data`` when not
            given.
        config: What kind of store, and how it is reached: a config class of ``dagster_deltalake``.
        client: How it is asked: time limits, proxies, plain HTTP.
    """

    root_uri: Annotated[str, Field(pattern=r"^[a-z0-9]+://[^/?#]+")] | None = None
    config: Annotated[LocalConfig | S3Config | AzureConfig | GcsConfig, Field(discriminator="provider")] = LocalConfig()
    client: ClientConfig | None = None

    @field_validator("config", "client", mode="before")
    @classmethod
    def _names_keys_that_exist(cls, given: Any) -> Any:  # noqa: ANN401 - whatever is in the file
        if isinstance(given, dict):  # Dagster's classes would pass over others
            known = _STORES.get(given.get("provider"), ClientConfig).model_fields
            if unknown := sorted(set(given) - set(known) - {"provider"}):
                message = f"there is no such key as {', '.join(unknown)}; there are: {', '.join(known)}"
                raise ValueError(message)
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if secrets := sorted(_SECRET & self.config.model_fields_set):
            message = f"{', '.join(secrets)}: a secret belongs into the environment, as engines look for it there"
            raise ValueError(message)
        if (self.root_uri is None) != isinstance(self.config, LocalConfig):
            message = (
                "root_uri and config.provider go together, as s3://... with s3, gs://... with gcs, az://... with azure"
            )
            raise ValueError(message)
        return self

    @property
    def options(self) -> dict[str, str] | None:
        """How engines reach it; None for local files."""
        return options_of(self.config, self.client)


class Email(_Section):
    """A mail server that takes alerts.

    Args:
        host: Name of the server.
        port: Its port.
        sender: From whom.
        to: To whom.
        user: Login, where the server asks for one.
        password: Of the login.
    """

    host: str
    sender: str
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Count = 25
    user: str | None = None
    password: SecretStr | None = None


class Alerts(_Section):
    """Where alerts go besides the log.

    Args:
        webhook: URL that takes a JSON object.
        email: Mail server.
        repeat_after_minutes: How long a cause that lasts is not told again.
    """

    webhook: SecretStr | None = None
    email: Email | None = None
    repeat_after_minutes: Count = 60
