"""Assets over plain files: how the tests of both managers make them, and look at them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform_tests.lake.tables import NO_RESOURCES, loaded_by, range_tags, shared_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pattern_platform.lake.file_io_manager import FileIOManager

ODD_KEYS = [
    "a/b",
    "../up",
    "..",
    ".",
    ".hidden",
    "x y",
    "10:00",
    "é日",
    "a|b",
    "%2F",
    "a%2Fb",
    "a=b",
    "*",
    "?[a]",
    "~",
    "all",
]
ODD_KEYS += ["2024", "2024.05", "a'b", 'a"b', "a#b", "a&b;c", "a\\b", "NULL"]


@dataclass(frozen=True)
class Files:
    """An asset of plain files; every run is given what it returns."""

    root: Path
    io_manager: type[FileIOManager]
    definition: dg.PartitionsDefinition | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: tuple[str, ...] = ("exports", "rows")

    @property
    def folder(self) -> Path:
        return self.root.joinpath(*self.key)

    @property
    def manager(self) -> FileIOManager:
        return self.io_manager(**{"root_uri": str(self.root), **self.options})

    def with_(self, **changes: Any) -> Files:
        return replace(self, **changes)

    @property
    def declared(self) -> dict[str, Any]:
        return {**({"partition_expr": "p"} if self.definition else {}), **self.metadata}

    def asset(self, value: object = None, *, single_run: bool = False) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            partitions_def=self.definition,
            metadata=self.declared,
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        )
        def rows() -> Any:
            return value

        return rows

    def write(self, value: object, partition: str | None = None) -> dict[str, Any]:
        """As a run writes, without one."""
        context = dg.build_output_context(
            asset_key=self.key,
            definition_metadata=self.declared,
            partition_key=partition,
            asset_partitions_def=self.definition,
            resources=NO_RESOURCES,
        )
        self.manager.handle_output(context, value)
        return {name: getattr(value, "value", value) for name, value in context.consume_logged_metadata().items()}

    def run(self, value: object, partition: str | None = None) -> None:
        self._materialize(self.asset(value), partition_key=partition)

    def run_range(self, value: object, first: str, last: str) -> None:
        self._materialize(self.asset(value, single_run=True), tags=range_tags(first, last))

    def _materialize(self, asset: dg.AssetsDefinition, **run: Any) -> None:
        dg.materialize([asset], instance=shared_instance(), resources={"io_manager": self.manager}, **run)

    def load(
        self, partition: str | None = None, kind: Any = pl.DataFrame, *, whole: bool = False, **metadata: Any
    ) -> pl.DataFrame:
        """What a downstream asset of the same partitions, or of none, is given."""
        definition = None if whole else self.definition
        return loaded_by(self.asset(), self.manager, partition, kind, definition=definition, metadata=metadata)

    def names(self) -> list[str]:
        """What everybody sees in the folder."""
        return sorted(path.name for path in self.folder.glob("*") if not path.name.startswith(("_", ".")))

    def contents(self) -> dict[str, bytes]:
        """Every file that everybody sees, with its bytes."""
        return {
            f"{path.relative_to(self.folder)}": path.read_bytes()
            for name in (self.names() if self.folder.exists() else [])
            for path in ([self.folder / name] if (self.folder / name).is_file() else (self.folder / name).iterdir())
        }


@contextmanager
def refused(files: Files, error: type[Exception], *culprits: str) -> Iterator[None]:
    """The run inside is refused with a class of error that names the culprits, and no file that is seen changes."""
    before = files.contents()
    with pytest.raises(error) as caught:
        yield
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert files.contents() == before


KILLED = """
import sys
from pattern_platform_tests.patterns.idempotency.plain_files import dying
dying(*sys.argv[1:])
"""


def dying(manager: str, *steps: str) -> None:
    """A run for each step, in a process of its own that kills itself where it calls a function.

    Args:
        manager: The class, as ``module:name``.
        steps: For each step the folder, and the owner of the function and its name.
    """
    for root, owner, name in zip(*[iter(steps)] * 3, strict=True):
        if child := os.fork():  # nothing has a thread yet
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), name
            assert os.WTERMSIG(status) == signal.SIGKILL, name
            continue
        try:
            setattr(_found(owner), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            Files(Path(root), _found(manager), dg.StaticPartitionsDefinition(["a", "b"])).write(
                rows_of("a", 9, 9, 9), "a"
            )
        finally:
            os._exit(1)


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def kill(steps: Mapping[tuple[str, str], Files]) -> None:
    """Runs of partition ``a``, each killed where it calls a function of an owner and a name."""
    manager = next(iter(steps.values())).io_manager
    arguments = [text for (owner, name), files in steps.items() for text in (str(files.root), owner, name)]
    command = [sys.executable, "-c", KILLED, f"{manager.__module__}:{manager.__name__}", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


def rows_of(partition: str, *values: int) -> pl.DataFrame:
    return pl.DataFrame({"p": [partition] * len(values), "v": values}, schema={"p": pl.String, "v": pl.Int64})
