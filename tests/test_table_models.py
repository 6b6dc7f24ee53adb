"""Every recommender of the published table on a small data set: it learns, it repeats itself, and unknown users do no harm."""
import numpy as np
import pandas as pd
import pytest
import torch

from diffrec.core.contracts import ScoringModel
from diffrec.data.batches import TripletBatches
from diffrec.data.interactions import Dataset, Interactions
from diffrec.recommenders.builders import NETWORKS
from diffrec.recommenders.recipes import RECOMMENDER_RECIPES, TABLE
from diffrec.recommenders.training import RecommenderParts, selection_metric
from diffrec.training.config import FitConfig
from diffrec.training.fit import fit

MODELS = [model for model in TABLE if not any(part in model for part in ("_no_", "_shuffled", "_one_step"))]


def halves(n_users: int = 40, n_items: int = 24) -> Dataset:
    "Users like items of their half; one like each is held out, and the last user has none."
    rng = np.random.default_rng(0)
    half = n_items // 2
    rows = [(user, item + half * (user % 2), place) for user in range(n_users - 1)
            for place, item in enumerate(rng.permutation(half)[:6])]
    users, items, places = np.array(rows).T
    splits = {name: Interactions(users[keep], items[keep], n_users, n_items)
              for name, keep in {"train": places < 5, "valid": places == 5}.items()}
    ids = [pd.DataFrame({"id": [f"{letter}{number}" for number in range(n)]}) for letter, n in (("u", n_users), ("i", n_items))]
    kinds = np.eye(2)[np.arange(n_items) // half]
    features = {"image": np.hstack([kinds, rng.normal(size=(n_items, 2)) * .1]), "audio": rng.normal(size=(n_items, 3))}
    return Dataset("halves", splits, *ids, features)


DATA = halves()


def trained(model: str, seed: int = 0, n_epochs: int = 40) -> ScoringModel:
    "A toy recipe in few large steps, by the shared loop without stopping."
    recipe = RECOMMENDER_RECIPES["toy-table"][model]
    network = RecommenderParts(NETWORKS).build(recipe, DATA, seed)
    fit(network, TripletBatches(DATA.train, 128, seed=seed), FitConfig(n_epochs=n_epochs, learning_rate=.05), seed=seed)
    return network.eval()


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_the_table_learns_and_a_user_without_events_gets_scores(model: str):
    "By popularity a held-out item of the own half is among the five best seldom; users' halves make it one in two or three."
    network, recall = trained(model), selection_metric(DATA, "valid", k=5)
    popularity = NETWORKS["popularity"].build({}, DATA)
    assert recall(network) > recall(popularity) + .1
    scores = network.scorer()(torch.arange(DATA.n_users))
    assert torch.isfinite(scores).all() and scores.shape == (DATA.n_users, DATA.n_items)
    with pytest.raises(IndexError):
        network.scorer()(torch.tensor([DATA.n_users]))


@pytest.mark.parametrize("model", [model for model in MODELS if not model.endswith("_softmax")])
def test_a_seed_decides_every_score(model: str):
    one, same, other = (trained(model, seed, n_epochs=1).scorer()(torch.arange(5)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
