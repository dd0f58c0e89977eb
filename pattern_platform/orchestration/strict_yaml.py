"""YAML as people mean it: a key that is there twice is a mistake, and the file is a mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable


class _Loader(yaml.SafeLoader):
    """A loader that refuses what the YAML specification refuses, and PyYAML lets pass: equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as PyYAML has it
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                message = f"{key!r} is there twice, in line {key_node.start_mark.line + 1}"
                raise yaml.YAMLError(message)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_mapping(text: str) -> dict[str, Any]:
    """The content of a YAML file; an empty one has none.

    Args:
        text: The file.

    Raises:
        yaml.YAMLError: It is no YAML, no mapping of texts, or has a key twice.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, TypeError) as error:  # such as a day that no month has
        raise yaml.YAMLError(str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        message = "it is no mapping of keys, each a text, to values"
        raise yaml.YAMLError(message)
    return content
