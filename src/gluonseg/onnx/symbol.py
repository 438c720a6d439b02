"""``model_symbol.json``: the operators of a model's network, as MXNet writes them, beside its parameters.

With it a model is converted and served where neither MXNet nor the package that declares its network is installed.
The names of the parameters in it are those in the ``.params`` files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gluonseg.errors import ModelError
from gluonseg.files import parse_json_object, read_regular
from gluonseg.models.folder.manifest import SYMBOL_FILE

MAX_BYTES = 8 << 20
"""FCN on resnet-152, the largest here, takes 300 kB."""
_DATA = "data"


@dataclass(frozen=True)
class SymbolNode:
    """An operator (``kind`` is MXNet's name of it), or a parameter or the input (``null``).

    ``inputs`` are the numbers of the nodes that it takes; they all come before it.
    """

    kind: str
    name: str
    attributes: dict[str, str]
    inputs: tuple[int, ...]


def describe_symbol(network: Any) -> str:
    """The JSON of ``network``'s head, without auxiliary head and enlargement, with structural parameter names."""
    import mxnet as mx

    with network.name_scope():  # operators of the network's own get names that do not depend on what ran before
        content = json.loads(network.predict_coarse(mx.sym.var(_DATA)).tojson())
    structural = {one.name: name for name, one in network._collect_params_with_prefix().items()}
    for node in content["nodes"]:
        # Without the prefix, which counts the networks that a process has built.
        node["name"] = structural.get(node["name"], node["name"].removeprefix(network.prefix))
    return json.dumps(content, indent=1) + "\n"


def parse_symbol(data: bytes, source: str) -> list[SymbolNode]:
    """The nodes of a symbol: the picture first, the logits last. ModelError names ``source`` and what is wrong."""
    try:
        content = parse_json_object(data)
        nodes = [_parse_node(node, number) for number, node in enumerate(content["nodes"])]
        heads = [head[:2] for head in content["heads"]]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{source} is damaged or no network of gluonseg: {problem}") from None
    if not nodes or (nodes[0].kind, nodes[0].name) != ("null", _DATA) or heads != [[len(nodes) - 1, 0]]:
        raise ModelError(f"{source} is no network of gluonseg: it must begin with the node 'data' and have one output")
    return nodes


def _parse_node(node: Any, number: int) -> SymbolNode:
    kind, name = node["op"], node["name"]
    if not isinstance(kind, str) or not isinstance(name, str) or not name.isprintable():
        raise ValueError(f"node {number} has no name")
    attributes = {key: str(value) for key, value in node.get("attrs", {}).items()}
    inputs = []
    for source, output, *_ in node["inputs"]:
        if type(source) is not int or not 0 <= source < number:
            raise ValueError(f"node {number} ({name[:60]}) takes node {source!r}, which does not come before it")
        if output != 0:
            raise ValueError(f"node {number} ({name[:60]}) takes output {output!r} of a node; only the first is read")
        inputs.append(source)
    return SymbolNode(kind, name, attributes, tuple(inputs))


def find_symbol(folder: Path) -> Sequence[SymbolNode] | None:
    """The symbol of a model folder; None when it has none. ModelError when it cannot be used."""
    path = folder / SYMBOL_FILE
    try:
        return parse_symbol(read_regular(path, MAX_BYTES, follow=False), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
