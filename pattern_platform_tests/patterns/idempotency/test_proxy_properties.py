"""Proxy: any order of loads, audits, publications, roll backs, holds and retentions, some of which fail on the way.

A few lines of Python say what must be shown, and what must be there.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pattern_platform.errors import MissingVersionError, UnauditedVersionError
from pattern_platform.lake import immutable
from pattern_platform.orchestration import publications as publications_module
from pattern_platform.warehouse.publications import Publications
from pattern_platform.warehouse.versions import Versions
from pattern_platform_tests.patterns.idempotency.proxies import Proxy, failing_once, ids
from pattern_platform_tests.patterns.idempotency.warehouse_tables import QUICK

LOADING = [
    ((immutable, "write_files"), True),
    ((immutable, "_set_writable"), True),
    ((Versions, "registered"), False),
    ((Versions, "write"), True),
]
choices = st.integers(0, 7)


@dataclass
class Model:
    """What there is, by the numbers of the versions, and how many rows each has."""

    rows: dict[int, int] = field(default_factory=dict)
    audited: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)
    shown: int | None = None
    moves: list[int] = field(default_factory=list)
    manifest: int | None = None
    left_over: bool = False  # a retention was interrupted

    def loaded(self, count: int, *, audited: bool) -> int:
        version = len(self.rows) + 1
        self.rows[version] = count
        self.audited |= {version} if audited else set()
        return version

    def refusal(self, version: int) -> type[Exception] | None:
        if version not in self.rows or version in self.removed:
            return MissingVersionError
        return None if version in self.audited else UnauditedVersionError

    def move(self, version: int) -> None:
        if self.shown != version:
            self.moves.append(version)
        self.shown = version

    def old(self, keep: int) -> set[int]:
        """What a retention removes that does not ask for the age."""
        return set(sorted(self.rows)[: -max(keep, 1)]) - self.held - self.removed - {self.shown}


class Loads(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.proxy, self.model = Proxy(Path(self.folder.name)), Model()

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize()
    def first(self) -> None:
        self.load(3, "passes")

    @rule(count=choices, audit=st.sampled_from(["passes", "passes", "fails", "is left out"]))
    def load(self, count: int, audit: str) -> None:
        rows = ids(count, first=100 * len(self.model.rows))
        self.proxy.passes = audit == "passes"
        version = self.proxy.load(rows, audited=audit != "is left out", succeeds=audit != "fails")
        assert version == self.model.loaded(count, audited=audit == "passes")

    @rule(count=choices, place=st.sampled_from(LOADING))
    def fail_to_load(self, count: int, place: tuple[tuple[Any, str], bool]) -> None:
        with failing_once(place[0], after=place[1]):
            self.proxy.run(dg.AssetSelection.assets(list(self.proxy.key)), ids(count), succeeds=False)

    @rule(passes=st.booleans())
    def audit_again(self, passes: bool) -> None:  # noqa: FBT001 - of hypothesis
        newest = max(self.model.rows)
        self.proxy.passes = passes
        assert self.proxy.audit_alone() == passes
        self.model.audited = self.model.audited | {newest} if passes else self.model.audited - {newest}

    @rule()
    def publish_the_newest(self) -> None:
        self._publish(max(self.model.rows), None)

    @rule(version=choices)
    def publish_one(self, version: int) -> None:
        self._publish(version, version)

    def _publish(self, version: int, asked: int | None) -> None:
        refusal = self.model.refusal(version)
        if refusal:
            with pytest.raises(refusal):
                self.proxy.publish(asked)
        else:
            assert self.proxy.publish(asked)["proxy/version"] == version
            self.model.move(version)
            self.model.manifest = version

    @rule(version=choices, moved=st.booleans())
    def fail_to_publish(self, version: int, moved: bool) -> None:  # noqa: FBT001 - of hypothesis
        if self.model.refusal(version):
            return
        place = (publications_module, "files_of") if moved else (Publications, "move")
        with failing_once(place, after=not moved), pytest.raises(RuntimeError, match="power"):
            self.proxy.publish(version)
        if moved:
            self.model.move(version)

    @rule(version=choices)
    def hold(self, version: int) -> None:
        if version in self.model.rows and version not in self.model.removed:
            self.proxy.hold(version, "case 4711")
            self.model.held.add(version)
        else:
            with pytest.raises(MissingVersionError):
                self.proxy.hold(version, "case 4711")

    @rule(version=choices)
    def let_go(self, version: int) -> None:
        if version in self.model.held:
            self.proxy.hold(version, None)
            self.model.held.remove(version)

    @rule(keep=st.integers(0, 4))
    def retain(self, keep: int) -> None:
        old = self.model.old(keep)
        assert self.proxy.retain(keep=keep, days=0) == {
            "proxy/removed": sorted(old),
            "proxy/under_legal_hold": sorted(self.model.held),
        }
        self.model.removed |= old
        self.model.left_over = False

    @rule(keep=st.integers(0, 2))
    def fail_to_retain(self, keep: int) -> None:
        old = self.model.old(keep)
        place = (publications_module, "_remove_tables")
        with failing_once(place, after=False), pytest.raises(RuntimeError, match="power"):
            self.proxy.retain(keep=keep, days=0)
        self.model.removed |= old
        self.model.left_over = True

    @invariant()
    def the_view_shows_the_version_of_the_model(self) -> None:
        if self.model.shown is None:
            assert self.proxy.sql("SELECT sql FROM duckdb_views() WHERE NOT internal").is_empty()
            return
        first = 100 * (self.model.shown - 1)
        assert self.proxy.ids() == list(range(first, first + self.model.rows[self.model.shown]))
        assert [version for version, _ in self.proxy.publications()] == self.model.moves
        if self.model.manifest == self.model.shown:
            assert self.proxy.manifest() == self.proxy.manifest_of(self.model.shown)

    @invariant()
    def what_is_not_removed_is_there_and_what_is_removed_is_gone(self) -> None:
        versions = self.proxy.versions()
        assert versions["version"].to_list() == list(self.model.rows)
        for version, uri, legal_hold, removed_at in versions.select(
            "version", "uri", "legal_hold", "removed_at"
        ).iter_rows():
            assert (removed_at is not None) == (version in self.model.removed)
            assert (legal_hold is not None) == (version in self.model.held)
            if version not in self.model.removed:
                assert DeltaTable(uri).to_pyarrow_table().num_rows == self.model.rows[version]
            elif not self.model.left_over:
                assert not Path(uri).exists()


Loads.TestCase.settings = settings(QUICK, max_examples=3, stateful_step_count=12)
TestAnyOrder = Loads.TestCase
