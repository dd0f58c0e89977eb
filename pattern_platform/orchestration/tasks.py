"""What a piece of work is: its parameters, apart from its data, with a key that is the same whoever computes it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Task:
    """Parameters of a piece of work. Subclasses are frozen dataclasses whose fields are texts, numbers or tuples."""

    @property
    def key(self) -> str:
        """SHA-256 of the kind of work and its parameters, the same in every process and version of Python."""
        parameters = json.dumps([type(self).__name__, asdict(self)], sort_keys=True, ensure_ascii=False)
        return sha256(parameters.encode()).hexdigest()
