"""Checks of what several hosts have in common, and of who can reach them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pattern_platform.errors import PatternPlatformError
from pattern_platform.lake.conditional_put import refuse_unconditional
from pattern_platform.operations.doctor.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform.operations.doctor.deployment import Deployment

_SHARED = {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.ceph", "lustre", "gpfs", "fuse.glusterfs", "beegfs"}
_LISTENING = "0A"  # the state of a socket, as the kernel writes it
_ONE_HOST = "all runs are on this host"
_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671, "http": 80, "https": 443}


def instance_storage(deployment: Deployment) -> Finding:
    """Runs on other hosts reach the history of runs."""
    if not deployment.has_hosts or deployment.has_database:
        return ok(_ONE_HOST if not deployment.has_hosts else "the instance keeps its runs in a database server")
    return failure(
        f"the instance keeps its runs in SQLite files, and {deployment.launcher} starts runs on other hosts",
        why="each host writes a file of its own: the run it executes is unknown there, and it never ends here",
        mend="storage: {postgres: {postgres_db: {...}}} in dagster.yaml, as in deploy/celery_fleet",
    )


def tables(deployment: Deployment) -> Finding:
    """Runs on other hosts reach the Delta tables."""
    if not deployment.has_hosts:
        return ok(_ONE_HOST)
    if not isinstance(deployment.lake, Path):
        return ok(f"tables are on an object store, {deployment.lake}")
    kind = _file_system(deployment.lake)
    if kind in _SHARED:
        return warning(
            f"tables are on a shared file system ({kind})",
            why="commits rest on its locks, which some mounts do not keep between hosts (nolock, local_lock)",
            mend="mount it with locks that all hosts see, or set storage.root_uri of platform.yaml",
        )
    return failure(
        f"tables are on a disk of this host, {deployment.lake}",
        why=f"{deployment.launcher} starts runs on other hosts, each of which would make tables of its own",
        mend="set storage.root_uri of platform.yaml to s3://..., gs://... or az://..., or mount a shared file system",
    )


def local_files(deployment: Deployment) -> Finding:
    """What is no Delta table is on a disk that all hosts see."""
    here = [name for name, folder in deployment.folders.items() if _file_system(folder) not in _SHARED]
    if not deployment.has_hosts or not here:
        return ok(_ONE_HOST if not deployment.has_hosts else "files are on a shared file system")
    return warning(
        f"on a disk of this host: {', '.join(here)}",
        why=f"{deployment.launcher} starts runs on other hosts, which find other files there, or none",
        mend="mount them on every host; or let the assets that use them run on one, by its queue "
        "(tag dagster-celery/queue)",
    )


def compute_logs(deployment: Deployment) -> Finding:
    """What runs print can be read in the UI."""
    if not deployment.has_hosts or deployment.config.get("compute_logs"):
        return ok(_ONE_HOST if not deployment.has_hosts else "there is a store of compute logs")
    return warning(
        "what runs print stays on the host of the run",
        why="the UI shows nothing of it, and the disks of the workers fill",
        mend="set compute_logs in dagster.yaml: a manager of dagster-aws, -azure or -gcp, or NoOpComputeLogManager",
    )


def object_store(deployment: Deployment) -> Finding:
    """The object store keeps conditional puts."""
    if isinstance(deployment.lake, Path):
        return ok("tables are local files; the kernel's lock arbitrates")
    try:
        refuse_unconditional(deployment.lake / "doctor")
    except PatternPlatformError as error:
        return failure(error.what, why=error.why, mend=error.mend)
    return ok(f"{deployment.lake} keeps conditional puts")


def addresses(deployment: Deployment) -> Finding:
    """Nobody but this host reaches webserver, broker and database."""
    urls = {"webserver": deployment.webserver, "broker": deployment.of_launcher("broker")}
    split = {name: urlsplit(url) for name, url in urls.items() if url}
    ports = {url.port or _PORTS.get(url.scheme): name for name, url in split.items()}
    if deployment.database is not None:
        ports[deployment.database.port] = "database"
    open_ = sorted({f"{ports[port]} (port {port})" for port in _listened_to_everywhere() if port in ports})
    if not open_:
        return ok("no server listens on all addresses of this host")
    return warning(
        f"on all addresses of this host: {', '.join(open_)}",
        why="webserver and Redis have no login of their own: whoever reaches them runs code of their choice",
        mend="bind them to 127.0.0.1, or to the private address with a firewall; in containers publish to 127.0.0.1",
    )


def _listened_to_everywhere() -> Iterator[int]:
    """Ports that are listened to on every address, as Linux has it."""
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in file.read_text().splitlines()[1:] if file.exists() else ():
            _, local, _, state, *_ = line.split()
            host, port = local.split(":")
            if state == _LISTENING and not int(host, 16):
                yield int(port, 16)


def _file_system(folder: Path) -> str:
    """The kind of the file system of a folder, as Linux has it."""
    mounts = Path("/proc/mounts")
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    kinds = {Path(point): kind for point, kind in found}
    here = folder.resolve()
    return next((kinds[parent] for parent in (here, *here.parents) if parent in kinds), "unknown")
