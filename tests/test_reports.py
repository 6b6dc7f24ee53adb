"""The committed reports hold what the project promises: every model beside its control, with intervals, in the bounds it claims."""
import ast
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from diffrec.core.artifacts import read_json, read_rows
from diffrec.evaluation.rows import number_text
from diffrec.graph_diffusion.builders import CONTROL_KINDS
from diffrec.graph_diffusion.recipes import ABLATIONS
from diffrec.recommenders.recipes import RECIPES
from diffrec.studies.trials import read_trial

reports = Path(__file__).parent.parent / "outputs" / "reports"


def over_seeds(name: str, metric: str, k: int | None = None, versus: str = "", selection: str = "valid") -> pd.DataFrame:
    "Rows over all seeds of a committed report, indexed by model."
    rows = read_rows(reports / name / "results.parquet")
    rows = rows[(rows["metric"] == metric) & (rows["versus"] == versus) & rows["seed"].isna() & (rows["slice"] == "all")
                & (rows["selection"] == selection)]
    return (rows[rows["k"] == k] if k else rows).set_index("model")


def by_seed(name: str, metric: str, model: str) -> pd.Series:
    rows = read_rows(reports / name / "results.parquet")
    rows = rows[(rows["metric"] == metric) & (rows["model"] == model) & (rows["versus"] == "") & rows["seed"].notna()
                & (rows["slice"] == "all") & (rows["selection"] == "valid")]
    return rows.set_index("seed")["value"]


def test_ml1m_reaches_the_measured_floors():
    "Bounds around independent measurements of the same recipes on the same split; four seeds fixed beforehand."
    auc, uauc = over_seeds("ml-1m", "auc")["value"], over_seeds("ml-1m", "uauc")["value"]
    assert auc["mf"] == pytest.approx(.648, abs=.010) and uauc["mf"] == pytest.approx(.637, abs=.012)
    assert auc["mf_bias"] >= .715
    assert auc["like_rate"] == pytest.approx(.7335, abs=.004) and uauc["like_rate"] == pytest.approx(.6786, abs=.004)
    seeds = by_seed("ml-1m", "auc", "mf")
    assert len(seeds) >= 3 and seeds.min() > .60, "a seed has collapsed"


@pytest.mark.parametrize("model", ["mf_bpr", "vbpr", "neumf", "lightgcn"])
def test_tiktok_has_five_seeds_and_both_selections(model: str):
    assert len(by_seed("tiktok", "recall", model)) >= 5
    for metric in ("recall", "ndcg", "precision"):
        for selection in ("valid", "test_best"):
            row = over_seeds("tiktok", metric, 20, selection=selection).loc[model]
            assert row["ci_low"] <= row["value"] <= row["ci_high"] and row["n"] == 6130


@pytest.mark.parametrize("name, metric, k", [("tiktok", "recall", 20), ("ml-1m", "auc", None)])
def test_every_model_stands_beside_its_control(name: str, metric: str, k: int | None):
    controls = {model: recipe.control for model, recipe in RECIPES[name].items()}
    models = set(over_seeds(name, metric, k).index) - set(controls.values())
    assert models
    for model in models:
        row = over_seeds(name, metric, k, versus=controls[model]).loc[model]
        assert row["ci_low"] <= row["value"] <= row["ci_high"]


@pytest.mark.parametrize("model, peer, limit", [
    ("top_k", "bare_top_k", 2.), ("lightgcn", "pyg_lightgcn", .2), ("mf_bpr", "implicit", 3.)])
def test_benchmarks_keep_their_limits(model: str, peer: str, limit: float):
    rows = read_rows(reports / "benchmarks" / "results.parquet")
    ratio = rows[(rows["metric"] == "cpu_ratio") & (rows["model"] == model) & (rows["versus"] == peer)]["value"]
    assert len(ratio) == 1 and ratio.iloc[0] <= limit


GRAPH_FORMS = [("tiktok_diffmm", "diffmm_fast"), ("tiktok_diffmm", "diffmm"), ("tiktok_genrec", "genrec")]


@pytest.mark.parametrize("report, model", GRAPH_FORMS)
def test_generated_graphs_stand_beside_none_and_observed(report: str, model: str):
    "Five seeds each; what the README says of them is what the rows say: the better of both controls is not beaten."
    values = over_seeds(report, "recall", 20)["value"]
    controls = [f"{model}_none", f"{model}_observed"]
    for control in controls:
        row = over_seeds(report, "recall", 20, versus=control).loc[model]
        assert row["n"] == 6130 and row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["value"] == pytest.approx(values[model] - values[control], abs=1e-9)
        assert len(by_seed(report, "recall", model)) == len(by_seed(report, "recall", control)) == 5
    assert over_seeds(report, "recall", 20, versus=max(controls, key=values.get)).loc[model, "ci_low"] <= 0


@pytest.mark.parametrize("kind", CONTROL_KINDS)
@pytest.mark.parametrize("report, model", GRAPH_FORMS)
def test_generated_graphs_stand_beside_every_control(report: str, model: str, kind: str):
    row = over_seeds(report, "recall", 20, versus=f"{model}_{kind}").loc[model]
    assert row["ci_low"] <= row["value"] <= row["ci_high"] and row["n"] == 6130
    assert len(by_seed(report, "recall", f"{model}_{kind}")) == 5


@pytest.mark.parametrize("report, model, controls", [
    ("tiktok_diffmm", "diffmm_faithful", ["diffmm_fast_none", "diffmm_fast_observed"]),
    ("tiktok_genrec", "genrec_faithful", [f"genrec_faithful_{kind}" for kind in CONTROL_KINDS])])
def test_published_forms_do_not_show_that_their_graph_helps(report: str, model: str, controls: list[str]):
    "Three seeds; beside the twin without a generated graph the interval holds zero or lies below."
    assert len(by_seed(report, "recall", model)) == 3
    for control in controls:
        row = over_seeds(report, "recall", 20, versus=control).loc[model]
        assert row["ci_low"] <= 0 and row["ci_low"] <= row["value"] <= row["ci_high"]


@pytest.mark.parametrize("report, system", [("tiktok_diffmm", "diffmm"), ("tiktok_genrec", "genrec")])
def test_every_setting_is_taken_away_once(report: str, system: str):
    compared = over_seeds(report, "recall", 20, versus=system)
    for change in ABLATIONS[system]:
        row = compared.loc[f"{system}_{change}"]
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert (reports / report / "notes.md").read_text(encoding="utf-8").startswith("**The goal was not reached.**")


@pytest.mark.parametrize("model", ["lightgcn", "lightgcn_m", "bm3", "lattice"])
def test_neighbours_are_alive(model: str):
    assert len(by_seed("tiktok_diffmm", "recall", model)) == 5
    if model != "lightgcn":
        row = over_seeds("tiktok_diffmm", "recall", 20, versus=f"{model}_shuffled").loc[model]
        assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_observed_controls_reach_what_was_measured_independently():
    "Of the references' own code with observed edges, within two standard errors of .004."
    assert over_seeds("tiktok_diffmm", "recall", 20)["value"]["diffmm_fast_observed"] >= .109 - 2 * .004
    for model in ("genrec_observed", "genrec_faithful_observed"):
        assert over_seeds("tiktok_genrec", "recall", 20)["value"][model] >= .102 - 2 * .004


def test_the_fast_form_finds_what_the_faithful_one_finds():
    pair = over_seeds("tiktok_diffmm", "recall", 20, versus="diffmm_faithful").loc["diffmm_fast"]
    assert pair["ci_low"] < 0 < pair["ci_high"]


def test_the_published_generator_of_genrec_collapses_and_the_corrected_one_does_not():
    drawn = read_rows(reports / "tiktok_genrec" / "results.parquet").query("metric == 'distinct_targets'").groupby("model")["value"].mean()
    assert drawn["genrec_faithful"] < 5 and drawn["genrec"] > 1000


@pytest.mark.parametrize("report", ["tiktok_diffmm", "tiktok_genrec"])
def test_rows_follow_from_the_trials_that_are_kept_beside_them(report: str):
    "The means of every training and every model, from what each test user got."
    trials = [(*path.stem.rsplit("-seed-", 1), read_trial(path).values) for path in sorted((reports / report / "trials").glob("*.parquet"))]
    judged = pd.concat([frame[(frame["slice"] == "all") & (frame["metric"] == "recall") & (frame["selection"] == "valid")]
                        .assign(model=model, seed=int(seed)) for model, seed, frame in trials])
    means = judged.groupby(["model", "seed"])["value"].mean()
    models = set(over_seeds(report, "recall", 20).index)
    assert models <= set(means.index.get_level_values("model"))
    for model in models:
        assert by_seed(report, "recall", model).to_dict() == pytest.approx(means[model].to_dict(), abs=1e-9)
        assert over_seeds(report, "recall", 20)["value"][model] == pytest.approx(means[model].mean(), abs=1e-9)


@pytest.mark.parametrize("model, literal, limit", [("diffmm_fast", "diffmm_literal", .2), ("genrec", "genrec_literal", .1)])
def test_fast_forms_keep_their_cost(model: str, literal: str, limit: float):
    "CPU seconds of an epoch on TikTok, measured in one run with the published formulas beside."
    ratio = over_seeds("graph_benchmarks", "cpu_ratio", versus=literal).loc[model]
    assert ratio["ci_high"] <= limit
    assert over_seeds("graph_benchmarks", "epoch_cpu_seconds").loc[model, "value"] <= 15


def test_memory_grows_slower_than_the_catalogue_and_was_foretold():
    rows = read_rows(reports / "graph_scale" / "results.parquet")
    latent = rows[rows["model"] == "diffmm_latent"]
    values = lambda metric: latent[latent["metric"] == metric].set_index("dataset")["value"]
    assert (values("slope") <= 1.1).all() and (values("slope_above") <= 1.1).all() and len(values("slope")) == 1
    assert {"20000x10000", "20000x300000", "100000x100000"} <= set(values("peak_mib").index)
    assert values("peak_mib")["100000x100000"] < 16 * 1024 and values("n_events")["100000x100000"] == 2_000_000
    ratios = rows[rows["metric"] == "estimate_ratio"]["value"]
    assert len(ratios) >= 5 and ratios.between(.75, 1.25).all()


def test_ranking_of_ten_billion_pairs_stays_small():
    rows = read_rows(reports / "benchmarks" / "results.parquet")
    peak = rows[(rows["metric"] == "peak_mib") & (rows["n"] == 100_000)]["value"]
    assert len(peak) == 1 and peak.iloc[0] < 4096


@pytest.mark.parametrize("name", ["tiktok", "ml-1m", "benchmarks", "tiktok_diffmm", "tiktok_genrec", "graph_benchmarks", "zoo", "prior_benchmarks", "world_prior", "world_pictures", "simulation"])
def test_reports_say_where_they_come_from_and_name_no_folder_of_a_machine(name: str):
    record = read_json(reports / name / "config.json")
    assert record["parameters"] and record["data"] and record["packages"]["torch"] and record["cost"]["cpu_seconds"] > 0
    text = (reports / name / "report.ipynb").read_text(encoding="utf-8")
    assert '"/home/' not in text and '"/work/' not in text and '"/root/' not in text
    assert "image/png" in text


def zoo_rows(metric: str, versus: str = "") -> pd.Series:
    rows = read_rows(reports / "zoo" / "results.parquet")
    return rows[(rows["metric"] == metric) & (rows["versus"] == versus)].set_index(["slice", "model"])["value"]


def test_the_small_models_reach_what_was_asked_of_them():
    for attribute, bound in {"shape": .80, "hue": .95, "pattern": .85, "background": .95}.items():
        found = zoo_rows(f"{attribute}_accuracy")
        assert found["full", "clip"] >= .90 and found["short", "clip"] >= .90
        assert found["followed", "sd15_adapter"] >= bound > found["followed", "sd15_no_adapter"] + .3 and bound > found["followed", "sd15_adapter_shuffled"] + .3
    outlines, right = zoo_rows("outline_iou"), zoo_rows("all_accuracy")
    assert outlines["followed", "sd15_adapter"] >= .80
    assert right["described", "sd3"] >= .92 and right["described", "sd3_shuffled"] <= .1 and outlines["described", "sd3"] >= .85
    assert outlines["general", "sd3"] >= .80 and "**General prompts are half of what was wanted.**" in (reports / "zoo" / "notes.md").read_text()


def test_noise_drawn_anew_cleans_outlines_and_all_of_it_anew_costs_variety():
    every = read_rows(reports / "zoo" / "results.parquet")
    beside = every[every["versus"] == "sd3_long"].set_index(["slice", "metric", "model"])
    for task in ("described", "general"):
        assert beside.loc[(task, "mean_outline_iou", "sd3_ancestral"), "ci_low"] > 0
    assert beside.loc[("general", "outline_iou_of_kinds", "sd3_ancestral"), "ci_low"] > 0 and beside.loc[("described", "all_accuracy", "sd3_renewed"), "ci_high"] < 0
    assert zoo_rows("all_accuracy")["described", "sd3_ancestral"] >= .95 and zoo_rows("outline_iou")["general", "sd3_renewed"] >= .9
    varied = every[every["metric"].str.endswith("_variety")].set_index(["metric", "model"])
    assert varied.loc[("pattern_variety", "sd3_renewed"), "ci_high"] < 1.5 and varied.loc[("pattern_variety", "sd3_ancestral"), "ci_low"] > 2.5
    assert varied.loc[("shape_variety", "sd3_renewed"), "ci_high"] < varied.loc[("shape_variety", "sd3_long"), "ci_low"] < varied.loc[("shape_variety", "sd3_ancestral"), "value"] < varied.loc[("shape_variety", "possible"), "value"]


def test_the_default_prior_is_cheap_and_errs_less_and_covers_no_less_on_average_than_the_released_one():
    rows = read_rows(reports / "prior_benchmarks" / "results.parquet")
    cost = rows[(rows["metric"] == "cpu_seconds") & (rows["versus"] == "")].set_index(["dataset", "model"])["value"]
    assert 1 / cost["train", "prior"] >= 1900 and cost["draw", "prior"] <= .020
    assert cost["train", "released_whitened"] >= 5 * cost["train", "prior"] and cost["draw", "released_whitened"] >= 100 * cost["draw", "prior"]
    paired = rows[(rows["versus"] == "released_whitened") & rows["seed"].isna()].set_index("metric")
    assert paired.loc["validation_error", "ci_high"] < 0 and paired.loc["coverage", "n"] == 210
    assert paired.loc["coverage", "value"] >= 0 and paired.loc["coverage", "ci_low"] > -.02                                # less by at most so much
    covered = rows[(rows["metric"] == "coverage") & (rows["versus"] == "") & rows["seed"].isna()].set_index("model")["value"]
    assert covered.between(.2, .9).all()                             # a measure that everything passes measures nothing
    assert cost["draw", "released_whitened_together"] >= 100 * cost["draw", "prior"]
    spent = rows[rows["metric"] == "training_cpu_seconds"].groupby("model")["value"].mean()
    assert spent["prior"] < spent["released_whitened"] and len(rows[(rows["metric"] == "training_cpu_seconds") & (rows["model"] == "prior")]) == 3


def taste_rows(metric: str, versus: str = "") -> pd.DataFrame:
    rows = read_rows(reports / "world_prior" / "results.parquet")
    return rows[(rows["metric"] == metric) & (rows["versus"] == versus) & rows["seed"].isna()].set_index(["slice", "model"])


@pytest.mark.parametrize("control", ["mean", "gaussian", "kde", "retrieval"])
def test_at_equal_coverage_the_prior_is_worth_more_than_controls_that_know_the_person(control: str):
    found = taste_rows("utility_at_coverage", control)
    for group in ("few", "many", "unseen"):
        assert found.loc[(group, "prior"), "ci_low"] > 0 and found.loc[(group, "prior"), "n"] == 80


def test_a_verifier_that_knows_people_chooses_as_well_as_the_prior_draws():
    found = taste_rows("utility_at_coverage", "best_of")
    for group in ("few", "many", "unseen"):
        assert found.loc[(group, "prior"), "ci_low"] <= 0 <= found.loc[(group, "prior"), "ci_high"]


def test_draws_of_the_prior_are_personal_and_those_of_its_controls_show_why():
    personal = taste_rows("relative_uplift(truth)", "permuted")
    assert all(personal.loc[(group, "prior"), "value"] >= .10 and personal.loc[(group, "prior"), "ci_low"] > 0 for group in ("few", "many", "seen", "unseen"))
    kept = taste_rows("kept_share", "seen")
    assert kept.loc[("unseen", "prior"), "value"] >= .60 > kept.loc[("unseen_support16", "prior"), "value"] >= .50 and kept.loc[("unseen_support16", "prior"), "ci_high"] > .60      # .60 was asked for at 16, as its notes say
    assert kept.loc[("unseen_support16", "prior_user_more"), "value"] >= .60 and taste_rows("kept_share", "seen_alike").loc[("unseen_support16", "prior"), "value"] >= .60
    judged = taste_rows("relative_uplift(verifier)", "permuted")
    assert judged.loc[("few", "prior"), "value"] >= .10 and (judged["ci_low"] > 0).all() and set(judged.index.get_level_values("slice")) == {"few", "many", "unseen"}
    for group in ("few", "many", "unseen"):
        assert min(found.loc[(group, "prior_user_more"), "ci_low"] for found in (personal, judged)) >= .10, "the person's guidance stronger than the score's"
    utility = taste_rows("utility", "shuffled").loc[(slice(None), "prior"), "ci_low"]
    assert (utility > 0).all()
    without = taste_rows("utility", "prior").loc[(slice(None), "prior_no_direction"), "ci_high"]
    assert (without < 0).all(), "the lean is what knows people"


def test_a_judge_without_the_truth_orders_systems_as_the_truth_does():
    rows = read_rows(reports / "world_prior" / "results.parquet")
    agreed = rows[rows["metric"].str.startswith("rank_correlation")]
    assert len(agreed) == 6 and agreed["value"].min() > .7
    beside = taste_rows("utility")["value"]
    assert all(beside[group, "prior"] > beside[group, model] + .2 for group in ("few", "many") for model in ("released_scaled", "released_whitened"))


def test_the_verifier_is_calibrated_and_knows_people_by_what_they_rated():
    assert taste_rows("ece").loc[("all", "verifier"), "value"] <= .03
    for metric in ("auc", "uauc", "preference(uauc)"):
        row = taste_rows(metric).loc[("all", "verifier")]
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
    condition = taste_rows("preference(uauc)")
    assert condition.loc[("all", "verifier"), "ci_low"] > .6 and condition.loc[("unseen", "verifier"), "ci_low"] > .55
    assert condition.loc[("all", "verifier_published"), "ci_high"] < condition.loc[("all", "verifier"), "ci_low"] < condition.loc[("all", "oracle"), "value"]
    assert taste_rows("preference(uauc)", "verifier_shuffled").loc[("all", "verifier"), "ci_low"] > .05
    assert taste_rows("preference(uauc)", "verifier").loc[("all", "verifier_user_ids"), "ci_high"] < 0, "without histories it knows less of people"


def test_the_simulation_reaches_what_can_be_computed():
    rows = read_rows(reports / "simulation" / "results.parquet")
    perfect = rows.loc[rows["metric"] == "perfect", "value"].iloc[0]
    rows = rows[(rows["versus"] == "") & ~((rows["metric"] == "precision") & (rows["k"] != 25))].set_index(["model", "slice", "metric"])     # of neighbours there is a precision too
    at = lambda model, guidance_scale, metric: rows.loc[(model, f"guidance_{guidance_scale:g}", metric)]
    assert perfect == pytest.approx(.795, abs=.001)
    assert at("prior_user_id", 1, "precision")["value"] == pytest.approx(perfect, abs=.02) and at("prior_user_id", 1, "coverage")["value"] >= .85
    guided = [guidance_scale for guidance_scale in (1.5, 2., 3., 5.) if at("prior_user_id", guidance_scale, "precision")["value"] >= .93]
    assert guided and all(at("prior_user_id", guidance_scale, "network_calls")["value"] <= 20 for guidance_scale in (1., *guided))
    assert at("prior_population", 1, "precision")["ci_high"] < .5, "a prior that knows nobody draws what nobody in particular likes"
    every = read_rows(reports / "simulation" / "results.parquet")
    paired = every[(every["versus"] != "") & (every["metric"].eq("coverage") | every["k"].eq(25))].set_index(["slice", "metric", "versus"])
    for control in ("mean", "gaussian", "kde", "retrieval", "best_of", "score_only", "unconditional", "shuffled"):
        assert paired.loc[("guidance_1", "coverage", control), "ci_low"] > 0 and paired.loc[("guidance_2", "coverage", control), "ci_low"] > 0, control
    for control in ("gaussian", "kde", "score_only", "unconditional", "shuffled", "catalogue", "likes"):
        assert paired.loc[("guidance_2", "precision", control), "ci_low"] > 0, control
    for control in ("retrieval", "best_of"):
        assert -.05 < paired.loc[("guidance_2", "precision", control), "value"] < 0 and at("prior_user_id", 3, "coverage")["value"] > rows.loc[(control, "all" if control == "retrieval" else "guidance_2", "coverage"), "value"] + .1, control


def test_pictures_keep_what_was_asked_for_and_a_mean_is_no_picture():
    rows = read_rows(reports / "world_pictures" / "results.parquet")
    seen = rows[(rows["versus"] == "") & rows["seed"].isna()].set_index(["metric", "model"])["value"]
    assert seen["kept", "prior_8"] >= .9 > .7 > seen["kept", "mean"] and abs(seen["kept", "prompt_alone"]) <= .1
    paired = rows[(rows["model"] == "prior_8") & (rows["metric"] == "utility") & rows["seed"].isna()].set_index("versus")
    for control in ("mean", "gaussian", "kde", "shuffled", "score_only", "unconditional", "prompt_alone"):
        assert paired.loc[control, "ci_low"] > 0, control
    assert paired.loc["best_of", "ci_high"] < 0                                        # said in the notes, and in the README


# What README's table of models says: its row names (report, metric, k, slice, model, its control), and the rows say the rest.
README_MODELS = {
    "like rate": ("ml-1m", "auc", None, "all", "like_rate", "popularity"),
    "MF-BPR": ("tiktok", "recall", 20, "all", "mf_bpr", "popularity"),
    "VBPR": ("tiktok", "recall", 20, "all", "vbpr", "vbpr_no_features"),
    "NeuMF": ("tiktok", "recall", 20, "all", "neumf", "gmf"),
    "LightGCN": ("tiktok", "recall", 20, "all", "lightgcn", "lightgcn_no_graph"),
    "LightGCN-M": ("tiktok_diffmm", "recall", 20, "all", "lightgcn_m", "lightgcn_m_shuffled"),
    "LATTICE": ("tiktok_diffmm", "recall", 20, "all", "lattice", "lattice_shuffled"),
    "BM3": ("tiktok_diffmm", "recall", 20, "all", "bm3", "bm3_shuffled"),
    "DiffMM, published form": ("tiktok_diffmm", "recall", 20, "all", "diffmm_fast", "diffmm_fast_none"),
    "DiffMM, corrected form": ("tiktok_diffmm", "recall", 20, "all", "diffmm", "diffmm_none"),
    "GenRec, published form": ("tiktok_genrec", "recall", 20, "all", "genrec_faithful", "genrec_faithful_none"),
    "GenRec, corrected form": ("tiktok_genrec", "recall", 20, "all", "genrec", "genrec_none"),
    "Stable Diffusion 3, small": ("zoo", "all_accuracy", None, "described", "sd3", "sd3_shuffled"),
    "Stable Diffusion 1.5 with IP-Adapter, small": ("zoo", "all_accuracy", None, "followed", "sd15_adapter", "sd15_adapter_shuffled"),
    "prior": ("world_prior", "utility", 40, "few", "prior", "shuffled"),
    "verifier": ("world_prior", "preference(uauc)", None, "all", "verifier", "verifier_shuffled"),
}
readme = (reports.parents[1] / "README.md").read_text(encoding="utf-8")


def pooled(report: str, metric: str, k: int | None, slice: str, model: str, versus: str = "") -> pd.Series:
    "The one row over all trainings."
    rows = read_rows(reports / report / "results.parquet")
    rows = rows[(rows["metric"] == metric) & (rows["slice"] == slice) & (rows["model"] == model) & (rows["versus"] == versus)
                & (rows["selection"] == "valid") & rows["seed"].isna()]
    rows = rows[rows["k"].isna()] if k is None else rows[rows["k"] == k]
    assert len(rows) == 1, f"{len(rows)} rows of {metric} for {model}"
    return rows.iloc[0]


def readme_result(report: str, metric: str, k: int | None, slice: str, model: str, control: str) -> str:
    "The last three cells of a row of README's table."
    digits = 4 if metric == "recall" else 2
    own, other = (number_text(pooled(report, metric, k, slice, name)["value"], digits) for name in (model, control))
    pair = pooled(report, metric, k, slice, model, versus=control)
    verdict = "better" if pair["ci_low"] > 0 else "worse" if pair["ci_high"] < 0 else "not shown"
    return f"|{own}|{other}|{verdict}|"


@pytest.mark.parametrize("name", README_MODELS)
def test_readme_says_of_each_model_what_its_rows_say(name: str):
    line = next(line for line in readme.splitlines() if line.startswith(f"|[{name}]"))
    assert line.endswith(readme_result(*README_MODELS[name]))


def without_code(text: str) -> str:
    "Prose and tables: no code, no comments, no addresses of links."
    text = re.sub(r"```.*?```|<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"^    .*$", " ", text, flags=re.M)
    return re.sub(r"`[^`]*`", " code ", re.sub(r"\]\([^)]*\)", "]", text))


def numbers_in(text: str) -> list[str]:
    "Numbers that claim something: all but those that belong to a name, as in Recall@20 or ML-1M."
    for name in ("Recall@20", "Stable Diffusion 1.5", "Stable Diffusion 3", "BM3", "Python 3.11", "Apache-2.0", "ML-1M"):
        text = text.replace(name, "name")
    return re.findall(r"(?<![\w.])[+\N{MINUS SIGN}-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", text)


def test_readme_is_one_page():
    assert len(readme.split()) <= 900 and len(numbers_in(without_code(readme))) <= 60


def test_every_number_of_readme_is_in_a_row():
    "Results in the table are checked one by one above; in the text there is no other decimal, and every model of the table is known."
    table = [line for line in readme.splitlines() if line.startswith("|") and "](nbs/" in line]
    assert len(table) == len(README_MODELS)
    text = "\n".join(line for line in without_code(readme).splitlines() if not line.startswith("|"))
    assert not [number for number in numbers_in(text) if "." in number]


def shown(notebook: dict) -> list[str]:
    "All texts that a notebook displays, in order."
    data = [output["data"] for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
    return ["".join(entry["text/markdown"]) for entry in data]


def literal_texts(source: str) -> list[str]:
    "Texts that are written in code, without formats of numbers."
    tree = ast.parse(source)
    formats = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node.format_spec for part in ast.walk(node.format_spec)}
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats]


def test_the_results_page_shows_what_the_rows_say():
    "Run again, it shows the same; and no number of its prose is typed in."
    path = reports.parents[1] / "nbs" / "results.ipynb"
    page = nbformat.read(path, as_version=4)
    committed = shown(page)
    assert len(committed) > 30 and sum(text.startswith("|") for text in committed) >= 12
    NotebookClient(page, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    assert shown(page) == committed
    for cell in page["cells"]:
        texts = [cell["source"]] if cell["cell_type"] == "markdown" else literal_texts(cell["source"])
        typed = [number for text in texts for number in numbers_in(without_code(text)) if "." in number]
        assert not typed, f"typed in and not read from a row: {typed}"


# What README and the results page say in words: report, metric, k, slice, model, beside what; +1 better, -1 worse, 0 no difference shown.
CLAIMS = [
    ("tiktok", "recall", 20, "all", "lightgcn", "mf_bpr", 1), ("ml-1m", "auc", None, "all", "mf_bias", "like_rate", 0),
    ("ml-1m", "auc", None, "all", "lightgcn", "lightgcn_no_graph", -1), ("ml-1m", "auc", None, "all", "like_rate", "popularity", 1),
    ("tiktok_diffmm", "recall", 20, "all", "diffmm", "diffmm_fast", 1), ("tiktok_genrec", "recall", 20, "all", "genrec", "genrec_faithful", 1),
    ("tiktok_genrec", "recall", 20, "all", "genrec", "genrec_most_popular", 0), ("zoo", "mean_outline_iou", None, "general", "sd3_ancestral", "sd3_long", 1),
    ("simulation", "precision", 25, "guidance_1", "prior_user_id", "likes", 0), ("simulation", "coverage", 5, "guidance_1", "prior_user_id", "likes", -1),
    ("simulation", "precision", 25, "guidance_2", "prior_user_id", "likes", 1), ("simulation", "coverage", 5, "guidance_2", "prior_user_id", "likes", -1),
    *(("simulation", "precision", 25, "guidance_2", "prior_user_id", control, -1) for control in ("retrieval", "best_of")),
    *(("simulation", "coverage", 5, "guidance_2", "prior_user_id", control, 1) for control in ("retrieval", "best_of")),
    *(("world_prior", "utility", 40, group, model, "prior", -1) for group in ("few", "many") for model in ("prior_no_direction", "released_scaled")),
    ("world_pictures", "utility", 4, "all", "prior_8", "retrieval", 0), ("world_pictures", "utility", 4, "all", "prior_8", "best_of", -1),
    ("prior_benchmarks", "coverage", None, "all", "prior", "released_whitened", 0)]


@pytest.mark.parametrize("report, metric, k, slice, model, versus, sign", CLAIMS, ids=lambda value: str(value))
def test_no_claim_is_stronger_than_its_interval(report: str, metric: str, k: int | None, slice: str, model: str, versus: str, sign: int):
    row = pooled(report, metric, k, slice, model, versus)
    assert int(row["ci_low"] > 0) - int(row["ci_high"] < 0) == sign
