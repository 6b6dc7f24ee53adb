"""Every recommender and control on data that no recipe was made for: it learns finite scores, or says what it needs."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import diffrec
from diffrec.app.recommender import families
from diffrec.data.interactions import Dataset
from diffrec.recommenders.training import load_trained
from diffrec.studies.presets import with_changes
from diffrec.studies.trials import train_once

SETTINGS = ("toy", "toy-multimodal", "toy-diffmm", "toy-genrec")
every_recipe = pytest.mark.parametrize("family, recipe", [
    pytest.param(family, recipe, id=f"{settings}-{recipe.model}")
    for family in families() for settings in SETTINGS for recipe in family.recipes.get(settings, {}).values()])


@pytest.fixture(scope="module")
def world() -> Dataset:
    return diffrec.make_world("toy").dataset()


@every_recipe
@pytest.mark.xdist_group("extremes")
def test_features_that_are_all_zero(family, recipe, world: Dataset, tmp_path: Path):
    data = replace(world, features={name: np.zeros_like(array) for name, array in world.features.items()})
    recipe = with_changes(recipe, {"fit.n_epochs": 1}) if recipe.fit else recipe
    try:
        model = load_trained(train_once(family, recipe, data, 0, tmp_path), data)
    except ValueError as error:
        rules = ("has no labels, which", "has no modalities", "so the control 'knn' has no neighbours", "below 1, the distinct points")
        assert any(rule in str(error) for rule in rules), error
    else:
        assert torch.isfinite(model.scorer()(torch.arange(8))).all()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_that_is_missing(split: str, world: Dataset, tmp_path: Path):
    family = families()[0]
    data = replace(world, splits={name: events for name, events in world.splits.items() if name != split})
    for model in ("mf_bpr", "popularity"):
        with pytest.raises(ValueError, match=f"world-toy has no split '{split}'; it has"):
            train_once(family, family.recipes["toy"][model], data, 0, tmp_path)
