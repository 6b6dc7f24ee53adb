"""Graph diffusion with real processes, real interruptions, and bad input at its door."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffrec.graph_diffusion.recipes import RECIPES
from diffrec.graph_diffusion.training import GRAPH_DIFFUSION, GRAPH_PARTS
from diffrec.recommenders.training import SELECTIONS, learn, load_trained, selection_metric
from diffrec.studies.trials import train_once
from diffrec.world.world import draw_world, world_config
from test_training import run_script

DRAWN = '''
"""Draw edges for all users, then train two epochs in turns; the same on any number of processes."""
import json, sys
from pathlib import Path
import torch
from diffrec.core.seeds import fixed_seed, generator_for
from diffrec.data.batches import TripletBatches
from diffrec.graph_diffusion.builders import build_turn
from diffrec.graph_diffusion.row_diffusion import RowDiffusion, RowDiffusionConfig
from diffrec.graph_diffusion.recipes import RECIPES
from diffrec.graph_diffusion.training import GRAPH_PARTS
from diffrec.training.alternation import over_users
from diffrec.training.config import FitConfig
from diffrec.training.fit import fit
from diffrec.training.processes import current_process, gather_parts
from diffrec.world.world import draw_world, world_config

folder, place = Path(sys.argv[1]), current_process("cpu")
data = draw_world(world_config("toy", seed=0)).dataset()
interactions = data.train.matrix()
with fixed_seed(0, "generator"):
    generator = RowDiffusion(interactions, 2, RowDiffusionConfig(hidden=(8,), n_edges=2, sample_noise=True, mode="faithful")).eval()
drawn = over_users(generator.generate, data.n_users, 7, 0, "edges")
result = {"place": [place.rank, place.n_processes], "targets": drawn.targets.tolist(), "weights": drawn.weights.tolist()}
recipe = RECIPES["toy-diffmm"]["diffmm"]
model = GRAPH_PARTS.build(recipe, data, 0)
with fixed_seed(0, "turn"):
    turn = build_turn(model, recipe.edges, data, interactions, 0)
config = FitConfig(n_epochs=2, learning_rate=.01, device="cpu")
history = fit(model, TripletBatches(data.train, 128, seed=0), config, seed=0, before=turn)
everyone = gather_parts((model.edge_targets.tolist(), model.user_factors.tolist()))
result["processes_agree"] = all(one == everyone[0] for one in everyone)
result["losses"] = history.epochs["loss"].tolist()
if place.rank == 0: (folder / "result.json").write_text(json.dumps(result))
'''


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    "Results of the same script on one process and on two."
    folder = tmp_path_factory.mktemp("drawn")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2",
              "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")
    return run_script(folder, DRAWN), run_script(folder, DRAWN, *launch)


def test_edges_drawn_by_two_processes_are_those_of_one(drawn: tuple[dict, dict]):
    one, two = drawn
    assert (one["place"], two["place"]) == ([0, 1], [0, 2])
    assert two["targets"] == one["targets"]
    assert np.allclose(two["weights"], one["weights"], atol=1e-6)


def test_two_processes_take_turns_together(drawn: tuple[dict, dict]):
    one, two = drawn
    assert two["processes_agree"]
    assert two["losses"] == pytest.approx(one["losses"], rel=.05)      # candidates and noise are drawn by each process for its rows


@pytest.fixture(scope="module")
def data():
    return draw_world(world_config("toy", seed=0)).dataset()


@pytest.mark.parametrize("settings, model", [("toy-diffmm", "diffmm"), ("toy-diffmm", "diffmm_fast"), ("toy-diffmm", "diffmm_observed"),
                                             ("toy-genrec", "genrec")])
def test_an_interrupted_run_ends_like_a_whole_one(settings: str, model: str, data, tmp_path: Path):
    "Edges, weights of both learners and the history: bit for bit."
    recipe = RECIPES[settings][model]
    metrics = {name: selection_metric(data, split) for name, split in SELECTIONS.items()}
    whole_epochs, whole = learn(GRAPH_PARTS, recipe, data, 0, metrics, tmp_path / "whole")
    calls = iter(range(100))

    def breaking(model):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return metrics["valid"](model)

    with pytest.raises(KeyboardInterrupt):
        learn(GRAPH_PARTS, recipe, data, 0, {**metrics, "valid": breaking}, tmp_path / "broken")
    again_epochs, again = learn(GRAPH_PARTS, recipe, data, 0, metrics, tmp_path / "broken")
    for selection in SELECTIONS:
        for name, values in whole[selection][0].items():
            assert torch.equal(again[selection][0][name], values), (selection, name)
    for column in ("loss", "valid"):
        assert again_epochs[column].tolist() == whole_epochs[column].tolist()


@pytest.mark.parametrize("settings, model", [("toy-diffmm", "diffmm"), ("toy-diffmm", "diffmm_fast_none"), ("toy-genrec", "genrec_faithful")])
def test_a_trained_model_comes_back_with_its_edges(settings: str, model: str, data, tmp_path: Path):
    recipe = RECIPES[settings][model]
    trained = load_trained(train_once(GRAPH_DIFFUSION, recipe, data, 0, tmp_path), data)
    scores = trained.scorer()(torch.arange(4))
    assert torch.isfinite(scores).all()
    assert (trained.edge_targets >= 0).any().item() == (recipe.edges["kind"] != "none")
    assert selection_metric(data, "valid")(trained) == pytest.approx(
        pd.read_parquet(tmp_path / model / "seed-0" / "epochs.parquet")["valid"].max(), abs=1e-9)


@pytest.mark.parametrize("system", ["diffmm", "genrec"])
def test_one_modality_is_enough_and_a_user_without_history_is_ranked(system: str, data):
    events = data.train
    short = data.splits | {"train": events.select(events.users != 3), "valid": data.valid, "test": data.test}
    name, array = next(iter(data.features.items()))
    small = replace(data, splits=short, features={name: array})
    model = GRAPH_PARTS.build(RECIPES[f"toy-{system}"][system], small, 0)
    scores = model.scorer()(torch.tensor([3]))
    assert scores.shape == (1, data.n_items) and torch.isfinite(scores).all()


def test_bad_input_is_refused_by_name(data, tmp_path: Path):
    recipe = RECIPES["toy-diffmm"]["diffmm"]
    name = next(iter(data.features))
    with pytest.raises(ValueError, match="no features"):
        GRAPH_PARTS.build(recipe, replace(data, features={}), 0)
    with pytest.raises(ValueError, match="mode must be one of|mode must be"):
        GRAPH_PARTS.build(replace(recipe, shape={**recipe.shape, "mode": "quick"}), data, 0)
    with pytest.raises(ValueError, match="unknown settings 'tok-diffmm'; did you mean 'toy-diffmm'?"):
        GRAPH_DIFFUSION.recipe("tok-diffmm", "diffmm")
    for wrong, rule in [(np.zeros((data.n_items - 1, 3)), f"{data.n_items}"), (np.full((data.n_items, 3), np.nan), "finite")]:
        with pytest.raises(ValueError, match=rule):
            GRAPH_PARTS.build(recipe, replace(data, features={**data.features, name: wrong}), 0)
    too_many = replace(recipe, edges={**recipe.edges, "n_edges": data.n_items + 1})
    with pytest.raises(ValueError, match="n_edges"):
        train_once(GRAPH_DIFFUSION, too_many, data, 0, tmp_path)
