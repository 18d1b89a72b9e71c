"""YAML as people write it: whatever is wrong with it is one kind of error."""

from typing import Any

import yaml

from heterofl_core.errors import InputError


class UniqueNames(yaml.SafeLoader):
    """Refuses a name that stands twice in a mapping, as the standard demands; PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises a `ConstructorError` that names both lines."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":  # which may merge several
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                problem = f"{key.value!r} stands in line {lines[key.value]}, and again"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value that a text is in YAML.

    Raises:
        InputError: it is not YAML, holds a date that does not exist, or names a thing twice; the message goes
            on after "... is not YAML: ".
    """
    try:
        return yaml.load(text, Loader=UniqueNames)
    except (yaml.YAMLError, ValueError) as error:  # a number or a date that is none
        raise InputError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise InputError("it is nested too deeply") from error
