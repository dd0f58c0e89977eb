"""The house: dependencies point one way, the library stands without the example, the README's table is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pattern_platform

ROOT = Path(pattern_platform.__file__).parent
CHECKOUT = ROOT.parent
LAYERS = [
    {"errors"},
    {"lake", "warehouse", "orchestration"},
    {"patterns"},
    {"ingestion", "operations"},
    {"settings", "settings_sections", "datasets", "ingested", "upkeep", "resources", "runners"}
    | {"visits", "flights", "dashboards"},
    {"definitions", "demo", "cli", "commands"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(source: str) -> set[str]:
    """The parts of the package that a module imports, ``lake`` for ``pattern_platform.lake.files``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("pattern_platform.")}
    return found


def upward(part: str, source: str) -> set[str]:
    return {name for name in imports(source) if LEVEL[name] > LEVEL[part]}


def test_dependencies_point_one_way() -> None:
    wrong = {}
    for module in ROOT.rglob("*.py"):
        part = module.relative_to(ROOT).parts[0].removesuffix(".py")
        if part != "__init__" and (names := upward(part, module.read_text())):
            wrong[module.relative_to(ROOT).as_posix()] = names
    assert not wrong


def test_the_dashboards_know_no_other_team() -> None:
    for module in (ROOT / "dashboards").glob("*.py"):
        assert not imports(module.read_text()) & {"visits", "flights", "definitions"}, module


def test_an_upward_import_is_found() -> None:
    """The negative control."""
    assert upward("lake", "from pattern_platform.visits.assets import VISITS") == {"visits"}
    assert upward("lake", "from pattern_platform import patterns") == {"patterns"}


def test_the_library_uses_no_private_dagster_and_reads_no_sample() -> None:
    for module in ROOT.rglob("*.py"):
        source = module.read_text()
        assert not re.search(r"dagster\._core|from dagster_\w+\._", source), module
        if module.relative_to(ROOT).parts[0] in {"lake", "warehouse", "orchestration", "patterns", "ingestion"}:
            assert "DAGSTER_HOME" not in source, module
            assert "settings" not in imports(source), module


def test_every_public_name_is_exported() -> None:
    assert set(pattern_platform.__all__) == {
        "AssetTagRunCoordinator",
        "DataOverwriteIOManager",
        "FastMetadataCleanerIOManager",
        "KeyedIdempotencyIOManager",
        "MergerIOManager",
        "PatternPlatformError",
        "PlatformClient",
        "ProxyIOManager",
        "StatefulMergerIOManager",
        "TransactionalWriterIOManager",
        "after_job",
        "aligned_fan_in",
        "concurrent_runner",
        "delta_commit_sensor",
        "exclusive_choice",
        "parallel_split",
        "read_version_table",
        "single_runner",
        "unaligned_fan_in",
        "validate_definitions",
    }
    assert all(hasattr(pattern_platform, name) for name in pattern_platform.__all__)


def test_pattern_modules_open_with_problem_guarantee_and_limits() -> None:
    for module in (ROOT / "patterns").glob("*/*.py"):
        if module.name == "__init__.py":
            continue
        docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
        assert len(docstring.splitlines()) <= 30, module
        for part in ("Problem:", "Guarantee:", "Limits:", "Shown by:"):
            assert part in docstring, (module, part)


def test_pattern_modules_name_assets_that_show_them() -> None:
    from pattern_platform.dashboards.definitions import defs as dashboards  # noqa: PLC0415
    from pattern_platform.definitions import defs as platform  # noqa: PLC0415

    assets = {spec.key.to_user_string() for defs in (platform, dashboards) for spec in defs.resolve_all_asset_specs()}
    for module in (ROOT / "patterns").glob("*/*.py"):
        docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
        named = set(re.findall(r"``(\w+/\w+)``", docstring.partition("Shown by:")[2]))
        assert named <= assets, module


def pattern_rows() -> list[list[str]]:
    """The rows of the README's pattern table: pattern, module, asset, test."""
    lines = (CHECKOUT / "README.md").read_text().splitlines()
    rows = [[re.sub(r"[`\s]", "", cell) for cell in line.split("|")[1:-1]] for line in lines if "patterns/" in line]
    return [row for row in rows if len(row) == 4]


def test_the_readme_names_every_pattern_with_its_module_asset_and_test() -> None:
    from pattern_platform.dashboards.definitions import defs as dashboards  # noqa: PLC0415
    from pattern_platform.definitions import defs as platform  # noqa: PLC0415

    assets = {spec.key.to_user_string() for defs in (platform, dashboards) for spec in defs.resolve_all_asset_specs()}
    rows = pattern_rows()
    modules = {module.stem for module in (ROOT / "patterns").glob("*/*.py") if module.name != "__init__.py"}
    assert {Path(row[1]).stem for row in rows} == modules
    for _, module, asset, test in rows:
        assert (CHECKOUT / module).exists(), module
        assert set(asset.split(",")) <= assets, asset
        assert (CHECKOUT / test).exists(), test
