"""docs/hyperparameters.md, generated from the table that the program itself uses."""

from __future__ import annotations

from gluonseg.hyperparameters import get_specs
from gluonseg.parameter import Spec, format_value

_HEAD = """# Hyperparameters

Names, defaults and ranges are those of SageMaker's built-in Semantic Segmentation algorithm; those marked
**+** are additions. Values may be written as SageMaker passes them: `"16"`, `"True"`, `"10, 20"`. Names that
start with `_` or `sagemaker_` are accepted and, where they are not listed here, not used.

*Made by `gluonseg hyperparameters`; do not edit.*

| name | default | valid | tunable | what it does |
|---|---|---|---|---|"""


def _format_row(name: str, one: Spec) -> str:
    default = "required" if one.required else f"`{format_value(one.default)}`" if one.default not in (None, ()) else "-"
    valid = {bool: "True, False", str: "text"}.get(one.kind, "")
    described = one.describe_range()
    if one.choices or not valid:
        valid = described
    if one.kind is tuple:
        noun = {int: "whole numbers", float: "numbers"}.get(one.item, "names")
        limits = "" if described == "any" else f", each {described}"
        valid = f"{noun} with commas between them{limits}" + "".join(f', or "{word}"' for word in one.words)
    mark = " **+**" if one.beyond else ""
    return f"| `{name}`{mark} | {default} | {valid} | {one.tunable or '-'} | {one.help} |"


def format_table() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *(_format_row(name, one) for name, one in get_specs().items())])
