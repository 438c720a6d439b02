"""Starting the web application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flask import Flask

from gluonseg.app.models import MAX_WAITING, OfferedModels, find_sources, load_models
from gluonseg.app.web import create_app
from gluonseg.errors import UserError
from gluonseg.serve.answer import LOGGER, configure_log
from gluonseg.serve.model import Load, load_model
from gluonseg.serve.server import run_application
from gluonseg.serve.settings import Settings

DEMO_MODEL = Path("/usr/local/share/gluonseg/demo")
"""The model that the image carries, trained on drawn photos."""


def run_app(
    paths: Sequence[Path],
    settings: Settings,
    *,
    examples: Path | None = None,
    per_minute: int = 0,
    load: Load = load_model,
) -> int:
    """Serve the page until SIGTERM or SIGINT; return the exit code, as :func:`gluonseg.serve.server.run_server`.

    Without ``paths`` the model of ``settings`` is offered, or that of the image. One address may send ``per_minute``
    photos in a minute; 0 is no limit.

    Raises:
        UserError: there is no model, see :func:`gluonseg.app.models.find_sources`.
    """
    configure_log()
    sources = find_sources(paths or [_find_default(settings)], examples)
    # The models of one page are rarely asked at once, so each has one process, which computes on all cores.
    settings = replace(settings, workers=1, max_requests=MAX_WAITING)

    def build(signals: list[int]) -> tuple[OfferedModels, Flask]:
        models = load_models(sources, settings, load)
        models.wait(signals)
        if models.exit_code is None and not signals:
            host = "localhost" if settings.host in ("0.0.0.0", "127.0.0.1", "::") else settings.host
            LOGGER.info("open http://%s:%d in a browser", host, settings.port)
        is_demo = sources[0].path == DEMO_MODEL
        return models, create_app(models, settings, per_minute, is_demo=is_demo)

    return run_application(settings, build, MAX_WAITING * len(sources))


def _find_default(settings: Settings) -> Path:
    for path in (settings.model_path, DEMO_MODEL):
        if path.is_dir() and any(path.iterdir()):
            return path
    raise UserError(
        "no model is named: gluonseg app MODEL takes a model folder, a model.tar.gz or what compare wrote; "
        'in a container mount it, -v "$PWD/job:/opt/ml" with the model in job/model'
    )
