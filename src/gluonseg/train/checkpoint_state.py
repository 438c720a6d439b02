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
import numpy as np
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
    """How often the optimizer has updated what, as JSON: adam's correction depends on it."""
    names = _name_indices(network, trainer)
    optimizer = trainer._optimizer
    counts = {
        str(device): {names[index]: int(count) for index, count in of_device.items()}
        for device, of_device in optimizer._all_index_update_counts.items()
    }
    return {"num_update": int(optimizer.num_update), "updates": counts}


def restore_state(network: Any, trainer: Any, arrays: Mapping[str, Array], counts: Mapping[str, Any]) -> None:
    """Put back what :func:`collect_arrays` and :func:`collect_counts` gave; the trainer has made no update yet.

    Raises ValueError, before anything is changed, when they are not those of this network and this optimizer.
    """
    parameters = network._collect_params_with_prefix()
    _check_parameters(parameters, arrays)
    _check_counts(network, trainer, counts)
    _check_states(network, trainer, arrays, counts)
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
    _restore_counts(network, trainer, counts)
    for device, updater in enumerate(_find_updaters(trainer)):
        _restore_states(network, trainer, updater, device, arrays)
    mx.nd.waitall()


def _check_parameters(parameters: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    names = {name.partition("@")[0] for name in arrays if name.startswith("parameter/")}
    if names != {f"parameter/{name}" for name in parameters}:
        raise ValueError("its parameters are not those of the network")
    for key, array in arrays.items():
        if key.startswith("parameter/"):
            data = parameters[key.removeprefix("parameter/").partition("@")[0]].list_data()[0]
            _check_fits(key, array, data)
    if missing := [name for name in parameters if f"parameter/{name}" not in arrays]:
        raise ValueError(f"it lacks parameter/{missing[0]}")


def _check_counts(network: Any, trainer: Any, counts: Mapping[str, Any]) -> None:
    names, devices = set(_name_indices(network, trainer).values()), range(len(trainer._contexts))
    for device, of_device in counts["updates"].items():
        if int(device) not in devices or not of_device.keys() <= names:
            raise ValueError("its update counts are not those of the network on its devices")
    numbers = [counts["num_update"], *(count for each in counts["updates"].values() for count in each.values())]
    if not all(type(number) is int and number >= 0 for number in numbers) or max(numbers[1:], default=0) != numbers[0]:
        raise ValueError("its update counts do not fit together")


def _check_states(network: Any, trainer: Any, arrays: Mapping[str, Array], counts: Mapping[str, Any]) -> None:
    """All that was updated has whole states, nothing else has any: else the training would not go on exactly."""
    updated = {name for of_device in counts["updates"].values() for name in of_device}
    needed: dict[str, Any] = {}
    for index, name in _name_indices(network, trainer).items():
        if name in updated:
            weight = trainer._params[index].list_data()[0]
            leaves = _flatten(trainer._optimizer.create_state_multi_precision(index, weight))
            needed |= {f"state/{name}/{number}": leaf for number, leaf in enumerate(leaves)}
    keys = {key: key.partition("@")[0] for key in arrays if key.startswith("state/")}
    wrong = sorted(needed.keys() ^ set(keys.values()))
    if wrong:
        raise ValueError(f"of the optimizer's states it lacks, or has without an update, {wrong[0]}")
    for key, name in keys.items():
        _check_fits(key, arrays[key], needed[name])
    missing = needed.keys() - keys.keys()
    if missing:
        raise ValueError(f"it lacks {min(missing)}")


def _check_fits(name: str, array: Array, target: Any) -> None:
    if array.shape != target.shape or array.dtype != np.dtype(target.dtype):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {np.dtype(target.dtype)} {target.shape}")


def _restore_counts(network: Any, trainer: Any, counts: Mapping[str, Any]) -> None:
    optimizer = trainer._optimizer
    indices = {name: index for index, name in _name_indices(network, trainer).items()}
    restored = {
        int(device): {indices[name]: int(count) for name, count in of_device.items()}
        for device, of_device in counts["updates"].items()
    }
    optimizer._all_index_update_counts = {0: {}, **restored}
    optimizer._index_update_count = optimizer._all_index_update_counts[0]
    optimizer.num_update = int(counts["num_update"])


def _restore_states(network: Any, trainer: Any, updater: Any, device: int, arrays: Mapping[str, Array]) -> None:
    names = _name_indices(network, trainer)
    for index, name in names.items():
        if f"state/{name}/0" not in arrays:
            continue  # it has not been updated yet, or the optimizer keeps nothing
        weight = trainer._params[index].list_data()[device]
        updater.states[index] = trainer._optimizer.create_state_multi_precision(index, weight)
        # The updater moves it to where the weight is, before it uses it.
        updater.states_synced[index] = False
        for number, leaf in enumerate(_flatten(updater.states[index])):
            key = f"state/{name}/{number}"
            leaf[:] = _as_nd(arrays.get(f"{key}@{device}", arrays[key]))


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
    first, *others = copies
    yield name, first
    if others:
        values = first.asnumpy().tobytes()
        for device, other in enumerate(others, 1):
            if other.asnumpy().tobytes() != values:
                yield f"{name}@{device}", other


def _as_nd(array: Array) -> Any:
    return mx.nd.array(array, dtype=array.dtype)
