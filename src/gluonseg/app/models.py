"""The models that the web application offers, each in a process of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gluonseg.errors import UserError
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.overlay import UNTINTED, choose_card_colours, format_colour
from gluonseg.report.one_model import CURVES_PICTURE, find_model
from gluonseg.report.record import COMPARISON_FILE, FINISHED, RUNS_FOLDER, read_record
from gluonseg.serve.model import Load, Model, load_model
from gluonseg.serve.settings import Settings

EXAMPLES_FOLDER, MAX_EXAMPLES = "examples", 12
EXAMPLE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
MAX_WAITING = 8
"""Requests to one model that are computed or wait."""
_TICK_S = 0.05


@dataclass(frozen=True)
class Source:
    """A model folder or archive, the name it is offered under, and photos to try it with."""

    name: str
    path: Path
    examples: Sequence[Path] = ()


@dataclass(frozen=True)
class OfferedModel:
    """A source with the processes that answer for it."""

    source: Source
    model: Model

    @property
    def card(self) -> ModelCard:
        """The model's card. Raises BusyError before the model has been loaded."""
        if self.model.card is None:
            self.model.check_ready()
        assert self.model.card is not None
        return self.model.card

    def find_curves(self) -> Path | None:
        """The PNG file of its training's curves, where the folder has one."""
        path = self.source.path / CURVES_PICTURE
        return path if path.is_file() else None

    def describe(self) -> dict[str, Any]:
        """What the page needs of it, as plain values. A class that is not tinted has the colour None."""
        name, card = self.source.name, self.card
        classes = zip(card.class_names, choose_card_colours(card), strict=True)
        return {
            "name": name,
            "title": card.title,
            "classes": [
                {"id": class_id, "name": class_name, "colour": None if colour == UNTINTED else format_colour(colour)}
                for class_id, (class_name, colour) in enumerate(classes)
            ],
            "card": f"/models/{name}",
        }


class OfferedModels(Mapping[str, OfferedModel]):
    """Every model by its name, in the order in which they were given."""

    def __init__(self, models: Iterable[OfferedModel]) -> None:
        self._models = {one.source.name: one for one in models}
        self.examples = list(dict.fromkeys(photo for one in self.values() for photo in one.source.examples))
        """The photos to try of all models, each once."""

    def __getitem__(self, name: str) -> OfferedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def describe(self) -> list[dict[str, Any]]:
        """What the page needs of each; where two have one title, their names are added to it."""
        numbers = {photo: number for number, photo in enumerate(self.examples)}
        described = [
            {**one.describe(), "examples": [f"/examples/{numbers[photo]}" for photo in one.source.examples]}
            for one in self.values()
        ]
        titles = Counter(one["title"] for one in described)
        return [
            one if titles[one["title"]] == 1 else {**one, "title": f"{one['title']}, {one['name']}"}
            for one in described
        ]

    @property
    def exit_code(self) -> int | None:
        """Not None once one of them cannot be served any more."""
        return next((one.model.exit_code for one in self.values() if one.model.exit_code is not None), None)

    @property
    def is_stopping(self) -> bool:
        """Whether the server is about to end."""
        return any(one.model.is_stopping for one in self.values())

    @is_stopping.setter
    def is_stopping(self, value: bool) -> None:
        for one in self.values():
            one.model.is_stopping = value

    def close(self) -> None:
        """Refuse all requests and end the processes."""
        for one in self.values():
            one.model.close()

    def wait(self, signals: Sequence[int]) -> None:
        """Wait until all are loaded, one of them cannot be, or there is a signal."""
        while self.exit_code is None and not signals and any(one.model.card is None for one in self.values()):
            time.sleep(_TICK_S)


def load_models(sources: Sequence[Source], settings: Settings, load: Load = load_model) -> OfferedModels:
    """Begin to load all of them, each with ``settings`` of its own path."""
    return OfferedModels(
        OfferedModel(source, Model(replace(settings, model_path=source.path), load)) for source in sources
    )


def find_sources(paths: Sequence[Path], examples: Path | None = None) -> list[Source]:
    """The models in ``paths``: model folders, archives, runs or jobs, and comparisons, which hold several.

    A model is called as its folder; where that is ``model``, as the folder around it. ``examples`` is a folder of
    photos to try; without it, that of each model, where it has one.

    Raises:
        UserError: a path holds no model, two models have one name, or there are no photos in ``examples``.
    """
    found: dict[str, Path] = {}
    for path in (model.absolute() for given in paths for model in _iter_models(given)):
        name = _choose_name(path)
        if found.setdefault(name, path) != path:
            raise UserError(f"two models are called {name}, {found[name]} and {path}: rename one of the folders")
    photos = _find_examples(examples) if examples else []
    if examples and not photos:
        raise UserError(f"--examples {examples} has no photo ({', '.join(EXAMPLE_TYPES)})")
    return [Source(name, path, photos or _find_examples(path / EXAMPLES_FOLDER)) for name, path in found.items()]


def _iter_models(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist; name a model folder, a model.tar.gz or what compare wrote")
    if (path / COMPARISON_FILE).is_file():
        records = ((run, read_record(run)) for run in sorted((path / RUNS_FOLDER).iterdir()))
        runs = [run for run, record in records if record is not None and record.status == FINISHED]
        if not runs:
            raise UserError(f"no run of the comparison in {path} has finished yet")
        yield from (find_model(run) for run in runs)
    elif path.is_file() or any(path.glob("*.tar.gz")):
        yield path
    else:
        yield find_model(path)


def _choose_name(path: Path) -> str:
    """A name that an address can have: ASCII letters, digits, ``-_.``."""
    name = path.name.removesuffix(".tar.gz")
    if name == "model":
        name = path.parent.name or name
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "-_." else "-" for letter in name)


def _find_examples(folder: Path) -> list[Path]:
    """The first photos of a folder in the formats that a request may have."""
    if not folder.is_dir():
        return []
    found = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in EXAMPLE_TYPES and path.is_file())
    return [path.absolute() for path in found][:MAX_EXAMPLES]
