"""Asset tags on every run, so that the limits of the run queue bind however a run is launched.

Dagster does not copy the tags of an asset to the runs that materialize it (dagster issues 33430, 15752, 8979), and the
queue counts the tags of runs alone: "Materialize" in the UI escapes a limit. Every launch passes ``submit_run``.

In ``dagster.yaml``::

    run_coordinator:
      module: pattern_platform.orchestration.run_coordinator
      class: AssetTagRunCoordinator
      config:
        tag_concurrency_limits:
          - {key: concurrent_runner/ingestion, limit: 3}
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from dagster import Field, QueuedRunCoordinator

from pattern_platform.orchestration.json_logs import install

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dagster import DagsterRun, SubmitRunContext

NAMESPACE = "pattern_platform/namespace"
_OWN = ("namespace", "logs")
_NOT_OF_RUNS = "dagster/kind/"  # what an asset is made of, stored as tags
_KUBERNETES = "dagster-k8s/config"  # no asset tag can hold it: their values are short words


class AssetTagRunCoordinator(QueuedRunCoordinator):
    """A ``QueuedRunCoordinator`` that gives a run the tags of the assets it materializes.

    Its config is the same; with ``namespace``, of which every run carries the tag :data:`NAMESPACE`, and with ``logs``,
    the folder of the JSON logs.

    A tag that was given at launch stays, unless its key has a limit: then the asset's counts. Where assets of one run
    differ in a tag, the run gets none of them; where the key has a limit, the run is failed with a message, because
    one run cannot be counted under two values. A limit on a key of its own, as the runners have, knows no such case.

    The metadata ``dagster-k8s/config`` of an asset, what its pod asks for, becomes a tag likewise: ``K8sRunLauncher``
    reads that of runs alone.

    Daemon and webserver load it, so it is here that they begin to write their logs where those of the runs are.
    """

    namespace_tag: Mapping[str, str] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The config of its base, and its own."""
        own = {name: Field(str, is_required=False) for name in _OWN}
        return {**cast("dict[str, Any]", super().config_type()), **own}

    @classmethod
    def from_config_value(
        cls,
        inst_data: Any,  # noqa: ANN401 - no public type
        config_value: Mapping[str, Any],
    ) -> AssetTagRunCoordinator:
        """Made by an instance, as ``dagster.yaml`` says; the base takes what it knows."""
        base = {name: value for name, value in config_value.items() if name not in _OWN}
        made = cast("AssetTagRunCoordinator", super().from_config_value(inst_data, base))
        namespace, logs = (config_value.get(name) for name in _OWN)
        made.namespace_tag = {NAMESPACE: namespace} if namespace else {}
        if namespace and logs:
            install(logs, namespace)
        return made

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag a run, then enqueue it."""
        run, graph = context.dagster_run, context.workspace.asset_graph
        # A run of a whole job names no assets. Jobs of one name in two locations bring their tags together.
        selected = run.asset_selection or (
            graph.get_materialization_asset_keys_for_job(run.job_name) if run.asset_check_selection is None else ()
        )
        limited = {limit["key"] for limit in self.get_run_queue_config().tag_concurrency_limits}
        assets = [graph.get(key) for key in selected if graph.has(key)]
        tags = _values([*(asset.tags for asset in assets), *(_resources(asset.metadata) for asset in assets)])
        if disputed := [key for key, values in tags.items() if len(values) > 1 and key in limited]:
            key = disputed[0]
            self._instance.report_run_failed(
                run,
                f"The run was refused: its assets carry different values of the tag {key!r}, which has a limit: "
                f"{', '.join(sorted(tags[key]))}. Launch them in runs of their own, or limit a key for each.",
            )
            return self._instance.get_run_by_id(run.run_id) or run
        added = {
            key: next(iter(values))
            for key, values in tags.items()
            if len(values) == 1 and (key in limited or key not in run.tags)
        } | dict(self.namespace_tag)
        if added:
            self._instance.add_run_tags(run.run_id, added)
        return super().submit_run(context)


def _resources(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a pod of the asset asks for, as ``K8sRunLauncher`` reads it."""
    return {key: json.dumps(metadata[key].value, sort_keys=True) for key in (_KUBERNETES,) if key in metadata}


def _values(tags: Iterable[Mapping[str, str]]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for of_asset in tags:
        for key, value in of_asset.items():
            if not key.startswith(_NOT_OF_RUNS):
                values.setdefault(key, set()).add(value)
    return values
