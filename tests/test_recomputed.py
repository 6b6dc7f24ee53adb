"""Rows of the committed reports computed anew, by the same code, from the values that are kept beside them."""
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diffrec.core.artifacts import read_json, read_rows, read_table
from diffrec.core.paths import Paths
from diffrec.core.seeds import rng_for
from diffrec.data.dataset_files import save_dataset
from diffrec.data.sources import SOURCES, open_dataset
from diffrec.evaluation.attributes import ACCURACY_PARTS
from diffrec.evaluation.inference import (
    FEW_USERS, bootstrap, few_users_interval, holm, percentile_interval, seed_weights)
from diffrec.evaluation.judges import agreement_rows
from diffrec.evaluation.summary import summarise_ranking, summarise_rating
from diffrec.graph_diffusion.additions import ADDITIONS, BY_LOSS_MODELS, addition_rows
from diffrec.graph_diffusion.costs import epoch_rows
from diffrec.graph_diffusion.graph_map import EVERY_POINT, GRAPH_MAPS, map_rows
from diffrec.graph_diffusion.presets import FORMS
from diffrec.graph_diffusion.reports import SIMPLE
from diffrec.graph_diffusion.scale import slope_rows
from diffrec.image_models.evaluation import Drawn, ImageEvaluation
from diffrec.image_models.presets import PRESETS as ZOO_PRESETS
from diffrec.image_models.zoo_evaluation import accuracy_differences, general_rows, model_rows, outline_differences
from diffrec.language.cold_start import TEXT_SCORERS
from diffrec.language.explanation_trials import EXPLAINED, explanation_study_rows
from diffrec.language.presets import PRESETS as LANGUAGE_PRESETS
from diffrec.language.reports import HELD_OUT_WORLDS
from diffrec.language.studies import language_rows
from diffrec.language.training import LANGUAGE
from diffrec.language.world_claims import read_world_text
from diffrec.language.world_explanations import EXPLANATION_STUDIES, world_texts
from diffrec.personal_images.family import PERSONAL
from diffrec.personal_images.fusion import fusion_target
from diffrec.personal_images.fusion_training import fusion_rows, parts_of_users
from diffrec.personal_images.fusion_trials import fusion_settings, measured_by
from diffrec.personal_images.judges import JUDGE_CONTROLS, JUDGE_PRESETS
from diffrec.personal_images.personalisation_rows import gain_rows, image_gains, order_agreement, prior_gains, win_rows
from diffrec.personal_images.presets import PRESETS as PERSONAL_PRESETS
from diffrec.personal_images.studies import personal_rows, user_cost_rows
from diffrec.personal_images.user_evaluation import PersonalEvaluation
from diffrec.priors.cost_presets import SIMULATION_PRESETS
from diffrec.priors.evaluation import draw_rows, long_sampler_rows, match_controls
from diffrec.priors.pictures import picture_rows
from diffrec.priors.presets import prior_study
from diffrec.priors.prior_trials import blocks_of
from diffrec.priors.simulation_results import simulation_rows
from diffrec.priors.uplift import kept_share, relative_gain
from diffrec.priors.verifiers import Verifiers, verifier_report
from diffrec.recommenders.presets import PRESETS, RecommenderStudy
from diffrec.recommenders.recipes import RECOMMENDER_RECIPES
from diffrec.recommenders.star_presets import STAR_PRESETS
from diffrec.recommenders.star_recipes import STAR_RECIPES
from diffrec.recommenders.star_studies import expected_stars, star_error_rows
from diffrec.recommenders.studies import (
    label_predictions, open_events, present, ranking_rows, study_controls, study_recipes, train_study)
from diffrec.recommenders.training import RECOMMENDERS
from diffrec.studies.costs import cost_rows
from diffrec.studies.provenance import source_hash
from diffrec.studies.trials import Trial, evaluation_record, predictions_of, read_header, read_trial, was_made_from
from diffrec.world.drawing import ATTRIBUTES
from diffrec.world.world import draw_world, world_config

reports = Path(__file__).parent.parent / "outputs" / "reports"
ROUNDING = 1e-12    # the order of a sum, and with it the last bits, depends on the processor
NUMBERS = ["value", "ci_low", "ci_high", "n"]
GRAPHS = ["tiktok_diffmm", "tiktok_genrec"]


@cache
def rows_of(report: str) -> pd.DataFrame:
    return read_rows(reports / report / "results.parquet")


def assert_committed(found: pd.DataFrame, report: str) -> None:
    "Every row that was computed anew is in the report with the same numbers, to the rounding of sums of doubles."
    keys = ["dataset", "slice", "selection", "model", "versus", "metric", "k", "seed"]
    both = [rows.astype({"k": "Float64", "seed": "Float64"}).fillna({"k": -1, "seed": -1}).set_index(keys)[NUMBERS]
            for rows in (found, rows_of(report))]
    assert len(found) and both[0].index.is_unique and both[0].index.isin(both[1].index).all()
    committed = both[1].loc[both[0].index]
    for name in NUMBERS:
        pd.testing.assert_series_equal(both[0][name].astype(float), committed[name].astype(float), rtol=ROUNDING,
                                       atol=ROUNDING)


# Recommenders and generated graphs: from the values of every test user.


def kept_trials(report: str) -> dict[tuple[str, int], Trial]:
    "(model, seed) -> a kept trial; its digest is checked."
    paths = sorted((reports / report / "trials").glob("*.parquet"))
    return {(path.stem.rsplit("-seed-", 1)[0], int(path.stem.rsplit("-", 1)[1])): read_trial(path) for path in paths}


@cache
def kept_recall(report: str) -> pd.DataFrame:
    "[users, (model, seed)] Recall@20 of every test user in every training, its epoch chosen on validation."
    columns, paths = {}, sorted((reports / report / "trials").glob("*.parquet"))
    if report in GRAPHS:                                       # the simple models beside them are of another report
        paths += [path for model in SIMPLE for path in sorted((reports / "tiktok_table" / "trials").glob(f"{model}-seed-*.parquet"))]
    for path in paths:
        model, seed = path.stem.rsplit("-seed-", 1)
        values = pd.read_parquet(path, columns=["user", "slice", "selection", "recall@20"])
        values = values[values["slice"].eq("all") & values["selection"].eq("valid")]
        columns[model, int(seed)] = values.set_index("user")["recall@20"]
    return pd.DataFrame(columns)


def overall(report: str, metric: str, selection: str = "valid") -> pd.DataFrame:
    "Rows over all trainings, by model and what it is compared with."
    rows = rows_of(report)
    rows = rows[rows["seed"].isna() & rows["slice"].eq("all") & rows["metric"].eq(metric) & rows["k"].eq(20)
                & rows["selection"].eq(selection)]
    return rows.set_index(["model", "versus"])


@cache
def resampled(report: str) -> tuple[dict, dict]:
    "Mean Recall@20 of every model over its trainings, and 2,000 means over resampled users and trainings."
    table = kept_recall(report)
    draws = bootstrap(lambda weights: weights @ table.to_numpy() / len(table), len(table), rng_for(1, "anew"))
    rng, means, spread = rng_for(1, "anew, trainings"), {}, {}
    for model in table.columns.unique(0):
        at = np.flatnonzero(table.columns.get_level_values(0) == model)
        means[model] = table.iloc[:, at].to_numpy().mean()
        spread[model] = (draws[:, at] * seed_weights(len(at), len(draws), rng)).sum(1)
    return means, spread


@pytest.mark.parametrize("report", [*GRAPHS, "tiktok"])
def test_values_and_intervals_follow_from_the_kept_trials(report: str):
    "Every model and every comparison; ends of two bootstraps differ by some hundredths of their distance."
    rows, (means, spread) = overall(report, "recall"), resampled(report)
    assert set(rows.index.get_level_values("model")) <= set(means) and len(rows) > (30 if report in GRAPHS else 16)
    ablated = rows[rows.index.get_level_values("versus") == report.partition("_")[2]] if report in GRAPHS else rows[:0]
    for (model, versus), row in rows.drop(ablated.index).iterrows():
        value, draws = (means[model], spread[model]) if not versus else (means[model] - means[versus],
                                                                        spread[model] - spread[versus])
        assert row["value"] == pytest.approx(value, abs=1e-9), (model, versus)
        low, high = percentile_interval(draws)
        assert [row["ci_low"], row["ci_high"]] == pytest.approx([low, high], abs=.12 * (high - low)), (model, versus)


@pytest.mark.parametrize("report", GRAPHS)
def test_ablations_are_compared_with_the_training_of_the_same_seed(report: str):
    table, system = kept_recall(report).xs(0, axis=1, level=1), report.split("_")[1]
    rows = overall(report, "recall").xs(system, level="versus")
    assert len(rows) > 5
    draws = bootstrap(lambda weights: weights @ table.to_numpy() / len(table), len(table), rng_for(2, "anew"))
    for model, row in rows.iterrows():
        at, own = table.columns.get_loc(model), table.columns.get_loc(system)
        low, high = percentile_interval(draws[:, at] - draws[:, own])
        assert row["value"] == pytest.approx((table[model] - table[system]).mean(), abs=1e-9)
        assert [row["ci_low"], row["ci_high"]] == pytest.approx([low, high], abs=.12 * (high - low))


def test_rows_of_multimodal_recommenders_follow_from_the_kept_values():
    "The first group that their report summarised; p_holm of three comparisons."
    models = {model: recipe.control for model, recipe in RECOMMENDER_RECIPES["tiktok"].items() if model in (
        "lightgcn", "lightgcn_m", "lightgcn_m_shuffled", "bm3", "bm3_shuffled", "lattice", "lattice_shuffled")}
    frames = []
    for path in sorted((reports / "tiktok_diffmm" / "trials").glob("*.parquet")):
        model, seed = path.stem.rsplit("-seed-", 1)
        if model in models:
            wide = pd.read_parquet(path)
            wide = wide[wide["slice"].eq("all") & wide["selection"].eq("test_best")]
            long = wide.melt(["user", "slice", "selection"], var_name="metric")
            frames.append(long.assign(metric=long["metric"].str.partition("@")[0], k=20, model=model, seed=int(seed)))
    first = pd.concat(frames, ignore_index=True)
    controls = {model: control for model, control in models.items() if control in models}
    found = summarise_ranking(first, "tiktok_diffmm", "tiktok", "test", controls, rng_for(0, "resampling"))
    assert_committed(found, "tiktok_diffmm")


def without_holm(rows: pd.DataFrame) -> pd.DataFrame:
    "Without p-values that are corrected together with those of another group of comparisons."
    return rows[~rows["metric"].str.startswith("p_holm(")]


def kept_frames(report: str) -> dict[str, pd.DataFrame]:
    "model -> the values of its trials, with model and seed; a model that counts has no seed."
    frames = {}
    for (model, seed), trial in kept_trials(report).items():
        seeds = pd.array([seed if RECOMMENDER_RECIPES[report][model].fit else None] * len(trial.values), "Int64")
        frames.setdefault(model, []).append(trial.values.assign(model=model, seed=seeds))
    return {model: pd.concat(parts, ignore_index=True) for model, parts in frames.items()}


def test_rows_of_recommenders_follow_from_the_kept_values():
    "The group that TikTok's report summarised first: all metrics and cut-offs, means, intervals, differences, p-values."
    frames = kept_frames("tiktok")
    values = pd.concat([frames[model] for model in PRESETS["tiktok"].models], ignore_index=True)
    first = values[values["slice"].eq("all") & values["selection"].eq("test_best")]
    controls = {model: recipe.control for model, recipe in RECOMMENDER_RECIPES["tiktok"].items() if recipe.control}
    found = summarise_ranking(first, "tiktok", "tiktok", "test", present(controls, set(frames)), rng_for(0, "resampling"))
    assert_committed(without_holm(found), "tiktok")
    assert set(found["metric"]) >= {"recall", "ndcg", "novelty"} and set(found["k"].dropna()) == {10, 20}


@cache
def kept_scores() -> pd.DataFrame:
    "The score of every labelled pair of ML-1M in every training."
    frames = []
    for (model, seed), trial in kept_trials("ml-1m").items():
        found = predictions_of(trial)
        seeds = pd.array([seed if RECOMMENDER_RECIPES["ml-1m"][model].fit else None] * len(found), "Int64")
        frames.append(found.assign(model=model, seed=seeds))
    return pd.concat(frames, ignore_index=True)


def test_rows_of_ratings_follow_from_the_kept_values():
    "The group that ML-1M's report summarised first: AUC, UAUC and GAUC, their intervals, differences, p-values."
    scores = kept_scores()
    first = scores[scores["selection"].eq("test_best")]
    controls = {model: recipe.control for model, recipe in RECOMMENDER_RECIPES["ml-1m"].items() if recipe.control}
    controls = present(controls, set(scores["model"]))
    found = summarise_rating(first, "ml-1m", "ml-1m", "test", controls, rng_for(0, "resampling"))
    assert_committed(without_holm(found), "ml-1m")
    assert {"auc", "uauc", "gauc"} <= set(found["metric"]) and found["versus"].ne("").any()


def test_auc_of_every_training_follows_from_the_kept_scores():
    "By scikit-learn, with the epoch chosen on validation; a model's value is the mean over its trainings."
    scores, rows = kept_scores(), rows_of("ml-1m")
    rows = rows[rows["metric"].eq("auc") & rows["slice"].eq("all") & rows["versus"].eq("") & rows["selection"].eq("valid")]
    by_training = {(model, seed): roc_auc_score(part["label"], part["score"]) for (model, seed), part in
                   scores[scores["selection"].eq("valid")].fillna({"seed": -1}).groupby(["model", "seed"])}
    assert len(by_training) == 18
    for row in rows.itertuples():
        values = [value for (model, seed), value in by_training.items()
                  if model == row.model and (pd.isna(row.seed) or seed == row.seed)]
        assert row.value == pytest.approx(np.mean(values), abs=1e-12)


@cache
def kept_stars() -> pd.DataFrame:
    "The predicted rating of every test pair of the demo world in every training, and the true expected one."
    frames = []
    for (model, seed), trial in kept_trials("world_stars").items():
        found = predictions_of(trial)
        seeds = pd.array([seed if STAR_RECIPES["world"][model].fit else None] * len(found), "Int64")
        frames.append(found.assign(model=model, seed=seeds))
    users, items = (frames[0][name].to_numpy() for name in ("user", "item"))
    expected = expected_stars(draw_world(world_config("demo")), users, items)
    return pd.concat([*frames, frames[0].assign(model="oracle", seed=pd.NA, score=expected)], ignore_index=True)


def test_rows_of_stars_follow_from_the_kept_values():
    "All rows of the report: RMSE and MAE on every slice, their intervals, differences from controls, rivals and the truth."
    controls = {model: recipe.control for model, recipe in STAR_RECIPES["world"].items() if recipe.control}
    found = star_error_rows(kept_stars(), controls, STAR_PRESETS["world"], "world_stars", "world-demo-ratings")
    assert_committed(found, "world_stars")
    assert len(found) == len(rows_of("world_stars")) and {"all", "warm", "cold"} <= set(found["slice"])


def test_errors_of_every_training_follow_from_the_kept_stars():
    "By their definitions; a model's value is the mean over its trainings, an interval of a difference that of resampled users."
    stars, rows = kept_stars(), rows_of("world_stars")
    rows = rows[rows["slice"].eq("all") & rows["seed"].isna()].set_index(["metric", "model", "versus"])
    errors = stars["score"] - stars["label"]
    by_training = pd.DataFrame({"rmse": errors**2, "mae": errors.abs()}).groupby([stars["model"], stars["seed"].fillna(-1)]).mean()
    values = by_training.assign(rmse=by_training["rmse"] ** .5).groupby("model").mean()
    for (metric, model, versus), row in rows.iterrows():
        expected = values.loc[model, metric] - (values.loc[versus, metric] if versus else 0)
        assert row["value"] == pytest.approx(expected, abs=1e-9), (metric, model, versus)
    users = stars["user"].unique()
    squares = {model: (errors**2).groupby(stars["user"][stars["model"] == model]).agg(["sum", "size"]).loc[users]
               for model in ("two_biases", "item_mean")}
    def root(model: str) -> np.ndarray:
        of = squares[model].to_numpy()
        rng = rng_for(5, "anew")
        drawn = rng.integers(0, len(users), (2000, len(users)))
        return (of[drawn, 0].sum(1) / of[drawn, 1].sum(1)) ** .5
    low, high = percentile_interval(root("two_biases") - root("item_mean"))
    row = rows.loc[("rmse", "two_biases", "item_mean")]
    assert [row["ci_low"], row["ci_high"]] == pytest.approx([low, high], abs=.12 * (high - low))


def kept_pictures() -> dict[str, ImageEvaluation]:
    "Evaluations of the small models, without their pictures."
    found = {}
    for (model, _), trial in kept_trials("zoo").items():
        drawn = {}
        for task, rows in trial.values.groupby("slice", observed=True):
            table = rows.pivot(index="user", columns="metric", values="value")
            right, codes = ([name.format(part) for part in parts] for name, parts in
                            (("{}_accuracy", ACCURACY_PARTS), ("predicted_{}", ATTRIBUTES)))
            drawn[task] = Drawn(np.empty((len(table), 0)), [""] * len(table), table.reindex(columns=right).to_numpy(),
                                table["confidence"].to_numpy(), table["outline_iou"].to_numpy(),
                                table[codes].to_numpy(int))
        found[model] = ImageEvaluation(trial.facts, drawn)
    return found


@pytest.mark.parametrize(("report", "preset"), [("ml-1m_language", "ml-1m-tiny"), ("ml-1m_smollm2", "ml-1m-smollm2-quarter")])
def test_rows_of_language_models_follow_from_the_kept_values(report: str, preset: str):
    "Values, intervals, ensembles and paired differences, from the kept scores of validation and test questions."
    kept, recipes = kept_trials(report), LANGUAGE.recipes[preset]
    order = [(model, seed) for model in recipes for seed in sorted(seed for name, seed in kept if name == model)]
    frames = [predictions_of(kept[key]).assign(model=key[0], seed=key[1] if recipes[key[0]].fit else None) for key in order]
    predictions = pd.concat([frame.astype({"seed": "Int64"}) for frame in frames], ignore_index=True)
    study = replace(LANGUAGE_PRESETS[preset], slices=("all",))
    controls = study_controls(LANGUAGE, study, [{"model": model} for model, _ in order])
    found = language_rows(predictions, controls, study, report, "ml-1m")
    found = found[~found["metric"].str.startswith("p_holm")]                 # corrected for all slices
    assert_committed(found, report)
    whole = rows_of(report)
    whole = whole[~whole["model"].isin(TEXT_SCORERS)]
    assert len(found) == (whole["slice"].eq("all") & ~whole["metric"].str.startswith("p_holm")).sum()


def test_rows_of_explanations_follow_from_the_kept_values():
    "Every world and all worlds together, from the values of every text."
    kept = kept_trials("world_explanations")
    assert set(kept) == {(model, seed) for model in EXPLAINED for seed in HELD_OUT_WORLDS}
    trials = {seed: {model: kept[model, seed] for model in EXPLAINED} for seed in HELD_OUT_WORLDS}
    labels = {name: rows_of("world_explanations")[name].iloc[0] for name in ("run", "dataset", "split")}
    found = explanation_study_rows(trials, labels)
    assert_committed(found, "world_explanations")
    assert len(found) == len(rows_of("world_explanations"))


@pytest.mark.parametrize("seed", HELD_OUT_WORLDS)
def test_tastes_and_ratings_of_explanations_are_judged_by_the_world(seed: int):
    "From what each text says, the world's preferences and its ratings: true tastes and absolute errors."
    data, kept = world_texts(EXPLANATION_STUDIES["demo"], seed), kept_trials("world_explanations")
    least, rated = EXPLANATION_STUDIES["demo"].least_chance, data.ratings.test
    rating = pd.Series(rated.values.astype(float), pd.MultiIndex.from_arrays([rated.users, rated.items]))
    for model in ("cora", "lora"):
        trial = kept[model, seed]
        said = trial.values.pivot(index=["user", "item"], columns="metric", values="value")
        assert set(said.index.get_level_values("user")) <= set(data.groups["test"].tolist())
        assert len(said) == np.isin(rated.users, data.groups["test"]).sum()
        taste, users = said["said_taste"].astype(int), said.index.get_level_values("user")
        is_true, named = data.world.users.preferences[users, taste] > 0, said["named"] == 1
        assert (is_true == said["likeliest_true"]).all() and (is_true == said["user_true"])[named].all()
        assert said["user_true"].isna().equals(~named)
        assert named.all() if model == "lora" else (named == ~(said["said_chance"] < least)).all()      # the control always names one
        assert ((said["said_rating"] - rating.loc[said.index]).abs() == said["mae"]).all()
        for example in trial.facts["examples"]:
            tastes = [claim.value in example["likes"] for claim in read_world_text(example["text"]).claims if claim.kind == "user"]
            row = said.loc[(example["user"], example["item"])]
            assert tastes == ([row["user_true"]] if row["named"] else [])


def test_rows_of_the_small_models_follow_from_the_kept_values():
    "All but the shares of right predictions, whose intervals follow from value and number."
    evaluations, settings = kept_pictures(), ZOO_PRESETS["tiny"].evaluation
    labels = {"run": "zoo", "dataset": "world", "split": "test"}
    found = [*model_rows(evaluations, labels), accuracy_differences(evaluations, labels, settings),
             outline_differences(evaluations, labels, settings), general_rows(evaluations, labels, settings)]
    for rows in found:
        assert_committed(rows, "zoo")
    assert sum(map(len, found)) == len(rows_of("zoo")[~rows_of("zoo")["model"].isin(["clip", "classifier"])])


HOLM = ["tiktok", "ml-1m", *GRAPHS, "world_prior", "world_pictures", "prior_benchmarks"]


def parts_of(report: str, rows: pd.DataFrame) -> pd.Series:
    "The part of the report that a comparison is printed in."
    part = pd.Series("main", rows.index)
    if report in GRAPHS:
        part[rows["versus"].eq(report.split("_")[1])] = "ablations"
        part[rows["versus"].isin(SIMPLE)] = "simple"
        part[rows["model"].str.startswith(("lightgcn", "lattice", "bm3"))] = "neighbours"
    return part


@pytest.mark.parametrize("report", HOLM)
def test_p_values_are_corrected_for_all_comparisons_of_their_table(report: str):
    rows = rows_of(report)
    named = rows["metric"].str.extract(r"^(p|p_holm)\((.*)\)$")
    rows = rows.assign(kind=named[0], of=named[1], part=parts_of(report, rows))[named[0].notna()]
    rows.loc[rows["of"].eq("utility_at_coverage"), "part"] = rows["slice"]            # one table over all groups
    table = ["part", "split", "selection", "k", "of"]
    over_groups = rows["of"].eq("utility_at_coverage")
    sizes = []
    for one in (rows[over_groups], rows[~over_groups]):
        for _, family in one.groupby(table[1:] if over_groups[one.index].any() else [*table, "slice"], dropna=False):
            pair = family.pivot(index=["slice", "model", "versus"], columns="kind", values="value")
            assert pair["p_holm"].to_numpy() == pytest.approx(holm(pair["p"]), abs=1e-15)
            sizes.append(len(pair))
    assert max(sizes) == {"tiktok": 25, "ml-1m": 6, "tiktok_diffmm": 17, "tiktok_genrec": 11, "world_prior": 15,
                          "world_pictures": 9, "prior_benchmarks": 1}[report]


@pytest.mark.parametrize("report", ["tiktok", "ml-1m", *GRAPHS, "world_prior", "world_pictures"])
def test_no_interval_of_few_users_is_a_percentile_interval(report: str):
    "No interval reaches 95 % for up to five users; from six on the exact one is needed, from each user's values."
    rows = rows_of(report)
    few = rows[(rows["n"] < FEW_USERS) & rows["ci_low"].notna()]
    few = few[~few["slice"].str.endswith("_long_sampler")]       # exact ones, computed anew from each user's values below
    assert few.empty, few[["slice", "model", "metric", "n"]].drop_duplicates()


# Priors: from the values of every user that are kept in judged.parquet.


def test_rows_of_the_simulation_follow_from_the_kept_values():
    values = read_table(reports / "simulation" / "judged.parquet")
    assert_committed(simulation_rows(values, "simulation", SIMULATION_PRESETS["full"]), "simulation")


@cache
def world_values() -> pd.DataFrame:
    return read_table(reports / "world_prior" / "judged.parquet")


WORLD = {"run": "world_prior", "dataset": "world-gallery-ratings", "split": "test"}


def test_rows_of_the_world_prior_follow_from_the_kept_values():
    "All systems for users with few likes, with their intervals, differences, and p-values."
    values, study = world_values(), prior_study("world", "evaluation")
    assert_committed(draw_rows(values[values["slice"].eq("few")], study, WORLD), "world_prior")


def kept_of_world(name: str, seed: int = 0) -> Trial:
    return read_trial(reports / "world_prior" / "trials" / f"{name}-seed-{seed}.parquet")


def test_evaluated_draws_of_the_world_prior_are_those_of_its_trials():
    "Every value of every user."
    keys = ["user", "slice", "guidance_scale", "metric"]
    for (model, seed), own in world_values().groupby(["model", "seed"]):
        kept = pd.concat(blocks_of(kept_of_world(model, seed)))
        one, other = (frame.astype({"slice": str, "metric": str}).fillna({"guidance_scale": -1.}).set_index(keys)["value"]
                      for frame in (own, kept))
        assert one.index.is_unique and one.sort_index().equals(other.sort_index()), (model, seed)


def test_rows_of_long_samplers_follow_from_the_kept_values():
    study, frames = prior_study("world", "evaluation"), []
    for model, (_, n_draws, _) in study.long_samplers.items():
        blocks = {model: blocks_of(kept_of_world(f"{model}_short_sampler")),
                  f"{model}_long_sampler": blocks_of(kept_of_world(f"{model}_long_sampler"))}
        frames += [block.assign(model=label, seed=study.seeds[0], k=n_draws).drop(columns="guidance_scale")
                   for pair in zip(*blocks.values(), strict=True) for label, block in zip(blocks, pair)]
    values = pd.concat(frames, ignore_index=True)
    found = long_sampler_rows(values, study, WORLD)
    assert_committed(found, "world_prior")
    few = found[found["versus"].eq("") & found["seed"].isna() & found["ci_low"].notna()]
    assert len(few) and (few["n"] < FEW_USERS).all()
    for row in few.itertuples():                                     # one training each: exact, and no percentile
        own = values[values["slice"].eq(row.slice) & values["model"].eq(row.model) & values["metric"].eq(row.metric)]
        ends = few_users_interval(own["value"].to_numpy(float), None, rng_for(0, "not used"))
        assert np.allclose((row.ci_low, row.ci_high), ends, rtol=0, atol=ROUNDING), row


def resampled_uplifts(file: str, keys: list[str]) -> dict[tuple, tuple]:
    "Key -> estimate and resamples, from the two values of every user and training."
    values, n_resamples = read_table(reports / "world_prior" / file), prior_study("world", "evaluation").n_resamples
    found = {}
    for key, own in values.groupby(keys, sort=False):
        gains, bases = (np.stack([part[name].to_numpy() for _, part in own.groupby("seed")]) for name in ("gain", "base"))
        group = dict(zip(keys, key))["slice"]
        found[key] = relative_gain(gains, bases, rng_for(0, f"uplift {group}"), n_resamples)
    return found


def test_uplifts_of_the_world_prior_are_computed_anew():
    "Own draws against those of others, by the truth and by the verifier; and what unseen users keep."
    found, rows, checked = resampled_uplifts("uplifts.parquet", ["slice", "model", "evaluator"]), rows_of("world_prior"), 0
    for (group, model, evaluator), (estimate, _) in found.items():
        own = rows[(rows["slice"] == group) & (rows["model"] == model) & (rows["metric"] == f"relative_uplift({evaluator})")]
        assert len(own) == 1
        assert np.allclose(own[NUMBERS].astype(float), [[estimate.value, estimate.ci_low, estimate.ci_high,
                                                         estimate.n_users]], rtol=0, atol=ROUNDING)
        checked += 1
    assert checked == rows["metric"].str.startswith("relative_uplift(").sum()
    by_size = resampled_uplifts("support_uplifts.parquet", ["model", "slice", "support"])
    study = prior_study("world", "evaluation")
    for name, count in {(model, size) for model, _, size in by_size if size in study.support_sizes}:
        for versus, most in {"seen": max(study.n_support, count), "seen_alike": count}.items():
            kept = kept_share(by_size[name, "seen", most], by_size[name, "unseen", count])
            own = rows[(rows["metric"] == "kept_share") & (rows["model"] == name) & (rows["versus"] == versus)
                       & (rows["slice"] == f"unseen_support{count}")]
            assert np.allclose(own[NUMBERS[:3]].astype(float), [[kept.value, kept.ci_low, kept.ci_high]], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("part", ["verifier", "unseen", "evaluator"])
def test_rows_of_verifiers_are_computed_anew(part: str):
    "From the predictions for every rating."
    names = {"verifier": {name: name for name in (*Verifiers.models, "oracle")},
             "unseen": {"verifier": "verifier_with_ratings", "verifier_no_ratings": "verifier_no_ratings"},
             "evaluator": {"evaluator": "evaluator"}}[part]
    predictions = pd.concat([predictions_of(kept_of_world(trial)).assign(model=model) for model, trial in names.items()])
    report = {**WORLD, "split": "train"} if part == "evaluator" else WORLD
    found = verifier_report(predictions.reset_index(drop=True), prior_study("world", "evaluation"), report, part)
    assert_committed(found.astype({"slice": rows_of("world_prior")["slice"].dtype}), "world_prior")


def test_differences_at_equal_coverage_follow_from_the_kept_values():
    "With the p-values of all fifteen comparisons, corrected together."
    found = pd.concat(match_controls(world_values(), prior_study("world", "evaluation"), WORLD).rows)
    assert_committed(found, "world_prior")
    assert (found["metric"] == "p_holm(utility_at_coverage)").sum() == 15


def test_rows_of_the_pictures_follow_from_the_kept_values():
    "Thirty users, their intervals, and the p-values of nine controls, corrected together."
    values = read_table(reports / "world_pictures" / "judged.parquet")
    report = {"run": "world_pictures", "dataset": "world-gallery-ratings", "split": "test"}
    found = picture_rows(values, prior_study("world", "drawing"), report)
    assert_committed(found, "world_pictures")
    assert len(found) == len(rows_of("world_pictures")) and values["user"].nunique() == 30


# What adds what, and when generated edges help: from trials of two reports, and from the values of every user.


def values_of(reports_of_models: dict[str, str]) -> pd.DataFrame:
    "Recall@20 and NDCG@20 of every test user on TikTok in the trials that a report keeps of each model."
    frames = []
    for model, report in reports_of_models.items():
        for path in sorted((reports / report / "trials").glob(f"{model}-seed-*.parquet")):
            values = read_trial(path).values.query("slice == 'all' and selection == 'valid' and k == 20 and metric in ('recall', 'ndcg')")
            seed = None if model in ("popularity", "walk", "ease") else int(path.stem.rsplit("-", 1)[1])
            seeds = pd.array([seed] * len(values), "Int64")
            frames.append(values.astype({"slice": str, "metric": str}).assign(model=model, seed=seeds))
    return pd.concat(frames, ignore_index=True)


def test_rows_of_what_adds_what_follow_from_the_kept_values():
    "Every step of the table and every model in it."
    values = values_of({step.model: "tiktok_losses" if step.model in BY_LOSS_MODELS else "tiktok_diffmm" for step in ADDITIONS})
    assert_committed(without_holm(addition_rows(values, ADDITIONS, "tiktok_losses", "tiktok")), "tiktok_losses")


@pytest.mark.parametrize("report", GRAPHS)
def test_rows_beside_simple_models_follow_from_the_kept_values(report: str):
    "Forms of a system and the corrected one without edges, minus the walk, EASE and LightGCN by the softmax; p_holm of their table."
    system = report.split("_")[1]
    compared = (*FORMS[system], f"{system}_none")
    values = values_of({**dict.fromkeys(compared, report), **dict.fromkeys(SIMPLE, "tiktok_table")})
    study = RecommenderStudy("tiktok", compared, rivals=tuple(dict.fromkeys(compared, other) for other in SIMPLE))
    found = ranking_rows(values, {}, study, report, "tiktok").query("versus != ''")
    assert_committed(found, report)
    committed = rows_of(report)
    committed = committed[committed["versus"].isin(SIMPLE)]
    assert len(found) == len(committed) == 3 * 2 * len(SIMPLE) * len(compared)        # difference, p, p_holm; two metrics
    assert set(committed["n"].dropna()) == {6130} and set(committed["slice"]) == {"all"} and set(committed["selection"]) == {"valid"}


def test_rows_of_the_map_of_generated_graphs_follow_from_the_values():
    "The points of one line of the grid, without what is over all points: the mean and the corrected p-values."
    study = replace(GRAPH_MAPS["worlds"], events=(12.,), further=(), comparisons=GRAPH_MAPS["worlds"].comparisons[:2])
    values = read_table(reports / "when_graphs_help" / "values.parquet").astype({"point": str, "slice": str, "model": str})
    of_line = values[values["point"].isin([point.name for point in study.points()]) & values["slice"].eq("all")]
    found = without_holm(map_rows(of_line, study, "when_graphs_help"))
    found = found[found["dataset"] != EVERY_POINT]
    assert_committed(found, "when_graphs_help")
    assert found["dataset"].nunique() == 5 and (found["versus"] == "diffmm_none").sum() == 5 * (3 + 1 + 1)


# Costs: from the CPU seconds of every turn.


def test_costs_of_generated_graphs_follow_from_every_turn():
    timings = read_table(reports / "graph_benchmarks" / "timings.parquet")
    system = timings["model"].str.partition("_")[0]
    for name in ("diffmm", "genrec"):
        assert_committed(epoch_rows(timings[system.eq(name)], f"{name}_literal", "graph_benchmarks", "tiktok"),
                         "graph_benchmarks")


def test_costs_of_priors_follow_from_every_turn():
    timings = read_table(reports / "prior_benchmarks" / "timings.parquet")
    for what, turns in timings.groupby("what"):
        assert_committed(cost_rows(turns, "released_whitened", "prior_benchmarks", what), "prior_benchmarks")


def test_quality_of_the_peer_in_the_benchmarks_is_the_best_of_its_curves():
    curves, rows = read_table(reports / "benchmarks" / "curves.parquet"), rows_of("benchmarks")
    quality = rows[rows["metric"].eq("ndcg")].set_index("model")["value"]
    assert quality["implicit"] == curves.loc[curves["model"].eq("implicit"), "quality"].max()
    assert quality["mf_bpr"] in set(curves.loc[curves["model"].eq("mf_bpr"), "quality"])


def test_slopes_of_memory_follow_from_the_peaks():
    rows = rows_of("graph_scale")
    assert_committed(slope_rows(rows[~rows["metric"].str.startswith("slope")], 20_000), "graph_scale")


# Two counters on ML-1M, from the public files.


def test_auc_of_two_counters_follows_from_the_data(tmp_path: Path):
    "Fitted anew with the settings that validation chooses; AUC by scikit-learn, with the epoch chosen on validation."
    paths = Paths.find(Path(__file__).parent)
    if not all((paths.data / file.path).exists() for file in SOURCES["ml-1m"].files):
        pytest.skip(f"ml-1m is not in the data root {paths.data}")
    save_dataset(open_dataset("ml-1m", paths), tmp_path / "data")
    study = replace(PRESETS["ml-1m"], models=("popularity", "like_rate"))
    dataset, folder = open_events(tmp_path / "data", study.like_at_least, tmp_path)
    trained, _ = train_study(RECOMMENDERS, study, folder, tmp_path)
    predictions = label_predictions(RECOMMENDERS, trained, dataset, "test", tmp_path, tmp_path / "data")
    rows = rows_of("ml-1m")
    for (model, selection), part in predictions.groupby(["model", "selection"]):
        row = rows[rows["model"].eq(model) & rows["selection"].eq(selection) & rows["metric"].eq("auc")
                   & rows["slice"].eq("all") & rows["versus"].eq("") & rows["seed"].isna()]
        assert row["value"].item() == pytest.approx(roc_auc_score(part["label"], part["score"]), abs=1e-12)
        assert row["n"].item() == part["user"].nunique()
    assert len(trained) == 2


# Pictures drawn for users: from the trials of the adapters.


def test_rows_of_pictures_for_users_follow_from_the_kept_values():
    "By the code, the recipes and the settings of today."
    study, frames, facts = PERSONAL_PRESETS["world"], [], {}
    settings, recipes = PersonalEvaluation(**study.evaluation), study_recipes(PERSONAL, study)
    for model, recipe in recipes.items():
        path = reports / "world_image_lora" / "trials" / f"{model}-seed-0.parquet"
        header, trial = read_header(path), read_trial(path)
        made = {**header["made_from"], "code": source_hash(PERSONAL.definitions(recipe))}
        assert was_made_from(path, recipe, made), model
        assert header["evaluated"] == evaluation_record(PERSONAL, settings), model
        seeds = pd.array([0 if recipe.fit else None] * len(trial.values), "Int64")
        frames.append(trial.values.astype({"slice": str, "metric": str}).assign(model=model, seed=seeds))
        facts[model] = trial.facts
    controls = study_controls(PERSONAL, study, [{"model": model} for model in recipes])
    named = "world_image_lora", "world-gallery-ratings"
    fusion = fusion_rows(read_table(reports / "world_image_lora" / "fusion.parquet"), *named, rng_for(0, "fusion"), study.n_resamples)
    found = pd.concat([personal_rows(pd.concat(frames, ignore_index=True), controls, study, *named),
                       user_cost_rows(facts, study, *named), fusion])
    assert_committed(found, "world_image_lora")


def test_weights_of_users_are_learned_from_the_kept_examples():
    "Of the training that is kept, by the settings and the code of today; users are apart as they were."
    study, folder, file = PERSONAL_PRESETS["world"], reports / "world_image_lora", "generated-seed-0.parquet"
    asked, path = fusion_settings(study), folder / "trials" / "fusion" / file
    header, measured = read_header(path), predictions_of(read_trial(path))
    assert header["made_from"] == read_header(folder / "trials" / file)["made_from"]
    assert header["evaluated"] == measured_by(asked, PersonalEvaluation(**study.evaluation).zoo)
    assert len(measured) == asked.n_examples
    target = fusion_target(*(torch.tensor(measured[part].tolist()) for part in ("with_user", "without")), asked.temperature)
    for model, part in read_table(folder / "fusion.parquet").groupby("model"):
        assert part["user"].tolist() == measured["user"].tolist(), model
        assert part["part"].tolist() == parts_of_users(part["user"].to_numpy(), 0).tolist(), model
        np.testing.assert_allclose(part["target"], target.numpy(), rtol=0, atol=1e-6)


# Judges: from their scores of every picture.


def test_agreement_of_judges_follows_from_their_kept_scores():
    name = "world_judges"
    study, scores = JUDGE_PRESETS["world"], read_table(reports / name / "scores.parquet")
    assert scores.groupby("judge").size().eq(study.n_users * 3 * study.n_draws).all()
    dataset = rows_of(name)["dataset"].iloc[0]
    found = agreement_rows(scores, JUDGE_CONTROLS, name, dataset, 3 * study.n_draws, rng_for(study.seed, "agreement"), study.n_resamples)
    assert_committed(found, name)


# Personalisation: from the values that three other reports keep.


def test_rows_of_personalisation_follow_from_the_values_of_other_reports():
    "Uplifts, p-values and wins by the code of today; the gains are those of the trials and tables that are kept now."
    name, named = "world_personalisation", ("world_personalisation", "world-gallery-ratings")
    controls = {model: recipe.control for model, recipe in study_recipes(PERSONAL, PERSONAL_PRESETS["world"]).items() if recipe.control}
    drawn = read_json(reports / "world_prior" / "config.json")["parameters"]
    of_priors = prior_gains(reports / "world_prior", drawn["n_draws"])
    beside = {model: "prior" for model in of_priors["model"].unique() if model != "prior"}
    pictures = read_table(reports / "world_pictures" / "judged.parquet").query("metric == 'utility'").assign(slice="pictures")
    found = [gain_rows(image_gains(reports / "world_image_lora"), controls, *named), gain_rows(of_priors, beside, *named),
             win_rows(pictures, "utility", "prior_8", 4, *named), order_agreement(of_priors, "verifier", "truth", *named)]
    assert_committed(pd.concat(found), name)
