"""The routes of the web application: pages for people, and an API for programs, see ``openapi.json``."""

from __future__ import annotations

import base64
import io
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, render_template, request
from PIL import Image
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import NotFound

from gluonseg import __version__
from gluonseg.app.limits import RateLimit
from gluonseg.app.models import EXAMPLE_TYPES, OfferedModel, OfferedModels
from gluonseg.data.decode import (
    LARGEST_MAX_PIXELS,
    decode_image,
    decode_label,
    find_orientation,
    read_bytes,
    turn_upright,
)
from gluonseg.errors import BadRequestError, BusyError
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.formats import compute_shares
from gluonseg.report.comparison import Comparison
from gluonseg.report.one_model import build_record, list_card_scores
from gluonseg.report.run_facts import find_settings
from gluonseg.serve.answer import STOPPING, build_retry_header, encode_error
from gluonseg.serve.app import build_flask, describe_error
from gluonseg.serve.media import OVERLAY, PNG, check_content_type, negotiate_accept
from gluonseg.serve.settings import Settings

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KEPT = {"Cache-Control": "private, max-age=3600"}
_THUMBNAIL_SIDE = 160
_TITLES = {404: "There is no such page", 413: "This photo is too large", 500: "Something went wrong here"}


def create_app(models: OfferedModels, settings: Settings, per_minute: int = 0, *, is_demo: bool = False) -> Flask:
    """Build the application for ``models``, all of which have been loaded.

    One address may send ``per_minute`` photos in a minute; 0 is no limit. With ``is_demo`` the page says that the model
    is the image's own, and how to bring another.
    """
    app = build_flask("gluonseg.app", settings, "see /api/openapi.json", static_folder="static")
    rate = RateLimit(per_minute)
    app.config["ENCODE_ERROR"] = partial(encode_failure, app)
    app.after_request(_add_headers)

    def find_model(name: str) -> OfferedModel:
        if name not in models:
            raise NotFound
        return models[name]

    def find_example(number: int) -> Path:
        if number >= len(models.examples):
            raise NotFound
        return models.examples[number]

    def describe() -> dict[str, Any]:
        limits = {"max_mb": settings.max_payload_mb, "max_megapixels": settings.max_pixels / 1e6}
        return {"models": models.describe(), "limits": limits}

    def show_page(*, result: dict[str, Any] | None = None, error: str | None = None) -> str:
        more = {"result": result, "error": error, "is_demo": is_demo}
        return render_template("page.html", **describe(), version=__version__, **more)

    @app.get("/ping")
    def ping() -> Response:
        for one in models.values():
            one.model.check_ready()
        if models.is_stopping:
            raise BusyError(STOPPING)
        return Response(status=200)

    @app.get("/")
    def show_start() -> str:
        return show_page()

    @app.post("/")
    def predict_without_script() -> str | Response:
        try:
            photo = request.files.get("photo")
            if photo is None or not photo.filename:
                raise BadRequestError("no photo was chosen: choose one first")
            rate.check(request.remote_addr or "")
            return show_page(result=_predict_overlay(find_model(request.form.get("model", "")), photo))
        except Exception as error:
            status, text = describe_error(error)
            return Response(show_page(error=text), status, build_retry_header(status))

    @app.get("/models/<name>")
    def show_model(name: str) -> str:
        model = find_model(name)
        return render_template("model.html", version=__version__, **_describe_card(model))

    @app.get("/models/<name>/curves.png")
    def send_curves(name: str) -> Response:
        curves = find_model(name).find_curves()
        return Response(curves.read_bytes(), content_type="image/png") if curves else abort(404)

    @app.get("/examples/<int:number>")
    def send_example(number: int) -> Response:
        photo = find_example(number)
        return Response(photo.read_bytes(), content_type=EXAMPLE_TYPES[photo.suffix.lower()], headers=_KEPT)

    @app.get("/examples/<int:number>/thumbnail")
    def send_thumbnail(number: int) -> Response:
        return Response(_draw_thumbnail(find_example(number)), content_type="image/jpeg", headers=_KEPT)

    @app.get("/api/models")
    def list_models() -> dict[str, Any]:
        return describe()

    @app.get("/api/openapi.json")
    def send_api() -> Response:
        return Response(Path(__file__).with_name("openapi.json").read_bytes(), content_type="application/json")

    @app.post("/api/models/<name>/prediction")
    def predict(name: str) -> Response:
        model = find_model(name).model
        rate.check(request.remote_addr or "")
        model.check_ready()
        check_content_type(request.headers.get("Content-Type"))
        g.note = media_type = negotiate_accept(request.headers.get("Accept"), PNG)
        response = Response(model.predict(request.get_data, media_type), content_type=media_type)
        response.headers["X-Orientation"] = str(find_orientation(request.get_data()))
        return response

    return app


@lru_cache(maxsize=256)
def _draw_thumbnail(photo: Path) -> bytes:
    """A small JPEG of a photo, upright."""
    data = read_bytes(photo)
    picture = Image.fromarray(decode_image(data, photo.name, max_pixels=LARGEST_MAX_PIXELS))
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    file = io.BytesIO()
    turn_upright(picture, find_orientation(data)).save(file, "JPEG", quality=80)
    return file.getvalue()


def _predict_overlay(model: OfferedModel, photo: FileStorage) -> dict[str, Any]:
    """What the page shows of a photo that a form has sent."""
    data = photo.read()
    overlay = model.model.predict(lambda: data, OVERLAY)
    mask = decode_label(model.model.predict(lambda: data, PNG), "the mask")
    classes = {one["name"]: one for one in model.describe()["classes"]}
    shares = compute_shares(mask, model.card.class_names)
    return {
        "model": model.source.name,
        "file_name": photo.filename,
        "overlay": f"data:image/png;base64,{base64.b64encode(overlay).decode()}",
        "width": mask.shape[1],
        "height": mask.shape[0],
        "shares": [{**classes[name], "percent": 100 * share} for name, share in shares.items()],
        "is_turned": find_orientation(data) != 1,
    }


def _describe_card(model: OfferedModel) -> dict[str, Any]:
    """What the page about a model shows."""
    card, described = model.card, model.describe()
    scores = list_card_scores(card)
    classes = scores[0].classes if scores else {}
    return {
        "model": described,
        "facts": _find_facts(card, model.source.path),
        "scores": [
            {"scored_on": one.scored_on, "means": {title: f"{value:.4f}" for title, value in one.means.items()}}
            for one in scores
        ],
        "class_scores": [
            {"name": one["name"], "colour": one["colour"], "iou": _format_iou(classes.get(one["name"]))}
            for one in described["classes"]
        ],
        "curves": f"/models/{model.source.name}/curves.png" if model.find_curves() else None,
    }


def _find_facts(card: ModelCard, path: Path) -> dict[str, str]:
    """What the card tells of the training, as text by title."""
    data, metrics = card.data, card.metrics
    facts = {"Network": card.title, "Classes": str(card.num_classes)}
    if "num_training_samples" in data:
        facts["Trained on"] = f"{data['num_training_samples']} photos"
    if "num_validation_samples" in data:
        facts["Judged on"] = f"{data['num_validation_samples']} other photos"
    if "epochs" in metrics:
        facts["Epochs"] = f"{metrics['epochs']}, the best is number {metrics.get('best_epoch', '?')}"
    if card.prediction_size:
        facts["Size in the network"] = f"{card.prediction_size} pixels on the long side"
    settings = find_settings(Comparison(path, {}, [build_record(card, path)], {}))
    facts["Hyperparameters"] = ", ".join(f"{one.name} {one.value}" for one in settings)
    facts["Made with"] = ", ".join(f"{name} {card.versions[name]}" for name in card.versions)
    return {title: text for title, text in facts.items() if text}


def _format_iou(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def encode_failure(app: Flask, status: int, text: str, path: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Encode an error: one line of JSON for programs, and for people a page that says what to do."""
    if path.startswith("/api/") or path == "/ping":
        body, headers = encode_error(status, text)
        return body, [*headers, *_HEADERS.items()]
    if status == 404:
        text = "go to the first page for the models and a place to drop photos"
    title = _TITLES.get(status, "This request cannot be answered")
    page = app.jinja_env.get_template("error.html").render(version=__version__, status=status, title=title, text=text)
    headers = [("Content-Type", "text/html; charset=utf-8"), *build_retry_header(status), *_HEADERS.items()]
    return page.encode(), headers


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
