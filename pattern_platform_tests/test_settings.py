"""Settings: what goes before what, and that nothing misspelt passes for a setting."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pattern_platform.errors import InvalidSettingsError
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Settings of a folder: its file, its overlay of `prod`, and an environment with nothing else of ours."""

    def loaded(
        file: str | None = None, overlay: str | None = None, variables: Mapping[str, str] | None = None, **given: Any
    ) -> Settings:
        for name in [name for name in os.environ if name.startswith("PATTERN_PLATFORM_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PATTERN_PLATFORM_HOME", str(tmp_path))
        monkeypatch.setenv("PATTERN_PLATFORM_NAMESPACE", "main")
        for name, text in {"platform.yaml": file, "platform.prod.yaml": overlay}.items():
            if text is not None:
                (tmp_path / name).write_text(text)
        for name, value in (variables or {}).items():
            monkeypatch.setenv(f"PATTERN_PLATFORM_{name}", value)
        return Settings(**given)

    return loaded


def test_without_a_file_there_are_defaults(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.limits.model_dump() == {
        "runs": 4,
        "ingestion": 3,
        "late_data": 1,
        "page_speed": 2,
        "team_web": 3,
        "team_flights": 3,
    }
    assert (settings.environment, settings.schedules, settings.sessions_url) == ("local", {}, None)
    assert (settings.data, settings.landing) == (tmp_path / "data", tmp_path / "data/landing")


def test_paths_are_relative_to_the_file_wherever_a_process_was_started(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = load("data: stored\nregistry: /etc/registry.csv")
    assert settings.data == tmp_path / "stored"
    assert str(settings.registry) == "/etc/registry.csv"


def test_what_is_given_goes_before_the_environment_its_overlay_and_the_file(load: Load) -> None:
    """One key of a section at a time: a layer replaces what it names, and nothing beside it."""
    file = "limits: {runs: 11, ingestion: 12, late_data: 13, page_speed: 14}\nschedules: {a: hourly, b: hourly}"
    overlay = "limits: {runs: 21, ingestion: 22, late_data: 23}\nschedules: {b: daily}"
    variables = {"ENVIRONMENT": "prod", "LIMITS__RUNS": "31", "LIMITS__INGESTION": "32"}
    settings = load(file, overlay, variables, limits={"runs": 41})
    assert settings.environment == "prod"
    assert settings.limits.model_dump() == {
        "runs": 41,
        "ingestion": 32,
        "late_data": 23,
        "page_speed": 14,
        "team_web": 3,
        "team_flights": 3,
    }
    assert settings.schedules == {"a": "hourly", "b": "daily"}


def test_the_file_may_say_its_environment(load: Load) -> None:
    assert load("environment: prod", "limits: {runs: 9}").limits.runs == 9


def test_an_overlay_is_of_its_environment_alone(load: Load) -> None:
    assert load("", "limits: {runs: 9}").limits.runs == 4


def test_lists_and_sections_may_come_by_environment(load: Load) -> None:
    variables = {"PRIVACY__SUBJECT_COLUMNS": '["a", "b"]', "ALERTS": '{"repeat_after_minutes": 5}'}
    settings = load(variables=variables)
    assert settings.privacy.subject_columns == ("a", "b")
    assert settings.alerts.repeat_after_minutes == 5


@pytest.mark.parametrize("word", ["off", '"off"', "hourly", "daily"])
def test_the_words_of_a_schedule_are_written_as_they_are(load: Load, word: str) -> None:
    """YAML takes `off` for a truth value."""
    assert load(f"schedules: {{maintenance: {word}}}").schedules == {"maintenance": word.strip('"')}


MISTAKES = {
    "section": ("limit: {runs: 4}", "limit: there is no such key; did you mean limits?"),
    "key of a section": ("limits: {run: 4}", "limits.run: there is no such key; did you mean runs?"),
    "nothing near": ("colour: red", "colour: there is no such key; there are: environment, namespace, data"),
    "nothing near in a section": ("limits: {zzz: 1}", "limits.zzz: there is no such key; there are: runs, ingestion"),
    "key of an absent section": ("alerts: {email: {hots: x, to: [a@b.c], sender: d@e.f}}", "alerts.email.hots"),
    "absent key": ("alerts: {email: {host: h, to: [a@b.c]}}", "alerts.email.sender: Field required"),
    "word for a number": ("limits: {runs: four}", "limits.runs: Input should be a valid integer"),
    "part of a run": ("limits: {runs: 1.5}", "limits.runs: Input should be a valid integer"),
    "no run": ("limits: {runs: 0}", "limits.runs: Input should be greater than 0"),
    "truth for a number": ("limits: {runs: yes}", "limits.runs: Value error, a number, not yes or no"),
    "share as per cent": (
        "thresholds: {estimate_floor: 50}",
        "thresholds.estimate_floor: Input should be less than or",
    ),
    "word of a schedule": (
        "schedules: {visits: weekly}",
        "schedules.visits: Input should be 'hourly', 'daily' or 'off'",
    ),
    "schedules as a list": ("schedules: [visits]", "schedules: Input should be a valid dictionary"),
    "no subject": ("privacy: {subject_columns: []}", "privacy.subject_columns"),
    "text for a list": ("privacy: {subject_columns: user_id}", "privacy.subject_columns"),
    "number for a section": ("limits: 4", "limits: Input should be a valid dictionary"),
    "url without protocol": ("webserver: localhost:3000", "webserver: String should match pattern '^https?://'"),
    "store": ("sessions_url: mysql://h/db", "sessions_url: Value error, a store begins with one of redis://"),
    "storage": ("storage: s3", "storage: Input should be a valid dictionary or instance of Storage"),
    "storage without its root": (
        "storage: {config: {provider: s3}}",
        "storage: Value error, root_uri and config.provider go together",
    ),
    "a root without its storage": (
        "storage: {root_uri: 's3://bucket'}",
        "storage: Value error, root_uri and config.provider go together",
    ),
    "a secret in the file": (
        "storage: {root_uri: 's3://bucket', config: {provider: s3, secret_access_key: '1234'}}",
        "secret_access_key: a secret belongs into the environment",
    ),
    "a key of no store": (
        "storage: {root_uri: 's3://bucket', config: {provider: s3, regoin: x}}",
        "there is no such key as regoin; there are: provider, access_key_id",
    ),
    "a store that is none": (
        "storage: {root_uri: 's3://bucket', config: {provider: ftp}}",
        "does not match any of the expected tags",
    ),
    "no overlay": ("environment: pord", "there is no platform.pord.yaml beside platform.yaml"),
    "tab": ("limits:\n\truns: 4", "platform.yaml cannot be read"),
    "open bracket": ("limits: {runs: 4", "platform.yaml cannot be read"),
    "list": ("- limits", "no mapping of keys"),
    "text": ("just a text", "no mapping of keys"),
    "number as a key": ("1: 2", "no mapping of keys"),
    "section twice": ("limits: {runs: 1}\nlimits: {ingestion: 2}", "twice"),
}


@pytest.mark.parametrize(("file", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_the_file_is_told_with_its_path_and_what_to_do(load: Load, file: str, told: str) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load(file)
    assert told in refused.value.why
    assert "platform.yaml" in refused.value.mend
    assert "PATTERN_PLATFORM_<SECTION>__<KEY>" in refused.value.mend


def test_every_mistake_is_told_at_once(load: Load) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load("limits: {run: 4, ingestion: no}\nprivacy: {retention_days: 0}\nstorage: s3")
    lines = [line.strip().partition(":")[0] for line in refused.value.why.splitlines()]
    assert sorted(lines) == ["limits.ingestion", "limits.run", "privacy.retention_days", "storage"]
    assert refused.value.what == "4 setting(s) were refused"


VARIABLES = {
    "key of a section": ("LIMITS__RUN", "4", "limits.run: there is no such key; did you mean runs?"),
    "section": ("LIMIT__RUNS", "4", "PATTERN_PLATFORM_LIMIT__RUNS of the environment is no setting; did you mean"),
    "one underscore": ("LIMITS_RUNS", "4", "PATTERN_PLATFORM_LIMITS_RUNS of the environment is no setting"),
    "nothing near": ("ZZZ", "4", "PATTERN_PLATFORM_ZZZ of the environment is no setting; there are: alerts, data"),
    "value": ("LIMITS__RUNS", "many", "limits.runs: Input should be a valid integer"),
    "no JSON": ("LIMITS", "abc", "limits"),
    "text for a list": ("PRIVACY__SUBJECT_COLUMNS", "user_id", "privacy"),
    "schedule": ("SCHEDULES__VISITS", "false", "schedules.visits"),
    "empty url": ("SESSIONS_URL", "", "sessions_url"),
    "overlay": ("ENVIRONMENT", "pord", "environment: there is no platform.pord.yaml beside platform.yaml"),
}


@pytest.mark.parametrize(("name", "value", "told"), VARIABLES.values(), ids=VARIABLES)
def test_a_mistake_of_the_environment_is_told(load: Load, name: str, value: str, told: str) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load("", None, {name: value})
    assert told in refused.value.why


def test_every_unknown_variable_is_told_at_once(load: Load) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load(variables={"LIMITZ__RUNS": "4", "WEBSERVR": "http://localhost"})
    assert "PATTERN_PLATFORM_LIMITZ__RUNS" in refused.value.why
    assert "PATTERN_PLATFORM_WEBSERVR" in refused.value.why


def test_variables_of_others_are_not_looked_at(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATTERN_PLATFORMER_LIMITS", "4")
    assert load().limits.runs == 4


@pytest.mark.parametrize(
    ("file", "variables"),
    [
        ("sessions_url: mysql://u:hunter2@h/db", {}),
        ("", {"SESSIONS_URL": "mysql://u:hunter2@h/db"}),
        ("alerts: {email: {host: h, to: [a@b.c], password: hunter2}}", {}),
        ("alerts: {webhook: [hunter2]}", {}),
    ],
)
def test_a_refusal_never_shows_a_secret_nor_does_its_traceback(
    load: Load, file: str, variables: dict[str, str]
) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        load(file, None, variables)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_secrets_are_masked_where_settings_are_shown(load: Load) -> None:
    settings = load("sessions_url: redis://u:hunter2@h/0\nalerts: {webhook: 'https://x/hunter2'}")
    assert settings.sessions_url is not None
    assert settings.sessions_url.get_secret_value() == "redis://u:hunter2@h/0"
    assert "hunter2" not in repr(settings) + yaml.safe_dump(settings.model_dump(mode="json"))


def test_the_committed_file_says_what_the_defaults_are(load: Load) -> None:
    """Each key of the file is one that exists; a default that is changed in one place alone would be told here."""
    from pattern_platform_tests.test_structure import CHECKOUT  # noqa: PLC0415 - the one test that reads it

    committed = load((CHECKOUT / "platform.yaml").read_text()).model_dump()
    (schedules, defaults) = committed.pop("schedules"), load("").model_dump()
    assert schedules == {"maintenance": "daily"}
    assert committed == {name: value for name, value in defaults.items() if name != "schedules"}
