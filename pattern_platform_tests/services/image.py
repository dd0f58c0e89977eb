"""The steps of the Dockerfile without a container engine: this machine below, and what they write in a folder.

Each stage is an overlay over the root of this machine, with the Python of the tests at /usr/local, where the official
image has its own. Commands run in it as they are written, by `chroot` in namespaces of their own. So the steps are
those of the image; the Debian and the Python below them are not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "--preserve-env"]
_PYTHON = "/usr/local"  # where the official image has it
_ENOUGH = re.compile(r"^(PATH|HOME|VIRTUAL_ENV|PYTHON.*|DAGSTER.*|PATTERN_PLATFORM.*)$")


class StepError(Exception):
    """A step of the Dockerfile failed."""


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction with its arguments, comments and continued lines taken care of."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, arguments = line.split(maxsplit=1)
        yield name.upper(), arguments


def let_in(checkout: Path, folder: Path) -> None:
    """Copy what `.dockerignore` does not keep out; it is a list of what is let in, and of names that never are."""
    ignored = [line for line in (checkout / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    never = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    for name in (line[1:] for line in ignored if line.startswith("!")):
        source, target = checkout / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=lambda _, names: [n for n in names if any(fnmatch(n, p) for p in never)]
            )
        else:
            shutil.copy2(source, target)


@dataclass
class Stage:
    """One stage of the image, and the image itself once all steps were run.

    Args:
        folder: What it writes.
        environment: Set by ENV.
        arguments: Set by ARG.
        workdir: Set by WORKDIR.
        user: Set by USER.
        settings: The other instructions, by name, as they are written.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    settings: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, *, read_only: Sequence[str] | None = None, seconds: float = 900) -> str:
        """Run a shell command inside; returns what it says.

        Args:
            command: For `sh`.
            read_only: None to write anywhere; else the folders that stay writable beside /tmp, and the network is off.
            seconds: After which it counts as hanging.
        """
        inside = self._script(
            f"exec chroot --userspec={self.user} merged sh -c {shlex.quote(self._at_home(command))}", read_only
        )
        flags = ["--mount", "--pid", "--fork", "--kill-child"] + (["--net"] if read_only is not None else [])
        done = subprocess.run(
            [*_AS_ROOT, "unshare", *flags, "sh", "-ec", inside],
            cwd=self.folder,
            env=self._outside(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise StepError(f"{command}\nended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def copy(self, sources: Sequence[Path], target: str, owner: str) -> None:
        """COPY: files into a folder, and of a folder its content."""
        to = target if target.startswith("/") else f"{self.workdir}/{target}"
        folder = to if target.endswith("/") or sources[0].is_dir() else str(Path(to).parent)
        contents = [f"{source}/." if source.is_dir() else str(source) for source in sources]
        copies = [
            f"mkdir -p merged{shlex.quote(folder)}",
            *(f"cp -rdp {shlex.quote(content)} merged{shlex.quote(to)}" for content in contents),
            f"chown -R {owner} merged{shlex.quote(to)}",
        ]
        subprocess.run(
            [*_AS_ROOT, "unshare", "--mount", "sh", "-ec", self._script("\n".join(copies), None)],
            cwd=self.folder,
            check=True,
        )

    def _outside(self) -> dict[str, str]:
        """What the steps know of this machine: how it reaches its package index, and no more."""
        return {name: value for name, value in os.environ.items() if not _ENOUGH.match(name)} | {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": f"{_PYTHON}/lib",
        }

    def _at_home(self, command: str) -> str:
        known = {**self.arguments, **self.environment}
        exports = [f'export {name}="{value}"' for name, value in known.items()]
        return "\n".join([*exports, f"cd {self.workdir}", command])

    def _script(self, then: str, read_only: Sequence[str] | None) -> str:
        layers = {"root": ("/", ""), "python": (sys.base_prefix, _PYTHON)}
        lines = ["mount --make-rprivate /", "mkdir -p merged"]
        for name, (below, at) in layers.items():
            upper, work = f"$PWD/{name}.written", f"$PWD/{name}.work"
            lines.append(f"mkdir -p {upper} {work}")
            lines.append(f"mount -t overlay overlay -o lowerdir={below},upperdir={upper},workdir={work} merged{at}")
        lines += ["mount -t proc proc merged/proc", "mount --rbind /dev merged/dev", "mount -t tmpfs tmpfs merged/tmp"]
        if read_only is not None:
            for volume in read_only:
                lines += [f"mount --bind merged{volume} merged{volume}"]
            lines += [f"mount -o remount,bind,ro merged{at}" for _, at in layers.values()] + ["ip link set lo up"]
        return "\n".join([*lines, then])


def build(checkout: Path, folder: Path, arguments: Mapping[str, str]) -> Stage:
    """Run the steps of the Dockerfile.

    Args:
        checkout: Where it is.
        folder: What the steps write; on a file system that an overlay can lie on.
        arguments: Build arguments.

    Returns:
        The last stage.
    """
    context = folder / "context"
    let_in(checkout, context)
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for name, text in instructions((checkout / "Dockerfile").read_text()):
        match name:
            case "FROM":
                label = text.split(" AS ")[-1] if " AS " in text else f"stage-{len(stages)}"
                stage = stages[label] = Stage(folder / label)
                stage.folder.mkdir()
            case "ARG":
                key, _, default = text.partition("=")
                stage.arguments[key] = arguments.get(key, default)
            case "ENV":
                stage.environment |= dict(pair.split("=", 1) for pair in text.split())
            case "WORKDIR":
                stage.run(f"mkdir -p {text}")
                stage.workdir = text
            case "USER":
                stage.user = text
            case "RUN":
                stage.run(text)
            case "COPY":
                *words, target = text.split()
                options = dict(word[2:].split("=") for word in words if word.startswith("--"))
                names = [word for word in words if not word.startswith("--")]
                written = stages[options["from"]].folder / "root.written" if "from" in options else context
                stage.copy([written / source.lstrip("/") for source in names], target, options.get("chown", "0:0"))
            case _:
                stage.settings[name] = text
    return stage


def command_of(text: str) -> str:
    """The command of CMD or HEALTHCHECK, for a shell."""
    return shlex.join(json.loads(text[text.index("[") :]))
