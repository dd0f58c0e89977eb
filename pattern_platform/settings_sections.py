"""The sections of ``platform.yaml``, each with what it may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _no_truth(number: Any) -> Any:  # noqa: ANN401 - whatever is in the file
    if isinstance(number, bool):
        message = "a number, not yes or no"
        raise ValueError(message)  # noqa: TRY004 - pydantic takes no other
    return number


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
