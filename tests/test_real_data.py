"""The public data sets, where they are: checksums, safe reading, and the published counts."""
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrec.app.ablations import ABLATION_STUDIES
from diffrec.core.paths import Paths
from diffrec.core.pickles import load_pickle
from diffrec.data.dataset_files import read_dataset, save_dataset
from diffrec.data.interactions import Dataset
from diffrec.data.sources import SOURCES, check_files, open_dataset
from diffrec.data.splits import check_leakage
from diffrec.graph_diffusion.builders import features_of
from diffrec.graph_diffusion.cold_item_study import ColdItemSettings, by_cold_items
from diffrec.graph_diffusion.negative_study import NEGATIVE_STUDIES, NEGATIVES
from diffrec.graph_diffusion.presets import FORMS
from diffrec.graph_diffusion.training import GRAPH_DIFFUSION
from diffrec.image_models.presets import PRESETS as ZOO_PRESETS
from diffrec.image_models.results import read_cards
from diffrec.image_models.scorers import laion_head
from diffrec.language.training import LANGUAGE, LanguageData, LanguageEvaluation
from diffrec.recommenders.presets import PRESETS
from diffrec.recommenders.star_presets import STAR_PRESETS
from diffrec.recommenders.star_training import STARS, StarSettings
from diffrec.recommenders.studies import LabelSettings, by_labels, ranking_settings
from diffrec.recommenders.training import RECOMMENDERS, RankingSettings
from diffrec.studies.provenance import record_of, source_hash
from diffrec.studies.recipe import Family, Recipe, made_from
from diffrec.studies.trials import evaluation_record, predictions_of, read_header, read_trial, was_made_from
from diffrec.world.world import draw_world, world_config


paths = Paths.find(Path(__file__).parent)
present = {name for name, source in SOURCES.items() if all((paths.data / file.path).exists() for file in source.files)}


def needs(name: str) -> pytest.MarkDecorator:
    "Skip where a source is not in the data root, and say which root that is."
    return pytest.mark.skipif(name not in present, reason=f"{name} is not in the data root {paths.data} "
                              f"(call download({name!r}, Paths.find()) or set DIFFREC_DATA)")


@pytest.fixture(scope="module")
def tiktok() -> Dataset:
    return open_dataset("tiktok", paths)


@pytest.fixture(scope="module")
def ml1m() -> Dataset:
    return open_dataset("ml-1m", paths)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in SOURCES])
def test_files_are_the_registered_ones(name: str):
    check_files(SOURCES[name], paths.data)


@needs("laion")
def test_the_published_aesthetic_head_is_the_product_of_its_matrices():
    head = laion_head(paths.data)
    vectors = np.random.default_rng(0).normal(size=(50, 768)).astype(np.float32)
    product = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    for layer in head.layers:
        product = product @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    assert [layer.out_features for layer in head.layers] == [1024, 128, 64, 16, 1]
    assert np.abs(head(torch.from_numpy(vectors)).numpy() - product[:, 0]).max() < 1e-5 * np.abs(product).max()


@needs("tiktok")
@pytest.mark.parametrize("name, n_events", [("trnMat", 59_541), ("valMat", 3_051), ("tstMat", 6_130)])
def test_tiktok_matrices_are_read_safely(name: str, n_events: int):
    matrix = load_pickle(paths.data / "tiktok" / f"{name}.pkl")
    assert (matrix.format, matrix.shape, matrix.nnz, matrix.dtype) == ("coo", (9308, 6710), n_events, np.float64)
    assert (matrix.data == 1).all()


@needs("ml-1m")
@pytest.mark.parametrize("name, n_rows", [("train", 33_891), ("valid", 10_401), ("valid_small", 5_200),
                                          ("test", 7_331)])
def test_ml1m_frames_are_read_safely(name: str, n_rows: int):
    with zipfile.ZipFile(paths.data / "ml-1m" / "ml-1m.zip") as archive:
        frame = load_pickle(io.BytesIO(archive.read(f"ml-1m/{name}_ood2.pkl")))
    assert list(frame.columns) == ["uid", "iid", "label", "timestamp", "his", "his_title", "title", "flag", "not_cold"]
    assert len(frame) == n_rows and set(frame["label"]) == {0, 1}
    history, titles = frame["his"].iloc[-1], frame["his_title"].iloc[-1]
    assert history[0] == 0 and titles[0] == "" and len(history) == len(titles) > 1


@needs("tiktok")
def test_tiktok_counts(tiktok: Dataset):
    assert (tiktok.n_users, tiktok.n_items) == (9308, 6710)
    assert (len(tiktok.train), len(tiktok.valid), len(tiktok.test)) == (59_541, 3_051, 6_130)
    for split in ("valid", "test"):
        assert tiktok.splits[split].user_counts().max() == 1                  # one held-out item a user
    assert not np.intersect1d(tiktok.valid.users, tiktok.test.users).size     # nobody is both validated and tested
    degrees = tiktok.train.user_counts()
    assert (degrees == 0).sum() == 10 and degrees.max() == 603 and np.median(degrees[degrees > 0]) == 2


@needs("tiktok")
def test_tiktok_cold_items(tiktok: Dataset):
    cold = tiktok.train.item_counts() == 0
    assert cold.sum() == 465
    assert cold[tiktok.test.items].sum() == 449 and cold[tiktok.valid.items].sum() == 223
    assert tiktok.train.item_counts().max() == 315


@needs("tiktok")
def test_tiktok_features(tiktok: Dataset):
    assert set(tiktok.features) == {"image", "audio"} and tiktok.source["absent_features"] == ["text"]
    norms = {}
    for name, array in tiktok.features.items():
        assert array.shape == (6710, 128) and array.dtype == np.float32
        norms[name] = np.linalg.norm(array, axis=1)
    assert norms["image"].min() == pytest.approx(29.8, abs=.06) and norms["image"].max() == pytest.approx(49.4, abs=.06)
    assert norms["audio"].min() == pytest.approx(1.17, abs=.006)
    assert norms["audio"].mean() == pytest.approx(4.55, abs=.006)
    assert tiktok.features["image"].min() >= 0
    assert [len(np.unique(tiktok.features[name], axis=0)) for name in ("image", "audio")] == [6707, 6655]


@needs("tiktok")
def test_every_cell_of_an_ablation_of_tiktok_has_its_features(tiktok: Dataset):
    "The study of edges and modalities names what the files hold, and all that they hold."
    study = ABLATION_STUDIES["edges-modalities"]["tiktok"]
    asked = [study.of_cell(cell).recipe.shape["modalities"] for cell in study.cells]
    assert {tuple(features_of(tiktok, names)) for names in asked} == {("audio", "image"), ("audio",), ("image",)}


@needs("ml-1m")
def test_ml1m_counts(ml1m: Dataset):
    counts = ml1m.summary()[["events", "users", "items"]].T.to_dict("list")
    assert counts == {"train": [33_891, 740, 3_087], "valid": [10_401, 356, 2_506], "test": [7_331, 320, 2_203]}
    liked = [events.values.astype(float).mean() for events in (ml1m.train, ml1m.valid, ml1m.test)]
    assert liked == pytest.approx([.5368, .5283, .5454], abs=5e-5)
    ids = {kind: getattr(ml1m, kind)["id"].astype(int) for kind in ("users", "items")}
    assert (ids["users"].max(), ids["items"].max()) == (838, 3_255) and min(ids["users"].min(), ids["items"].min()) == 1
    titles = ml1m.items.set_index("id")["title"]
    assert titles.notna().all() and titles["1"] == "Shawshank Redemption, The (1994)"


@needs("ml-1m")
def test_ml1m_is_a_temporal_split(ml1m: Dataset):
    check_leakage(ml1m.splits, temporal="global")
    assert list(ml1m.summary()["span"]) == ["2001-06-01 to 2002-03-31", "2002-04-01 to 2002-08-31",
                                            "2002-09-01 to 2003-01-31"]


@needs("ml-1m")
def test_ml1m_cold_slices(ml1m: Dataset):
    users, items = ml1m.train.user_counts(), ml1m.train.item_counts()
    seen = {name: (users[events.users] > 0, items[events.items] > 0) for name, events in ml1m.splits.items()}
    user_seen, item_seen = seen["test"]
    assert (user_seen & item_seen).sum() == 4_153 and (user_seen & item_seen).mean() == pytest.approx(.566, abs=5e-4)
    assert (~user_seen).sum() == 3_111 and (~item_seen).sum() == 93 and (~user_seen & ~item_seen).sum() == 26
    assert np.logical_and(*seen["valid"]).mean() == pytest.approx(.635, abs=5e-4)
    warm = (users[ml1m.test.users] > 3) & (items[ml1m.test.items] > 3)
    assert warm.sum() == 3_522


@needs("ml-1m")
def test_ml1m_published_flags_agree(ml1m: Dataset):
    "The frames carry their own `not_cold`; ours is computed from the training split."
    with zipfile.ZipFile(paths.data / "ml-1m" / "ml-1m.zip") as archive:
        frame = load_pickle(io.BytesIO(archive.read("ml-1m/test_ood2.pkl")))
    users, items = ml1m.train.user_counts(), ml1m.train.item_counts()
    ours = (users[ml1m.test.users] > 0) & (items[ml1m.test.items] > 0)
    assert (ours == frame["not_cold"].to_numpy(bool)).all()


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in ("tiktok", "ml-1m")])
def test_saved_and_loaded_again(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    dataset = request.getfixturevalue(name.replace("-", ""))
    back = read_dataset(save_dataset(dataset, tmp_path / name))
    assert back.summary().loc[list(dataset.splits)].equals(dataset.summary()) and back.source == dataset.source
    for split, events in dataset.splits.items():
        assert np.array_equal(back.splits[split].pair_keys(), events.pair_keys())


def kept_and_stale(report: str, dataset: Dataset, recipes: Mapping[str, tuple[Family, Recipe]],
                   evaluated: Mapping[str, Any], data: str | None = None) -> tuple[int, int, list[str]]:
    "Numbers of kept trials and of their models; trials of which recipe, data, code or evaluation is another today."
    records, stale = {}, []
    kept = {path: read_header(path) for path in sorted((paths.root / "outputs" / "reports").glob(f"{report}/trials/*.parquet"))}
    for path, header in kept.items():
        model, seed = path.stem.rsplit("-seed-", 1)
        family, recipe = recipes[model]
        if model not in records:
            records[model] = made_from(family, recipe, dataset, 0) | ({} if data is None else {"data": data})
        if not was_made_from(path, recipe, {**records[model], "seed": int(seed)}) or header["evaluated"] != evaluated:
            stale.append(path.name)
    return len(kept), len(records), stale


def recommenders(settings: str) -> dict[str, tuple[Family, Recipe]]:
    "Recipes of recommenders, by model."
    return {model: (RECOMMENDERS, recipe) for model, recipe in RECOMMENDERS.recipes[settings].items()}


@needs("tiktok")
def test_kept_trials_are_those_of_the_code(tiktok: Dataset):
    "Recipe, data and code of every kept trial are what a training would record today."
    graphs = {model: (GRAPH_DIFFUSION, recipe) for system in FORMS
              for model, recipe in GRAPH_DIFFUSION.recipes[f"tiktok-{system}"].items()}
    evaluated = evaluation_record(RECOMMENDERS, RankingSettings(slices=("all", "warm", "user_cold", "item_cold")))
    known = {**graphs, **recommenders("tiktok"), **recommenders("tiktok-losses")}
    assert kept_and_stale("tiktok_[dglt]*", tiktok, known, evaluated) == (328, 97, [])


@needs("tiktok")
def test_kept_trials_of_new_items_are_those_of_the_code(tiktok: Dataset):
    "Twenty-one recommenders and six forms of generated graphs, one seed."
    families = {"recommenders": by_cold_items(RECOMMENDERS), "graph_diffusion": by_cold_items(GRAPH_DIFFUSION)}
    known = {model: (families["recommenders"], recipe) for model, recipe in RECOMMENDERS.recipes["tiktok"].items()}
    for system in FORMS:
        known |= {model: (families["graph_diffusion"], recipe) for model, recipe in GRAPH_DIFFUSION.recipes[f"tiktok-{system}"].items()}
    evaluated = evaluation_record(families["recommenders"], ColdItemSettings(ks=(20,)))
    assert kept_and_stale("tiktok_cold_items", tiktok, known, evaluated) == (27, 27, [])


@needs("tiktok")
def test_kept_trials_of_negatives_are_those_of_the_code(tiktok: Dataset):
    "Six sources of negatives, one seed."
    known = {model: (NEGATIVES, recipe) for model, recipe in NEGATIVES.recipes["tiktok"].items()}
    evaluated = evaluation_record(NEGATIVES, ranking_settings(NEGATIVE_STUDIES["tiktok"]))
    assert kept_and_stale("tiktok_negatives", tiktok, known, evaluated) == (6, 6, [])


@needs("tiktok")
def test_kept_trials_of_tiktok_are_those_of_the_code(tiktok: Dataset):
    "Seven models with five seeds, fourteen that need no training by gradients."
    evaluated = evaluation_record(RECOMMENDERS, ranking_settings(PRESETS["tiktok"]))
    assert kept_and_stale("tiktok", tiktok, recommenders("tiktok"), evaluated) == (49, 21, [])


@needs("ml-1m")
def test_kept_trials_of_ml1m_are_those_of_the_code(ml1m: Dataset):
    "Four models with four seeds, two that count; evaluated by the scores of labelled pairs."
    evaluated = evaluation_record(by_labels(RECOMMENDERS), LabelSettings(PRESETS["ml-1m"].split))
    assert kept_and_stale("ml-1m", ml1m, recommenders("ml-1m"), evaluated) == (18, 6, [])


@needs("ml-1m")
@pytest.mark.parametrize(("report", "preset", "counts"), [("ml-1m_language", "ml-1m-tiny", (43, 19)),
                                                          ("ml-1m_smollm2", "ml-1m-smollm2-quarter", (12, 12))])
def test_kept_trials_of_language_models_are_those_of_the_code(ml1m: Dataset, tmp_path: Path, report: str, preset: str,
                                                              counts: tuple[int, int]):
    "Six encoders beside thirteen tiny language models, three trainings of most; and beside SmolLM2, frozen, fine-tuned, and with vectors."
    data = LanguageData(ml1m, tmp_path, tmp_path)
    recipes = {model: (LANGUAGE, recipe) for model, recipe in LANGUAGE.recipes[preset].items()}
    evaluated = evaluation_record(LANGUAGE, LanguageEvaluation(preset))
    assert kept_and_stale(report, data, recipes, evaluated) == (*counts, [])


def test_kept_trials_of_stars_are_those_of_the_code():
    """Five models that are computed, three with three seeds, on the ratings of the demo world.

    The last bits of the world's picture features, which no star model reads, depend on the processor; so the data are compared by
    the ratings that are predicted, and all trials have one fingerprint.
    """
    ratings = draw_world(replace(world_config("demo"), image_size=0)).ratings()
    recipes = {model: (STARS, recipe) for model, recipe in STARS.recipes["world"].items()}
    evaluated = evaluation_record(STARS, StarSettings(STAR_PRESETS["world"].split))
    paths_of_trials = sorted((paths.root / "outputs" / "reports" / "world_stars" / "trials").glob("*.parquet"))
    (data,) = {read_header(path)["made_from"]["data"] for path in paths_of_trials}
    assert kept_and_stale("world_stars", ratings, recipes, evaluated, data) == (14, 8, [])
    for path in paths_of_trials:
        found = predictions_of(read_trial(path))
        assert set(zip(found["user"], found["item"], found["label"])) == set(
            zip(ratings.test.users.tolist(), ratings.test.items.tolist(), ratings.test.values.tolist()))


def test_kept_trials_of_pictures_are_those_of_the_small_models_that_ship():
    "Weights by their hashes on the cards, settings, and the code that evaluates."
    cards = read_cards(paths.root / "data" / "zoo")
    parts = {f"{part}/{file}": entry["sha256"] for part, card in cards.items() for file, entry in card["files"].items()}
    settings, code = ZOO_PRESETS["tiny"].evaluation, source_hash(["diffrec.image_models.zoo_evaluation:evaluate_models"])
    kept = {path.stem: read_header(path) for path in (paths.root / "outputs" / "reports" / "zoo" / "trials").glob("*.parquet")}
    assert len(kept) == 10
    for header in kept.values():
        assert header["made_from"] == {"parts": parts} and header["evaluated"] == {**record_of(settings), "code": code}
