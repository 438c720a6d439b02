"""The web application with stand-ins for its models: ``stand_in_app.py FOLDER...``.

The model in a folder called ``inverse`` gives bright pixels the class that others give dark ones.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from gluonseg.app.run import run_app
from gluonseg.labels import UInt8Array
from gluonseg.serve.settings import Settings, read_settings
from stand_in import StandIn


class Inverse(StandIn):
    """Class 1 where the picture is dark."""

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        return 1 - super().predict_mask(image_hwc)


def load(settings: Settings) -> StandIn:
    """What the process with the model calls."""
    return Inverse() if settings.model_path.name == "inverse" else StandIn()


if __name__ == "__main__":
    settings = dataclasses.replace(read_settings(os.environ), host="127.0.0.1")
    sys.exit(run_app([Path(name) for name in sys.argv[1:]], settings, load=load))
