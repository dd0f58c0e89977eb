"""How the platform is set up: ``platform.yaml``, what an environment lays over it, and environment variables.

Nothing here is code: every path, store, threshold, schedule and limit is a key of the file, strictly checked.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from yaml import YAMLError

from pattern_platform.errors import InvalidSettingsError
from pattern_platform.lake.object_path import LakePath, ObjectPath
from pattern_platform.orchestration.namespace import MAIN, Namespace, current_branch, namespace_of_branch
from pattern_platform.orchestration.strict_yaml import load_mapping
from pattern_platform.settings_sections import Alerts, Email, Limits, Privacy, Storage, Thresholds

SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED = 100, 7  # what the committed visits were generated with
_PREFIX = "PATTERN_PLATFORM_"
_FILE = "platform.yaml"
_OF_NAMESPACE = "{namespace}"
_CHECKOUT = Path(__file__).resolve().parents[1]
_STORES = ("redis://", "rediss://", "postgresql://")


def home() -> Path:
    """Folder of ``platform.yaml``: ``PATTERN_PLATFORM_HOME``, else the checkout, else the working directory."""
    if given := os.environ.get(_PREFIX + "HOME"):
        return Path(given).resolve()
    return _CHECKOUT if (_CHECKOUT / _FILE).exists() else Path.cwd()


def _namespace_of_checkout() -> str:
    branch = current_branch(home())
    return MAIN if branch is None else namespace_of_branch(branch)


def _off(word: Any) -> Any:  # noqa: ANN401 - whatever is in the file
    return "off" if word is False else word  # as YAML reads the word


def _store_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(_STORES):
        message = f"a store begins with one of {', '.join(_STORES)}"
        raise ValueError(message)
    return url


class Settings(BaseSettings):
    """Settings of the platform. Values given go first, then the environment, its overlay, and ``platform.yaml``.

    Args:
        environment: Whose overlay ``platform.<environment>.yaml`` is laid over the file.
        namespace: Whose tables these are; that of the git branch when not given.
        data: Folder of landed files and of all namespaces.
        registry: File of the data sets.
        storage: Where tables are.
        sessions_url: Server that keeps the sessions, ``redis://...`` or ``postgresql://...``; a DuckDB file where none.
            Outside ``main`` it says ``{namespace}`` where the database is named.
        webserver: The Dagster webserver.
        schedules: ``hourly``, ``daily`` or ``off`` for a data set or for ``maintenance``.
        limits: How many runs there are at a time.
        thresholds: From where on something is not good enough.
        privacy: What is done with personal data.
        alerts: Where alerts go.

    Raises:
        InvalidSettingsError: Lists every wrong key with its path.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    environment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")] = "local"
    namespace: str = Field(default_factory=_namespace_of_checkout)
    data: Annotated[Path, AfterValidator(lambda path: home() / path)] = Path("data")
    registry: Annotated[Path, AfterValidator(lambda path: home() / path)] = Path("data/registry.csv")
    storage: Storage = Storage()
    sessions_url: Annotated[SecretStr, AfterValidator(_store_url)] | None = None
    webserver: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:3000"
    schedules: dict[str, Annotated[Literal["hourly", "daily", "off"], BeforeValidator(_off)]] = {}
    limits: Limits = Limits()
    thresholds: Thresholds = Thresholds()
    privacy: Privacy = Privacy()
    alerts: Alerts = Alerts()

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - each has its own type
        _refuse_unknown_variables(type(self))
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _refusal([_told(mistake) for mistake in error.errors()]) from None  # it would quote secrets
        except SettingsError as error:
            raise _refusal([f'{error}: write a list as ["a", "b"], a section as {{"key": 1}}']) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there are no such files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order in which values are looked for."""
        base = _read(home() / _FILE)
        environment = os.environ.get(_PREFIX + "ENVIRONMENT") or base.get("environment", "local")
        overlay = home() / f"platform.{environment}.yaml"
        if environment != "local" and not overlay.exists():
            raise _refusal([f"environment: there is no {overlay.name} beside {_FILE}"])
        files = (InitSettingsSource(settings_cls, content) for content in (_read(overlay), base))
        return (init_settings, env_settings, *files)

    @property
    def root(self) -> Path:
        """Folder of what the namespace keeps."""
        return Namespace(self.namespace, self.data).root

    @property
    def sessions_store(self) -> str | None:
        """The server of the sessions, with its secrets; None where they are in a DuckDB file.

        Raises:
            InvalidSettingsError: Two namespaces would keep theirs in the same place.
        """
        if self.sessions_url is None:
            return None
        url = self.sessions_url.get_secret_value()
        if self.namespace != MAIN and _OF_NAMESPACE not in url:
            told = f"namespace {self.namespace!r} would share a store with others; write {_OF_NAMESPACE} in it"
            raise _refusal([f"sessions_url: {told}, or leave it out for a DuckDB file"])
        return url.replace(_OF_NAMESPACE, self.namespace)

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance; ``DAGSTER_HOME`` goes before that of the namespace."""
        return Path(os.environ.get("DAGSTER_HOME") or Namespace(self.namespace, self.data).dagster_home)

    @property
    def landing(self) -> Path:
        """Landed files, which all namespaces read."""
        return self.data / "landing"

    @property
    def lake(self) -> LakePath:
        """Delta tables."""
        stored = self.stored(self.namespace)
        return stored / "lake" if stored else self.lake_on_disk

    @property
    def lake_on_disk(self) -> Path:
        """Delta tables that a DuckDB view shows: DuckDB reads an object store with a downloaded extension alone."""
        return self.root / "lake"

    def stored(self, namespace: str) -> ObjectPath | None:
        """What a namespace keeps on an object store, in its folders ``lake`` and ``logs``."""
        if self.storage.root_uri is None:
            return None
        return ObjectPath.of(f"{self.storage.root_uri.rstrip('/')}/{namespace}", self.storage.options or {})

    @property
    def lake_config(self) -> dict[str, Any]:
        """Where the tables are, as a Delta IO manager takes it."""
        return {
            "root_uri": str(self.lake),
            "storage": self.storage.config,
            "client_options": self.storage.client,
        }

    @property
    def warehouse(self) -> Path:
        """DuckDB files, one for each concern: a file has one holder at a time."""
        return self.root / "warehouse"

    @property
    def logs(self) -> Path:
        """Structured logs of every process."""
        return self.root / "logs"


_SECTIONS: dict[str, type[BaseModel]] = {
    "limits": Limits,
    "thresholds": Thresholds,
    "privacy": Privacy,
    "alerts": Alerts,
    "email": Email,
    "storage": Storage,
}


def _refuse_unknown_variables(settings: type[BaseSettings]) -> None:
    """A misspelt variable would be no variable at all."""
    known = {*settings.model_fields, "home"}
    unknown = []
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX).split("__")[0].lower()
        if variable.startswith(_PREFIX) and name not in known:
            near = [(_PREFIX + found).upper() for found in get_close_matches(name, known, n=1)]
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
            unknown.append(f"{variable} of the environment is no setting; {hint}")
    if unknown:
        raise _refusal(unknown)


def _read(file: Path) -> dict[str, Any]:
    """A file of settings; none where there is no file."""
    try:
        return load_mapping(file.read_text()) if file.exists() else {}
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise _refusal([f"{file.name} cannot be read: {error}"]) from error


def _told(mistake: Any) -> str:  # noqa: ANN401 - of pydantic
    *parents, last = (str(part) for part in mistake["loc"])
    path = ".".join((*parents, last))
    if mistake["type"] != "extra_forbidden":
        return f"{path}: {mistake['msg']}"
    section = _SECTIONS.get(parents[-1], Settings) if parents else Settings
    near = get_close_matches(last, section.model_fields, n=1)
    allowed = f"did you mean {near[0]}?" if near else f"there are: {', '.join(section.model_fields)}"
    return f"{path}: there is no such key; {allowed}"


def _refusal(mistakes: list[str]) -> InvalidSettingsError:
    return InvalidSettingsError(
        f"{len(mistakes)} setting(s) were refused",
        why="\n        ".join(mistakes),
        mend=f"mend {_FILE}, its overlay or the variable {_PREFIX}<KEY>, a section's key as {_PREFIX}<SECTION>__<KEY>",
    )
