"""Diffusion-driven recommendation: train, recommend, draw, evaluate.

    import diffrec

    data = diffrec.load_dataset("toy")
    model = diffrec.train(data, "lightgcn")
    diffrec.recommend(model, ["u000003", "u000007"], k=5)

The names below are imported when they are used first, so that `import diffrec` is cheap.
"""
from typing import TYPE_CHECKING

__version__ = "0.1.0"
_PLACES = {
    "load_dataset": "diffrec.app.api", "import_table": "diffrec.data.importers", "import_rated_pictures": "diffrec.data.reviews",
    "save_dataset": "diffrec.data.dataset_files", "split": "diffrec.app.api", "models": "diffrec.app.recommender",
    "train": "diffrec.app.api", "load": "diffrec.app.api", "recommend": "diffrec.app.api", "evaluate": "diffrec.app.api",
    "train_prior": "diffrec.app.pictures", "draw": "diffrec.app.api", "make_world": "diffrec.app.api",
    "search": "diffrec.app.search:search_recommender", "with_constant_feature": "diffrec.data.interactions",
    "answer": "diffrec.app.api", "UserHistory": "diffrec.app.joint"}
__all__ = ["UserHistory", "answer", "draw", "evaluate", "import_rated_pictures", "import_table", "load", "load_dataset", "make_world",
           "models", "recommend", "save_dataset", "search", "split", "train", "train_prior", "with_constant_feature"]

if TYPE_CHECKING:
    from diffrec.app.api import answer, draw, evaluate, load, load_dataset, make_world, recommend, split, train
    from diffrec.app.joint import UserHistory
    from diffrec.app.pictures import train_prior
    from diffrec.app.recommender import models
    from diffrec.app.search import search_recommender as search
    from diffrec.data.dataset_files import save_dataset
    from diffrec.data.importers import import_table
    from diffrec.data.interactions import with_constant_feature
    from diffrec.data.reviews import import_rated_pictures


def __getattr__(name: str):
    "Import a name of the front door when it is used."
    from importlib import import_module
    if name in _PLACES:
        module, _, found = _PLACES[name].partition(":")
        return getattr(import_module(module), found or name)
    from difflib import get_close_matches
    near = get_close_matches(name, _PLACES, n=1)
    raise AttributeError(f"module 'diffrec' has no {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
