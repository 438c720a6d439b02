"""One host of several on the loopback interface: ``host_program.py WORK HOST NAMES``. tests/test_hosts.py starts it.

``sum`` adds up vectors until it is ended, ``work EVENT`` three of them, before the second of which the event happens,
and ``steps FOLDER`` trains a network for 20 steps, twice, and saves its parameters.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import DataError, UserError
from gluonseg.sagemaker import hosts
from gluonseg.sagemaker.stop_signal import stopping_job
from gluonseg.train.group import Group
from gluonseg.train.stop import Stop, Stopped

RATE = 0.001
"""At twenty times this rate 20 steps turn a difference in the last digit into one in the third."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def end(host: str, text: str, code: int) -> None:
    say(f"END {host}: {text}")
    os._exit(code)


def add_up(group: Group, stop: Stop, event: str) -> None:
    for number in range(3) if event else iter(int, 1):
        if number == 1 and event == "fail" and group.rank == 1:
            raise DataError("a mask is gone")
        if number == 1 and event == "disagree":
            group.check_same({"learning_rate": f"0.{group.rank}", "seed": "0"})
        if number == 1 and event == "fail together":
            try:
                group.run_together(lambda: 1 // (1 - group.rank))
            except (ZeroDivisionError, UserError) as error:
                say(f"{type(error).__name__}: {error}")
        stop.check()
        vector = np.full(1000, group.rank + 1, np.float32)
        group.all_reduce(vector)
        assert (vector == group.size * (group.size + 1) / 2).all()
        assert group.all_gather(group.rank) == list(range(group.size))
        time.sleep(0.05)


def make_steps(group: Group, file: Path, num_devices: int = 1) -> None:
    """Train on this host's part of 20 batches; each host has another number of scored pixels.

    All begin with the parameters in ``start.params``, which the first call writes.
    """
    import mxnet as mx

    from gluonseg.data.loader import Batch, Share
    from test_step import build_steady, draw_batch, parse_tiny, read_values

    devices, start = [mx.cpu(number) for number in range(num_devices)], file.with_name("start.params")
    network, stepper = build_steady(devices, parse_tiny(momentum="0.9"), group if group.size > 1 else None)
    if start.exists():
        network.load_parameters(str(start), ctx=devices)
    else:
        network.save_parameters(str(start))
    part = Share(group.rank, group.size)
    for number in range(20):
        batch = draw_batch(5, 24, number)
        own = part.cut(5)
        stepper.update(Batch(batch.images[own.start : own.stop], batch.class_ids[own.start : own.stop]), RATE)
    values: dict[str, Any] = dict(read_values(network))
    np.savez(file, **values)


def main(work: str, host: str, names: Sequence[str], argument: str = "") -> None:
    logging.basicConfig(level=logging.WARNING)
    hosts._SILENCE_S, hosts._PULSE_S = 3.0, 0.2
    stop = Stop()
    with stopping_job(stop), hosts.joining_hosts(names, host, "lo", (), stop, end) as group:
        say("JOINED")
        if work == "steps":
            for turn in range(2):
                # Two hosts have two devices each.
                make_steps(group, Path(argument) / f"{len(names)}-{host}-{turn}.npz", 4 - len(names))
        else:
            add_up(group, stop, argument)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), *sys.argv[4:])
    except Stopped:
        say("STOPPED")
    except UserError as error:
        say(str(error))
        sys.exit(error.exit_code)
