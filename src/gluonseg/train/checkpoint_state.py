"""The state of network and optimizer as arrays by name and counts, without pickle, and back again, bit for bit.

Gluon's ``Trainer.save_states`` pickles the optimizer. Here values go into a network and a trainer that were built as
usual, so nothing of a file decides what is built.

Names: ``parameter/<name>`` and ``state/<name>/<number>``, with ``@<device>`` for the values of a further device where
they differ from those of the first: each device has batch statistics of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mxnet as mx
import numpy.typing as npt

Array = npt.NDArray[Any]


def collect_arrays(network: Any, trainer: Any) -> dict[str, Any]:
    """Parameters and optimizer states as NDArrays by name."""
    arrays: dict[str, Any] = {}
    for name, parameter in network._collect_params_with_prefix().items():
        arrays |= _name_copies(f"parameter/{name}", parameter.list_data())
    names = _name_indices(network, trainer)
    updaters = _find_updaters(trainer)
    for index in updaters[0].states:
        by_updater = [_flatten(updater.states[index]) for updater in updaters if index in updater.states]
        for number, copies in enumerate(zip(*by_updater, strict=True)):
            arrays |= _name_copies(f"state/{names[index]}/{number}", copies)
    return arrays


def collect_counts(network: Any, trainer: Any) -> dict[str, Any]:
    """How often the optimizer has updated each parameter, as JSON: adam's correction depends on it."""
    names = _name_indices(network, trainer)
    optimizer = trainer._optimizer
    counts = {
        str(device): {names[index]: int(count) for index, count in of_device.items()}
        for device, of_device in optimizer._all_index_update_counts.items()
    }
    return {"num_update": int(optimizer.num_update), "updates": counts}


def restore_state(network: Any, trainer: Any, arrays: Mapping[str, Array], counts: Mapping[str, Any]) -> None:
    """Put back what :func:`collect_arrays` and :func:`collect_counts` gave; the trainer has made no update yet."""
    parameters = network._collect_params_with_prefix()
    for name, parameter in parameters.items():
        for data in parameter.list_data():
            data[:] = _as_nd(arrays[f"parameter/{name}"])
    # As the first update does: the store of several devices takes its own copies from the first one.
    trainer._init_kvstore()
    trainer._init_params()
    for name, parameter in parameters.items():
        for device, data in enumerate(parameter.list_data()):
            if (own := arrays.get(f"parameter/{name}@{device}")) is not None:
                data[:] = _as_nd(own)
    optimizer, names = trainer._optimizer, _name_indices(network, trainer)
    updates = {
        int(device): {index: of_device[name] for index, name in names.items() if name in of_device}
        for device, of_device in counts["updates"].items()
    }
    optimizer._all_index_update_counts = {0: {}, **updates}
    optimizer._index_update_count = optimizer._all_index_update_counts[0]
    optimizer.num_update = counts["num_update"]
    # A parameter that was updated has states, if the optimizer keeps any; the others have none.
    updated = {index for of_device in updates.values() for index in of_device}
    for device, updater in enumerate(_find_updaters(trainer)):
        for index in updated:
            weight = trainer._params[index].list_data()[device]
            updater.states[index] = optimizer.create_state_multi_precision(index, weight)
            # The updater moves it to where the weight is, before it uses it.
            updater.states_synced[index] = False
            for number, leaf in enumerate(_flatten(updater.states[index])):
                key = f"state/{names[index]}/{number}"
                leaf[:] = _as_nd(arrays.get(f"{key}@{device}", arrays[key]))
    mx.nd.waitall()


def _name_indices(network: Any, trainer: Any) -> dict[int, str]:
    """The trainer's numbers of the parameters -> their names in the network, which no counter is part of."""
    names = {parameter.name: name for name, parameter in network._collect_params_with_prefix().items()}
    return {index: names[parameter.name] for index, parameter in enumerate(trainer._params)}


def _find_updaters(trainer: Any) -> list[Any]:
    """Where the optimizer's states are: with the store of several devices, or with each device."""
    if trainer._kvstore is not None and trainer._update_on_kvstore:
        return [trainer._kvstore._updater]
    return list(trainer._updaters)


def _flatten(state: Any) -> list[Any]:
    """The arrays of a state: None, an array, or (nested) tuples of these."""
    if state is None:
        return []
    if isinstance(state, tuple | list):
        return [leaf for item in state for leaf in _flatten(item)]
    return [state]


def _name_copies(name: str, copies: Any) -> Iterator[tuple[str, Any]]:
    """The first device's copy of an array by name, and each other one that differs from it."""
    first, *others = copies
    yield name, first
    if others:
        values = first.asnumpy().tobytes()
        for device, other in enumerate(others, 1):
            if other.asnumpy().tobytes() != values:
                yield f"{name}@{device}", other


def _as_nd(array: Array) -> Any:
    return mx.nd.array(array, dtype=array.dtype)
