"""Hosts on this machine: network namespaces on a bridge, each with an address of its own. No traffic leaves the bridge.

It takes root, and ``ip`` of the Debian package iproute2.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PREFIX = "pp"
_NAMESPACES = Path("/run/netns")


class NetworkError(Exception):
    """Hosts cannot be made here."""


@dataclass(frozen=True)
class Host:
    """A network namespace, with a host name of its own.

    Args:
        name: Of the namespace and of the host.
        address: Of its one interface.
        cable: The end of the interface on the bridge.
    """

    name: str
    address: str
    cable: str

    @property
    def prefix(self) -> list[str]:
        """What makes a command one of the host."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named]

    def cut_off(self) -> None:
        """Pull its cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def connect(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.cable, "up")


@dataclass(frozen=True)
class Network:
    """A bridge with hosts.

    Args:
        address: Of this machine, as the hosts reach it.
        hosts: The hosts.
    """

    address: str
    hosts: tuple[Host, ...]


def why_not() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if not shutil.which("ip"):
        return "there is no `ip`: `make test-services` installs iproute2"
    try:
        with network(hosts=1):
            return None
    except NetworkError as error:
        return f"network namespaces take root, as by `sudo make test-services`: {error}"


@contextlib.contextmanager
def network(hosts: int = 2) -> Iterator[Network]:
    """A bridge with hosts, which are gone at the end.

    Raises:
        NetworkError: They cannot be made here.
    """
    for left in _NAMESPACES.glob(f"{_PREFIX}-*-*"):  # by tests that were killed
        _, pid, _ = left.name.split("-")
        if not Path(f"/proc/{int(pid, 16)}").exists():
            _remove(pid, [left.name])
    pid, subnet = f"{os.getpid():x}", f"10.213.{random.SystemRandom().randrange(1, 255)}"
    bridge = f"{_PREFIX}{pid}"
    made = tuple(Host(f"{_PREFIX}-{pid}-{n}", f"{subnet}.{10 + n}", f"{bridge}v{n}") for n in range(hosts))
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            _ip("netns", "add", host.name)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.cable, "master", bridge, "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield Network(f"{subnet}.1", made)
    finally:
        _remove(pid, [host.name for host in made])


def _remove(pid: str, hosts: Sequence[str]) -> None:
    """Remove what a process made, as far as it is there."""
    gone = [("netns", "delete", host) for host in hosts]
    cables = [("link", "delete", f"{_PREFIX}{pid}v{host.rpartition('-')[2]}") for host in hosts]
    for what in (*cables, *gone, ("link", "delete", f"{_PREFIX}{pid}")):
        with contextlib.suppress(NetworkError):
            _ip(*what)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
