"""The run notebooks at toy size: as the demo runs them, from nothing and then again, and at their defaults."""
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from diffrec.app.cli import SYSTEMS, find_report
from diffrec.app.joint_parts import COMPONENTS
from diffrec.core.artifacts import read_json, read_rows
from diffrec.core.folders import claim_folder
from diffrec.data.dataset_files import read_dataset, save_dataset
from diffrec.data.reviews import import_flickr_aes
from diffrec.figures.layout import PAGE_WIDTH, pdf_fonts
from diffrec.graph_diffusion.additions import ADDITIONS
from diffrec.graph_diffusion.graph_map import EVERY_POINT, GRAPH_MAPS
from diffrec.graph_diffusion.proposed_negatives import LISTED, PROPOSALS
from diffrec.image_models.image_log import ImageLog
from diffrec.priors.files import load_prior
from diffrec.studies.published import published
from diffrec.studies.pipeline import make_report, run_step, run_steps
from diffrec.studies.steps import Step, read_step_note, step_folders
from diffrec.studies.trials import read_trial
from diffrec.world.files import load_images
from forked import ForkedKernel
from stand_ins import write_sd15, write_sd35

root = Path(__file__).parent.parent
WORLD = find_report("world")


@pytest.fixture(scope="module", autouse=True)
def forked_kernels() -> Iterator[None]:
    "Kernels that have the large packages loaded, and no pretrained models; test_cli starts kernels as users do."
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DIFFREC_MODELS", raising=False)
        patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", ForkedKernel)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of the project's notebooks and small models with nothing in its outputs."
    top = tmp_path_factory.mktemp("project")
    shutil.copytree(root / "nbs", top / "nbs")
    shutil.copy(root / "settings.ini", top)
    for models in ("zoo", "explanations"):
        shutil.copytree(root / "data" / models, top / "data" / models)
    return top


@pytest.fixture(scope="module")
def report(project: Path) -> Path:
    "The quick report of the world, run from nothing."
    return make_report([WORLD], project, quick=True)[0].parent


@pytest.mark.xdist_group("run_world")
def test_report_has_rows_for_every_model_and_its_control(report: Path):
    rows = read_rows(report / "results.parquet")
    assert {"popularity", "item_knn", "mf_bpr", "vbpr", "neumf", "lightgcn", "like_rate", "mf", "mf_bias", "oracle"} <= set(rows["model"])
    assert {"lightgcn_no_graph", "vbpr_no_features", "gmf"} <= set(rows["versus"])
    assert set(rows["selection"]) == {"valid", "test_best"}
    paired = rows[(rows["versus"] != "") & rows["seed"].isna() & rows["metric"].isin(["recall", "ndcg", "auc", "uauc"])]
    assert len(paired)
    assert (paired["ci_low"] <= paired["value"]).all() and (paired["value"] <= paired["ci_high"]).all()
    assert {"recall", "ndcg", "auc", "uauc"} <= set(paired["metric"])
    assert rows["n"].gt(0).all()


@pytest.mark.xdist_group("run_world")
def test_nothing_beats_the_oracle_by_more_than_its_interval(report: Path):
    rows = read_rows(report / "results.parquet")
    plain = rows[(rows["versus"] == "") & rows["seed"].isna() & (rows["slice"] == "all") & (rows["split"] == "test")
                 & (rows["selection"] == "valid") & (rows["metric"] == "recall") & (rows["k"] == 20)]
    values = plain.set_index("model")["value"]
    high = plain.set_index("model")["ci_high"]
    assert (values.drop("oracle") <= high["oracle"]).all(), values


@pytest.mark.xdist_group("run_world")
def test_report_is_self_contained(report: Path):
    html = (report / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in html
    assert '<script src="http' not in html and '<link rel="stylesheet" href="http' not in html
    record = read_json(report / "config.json")
    assert record["parameters"] and record["data"] and record["packages"]["torch"] and record["cost"]["seconds"] > 0


@pytest.mark.xdist_group("run_world")
def test_finished_steps_are_not_repeated(report: Path, project: Path):
    steps = WORLD.steps(True)
    assert run_steps(steps, project) == [False] * len(steps)


@pytest.mark.xdist_group("run_world")
def test_an_interrupted_pipeline_goes_on(report: Path, project: Path):
    steps = WORLD.steps(True)
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*.safetensors")}
    (project / steps[1].output).unlink()                       # as if training had been killed at its very end
    ran = run_steps(steps, project)
    assert ran[:2] == [False, True], ran
    after = {path: path.stat().st_mtime_ns for path in project.rglob("*.safetensors")}
    assert before == after and before, "models that were trained are not trained again"


@pytest.mark.xdist_group("run_world")
def test_a_changed_byte_of_the_data_is_drawn_again(report: Path, project: Path):
    steps, file = WORLD.steps(True), project / "outputs/world-quick/data/train.parquet"
    before, others = file.read_bytes(), {path: path.read_bytes() for path in (project / "outputs/world-quick/data").rglob("*.safetensors")}
    file.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    ran = run_steps(steps, project)
    assert ran[0] and file.read_bytes() == before and others == {path: path.read_bytes() for path in others}
    assert run_steps(steps, project) == [False] * len(steps)


@pytest.mark.xdist_group("run_labels")
def test_a_report_is_made_again_from_the_trials_that_it_keeps(project: Path):
    steps = find_report("ml-1m").steps(True)
    run_steps(steps, project, progress=False)
    report = project / "outputs/ml-1m-quick/reports/ml-1m"
    rows, kept = read_rows(report / "results.parquet"), {path.name: path.read_bytes() for path in (report / "trials").iterdir()}
    assert {f"{model}-seed-0.parquet" for model in rows["model"]} - {"oracle-seed-0.parquet"} == set(kept)
    shutil.rmtree(project / "outputs/ml-1m-quick/rating")                       # weights, rows and labels are gone
    run_steps(steps, project, progress=False)
    assert not (project / "outputs/ml-1m-quick/rating/models").exists(), "a model that has a trial was trained again"
    pd.testing.assert_frame_equal(read_rows(report / "results.parquet"), rows, check_exact=True)
    assert kept == {path.name: path.read_bytes() for path in (report / "trials").iterdir()}


def at_defaults(name: str, folder: str = "defaults", **parameters: object) -> Step:
    "A run notebook with its own parameters, but for those given; its executed copy bears its name."
    return Step(name, f"outputs/{folder}/{name}.ipynb", parameters)


CHAINS = {
    "recommenders": ["10_prepare_world", "20_train_recommenders", "40_evaluate_ranking", "60_report",
                     "11_prepare_interactions", "70_benchmark_recommenders"],
    "graphs": ["10_prepare_world", "21_train_graphs", "71_benchmark_graphs", "72_scale_graphs"],
    "priors": ["10_prepare_world", "23_train_prior", "42_evaluate_prior", "73_benchmark_priors"],
    "pictures": ["12_pretrain_zoo", "43_simulate", "44_evaluate_zoo"],
}


def run_chain(project: Path, name: str) -> None:
    "Run a chain at its defaults; what is done already is not repeated."
    for notebook in CHAINS[name]:
        run_step(at_defaults(notebook), project, progress=False)


@pytest.mark.xdist_group("run_recommenders")
def test_recommenders_chain_at_their_defaults(project: Path):
    run_chain(project, "recommenders")
    assert {"popularity", "mf_bpr"} <= set(read_rows(project / "outputs/toy/ranking/rows.parquet")["model"])


@pytest.mark.xdist_group("run_recommenders")
@pytest.mark.parametrize("parameters, error", [
    ({"presett": "toy"}, "unknown parameter 'presett'; did you mean 'preset'"),
    ({"preset": "toi"}, "toi.*toy"),
    ({"data": 3}, "data must be text, got 3"),
    ({"trials": None}, "trials must be text, got None"),
    ({"changes": {"modles": ["mf_bpr"]}}, "modles.*models"),
    ({"data": "outputs/toy/data/ratings"}, "holds values from 1 to 5, so these are ratings or labels, and the preset is evaluated by lists"),
    ({"changes": {"fit.learning_rate": "0.1"}}, "fit.learning_rate must be a finite number >= 0, got '0.1'; write fit.learning_rate=0.1"),
])
def test_a_run_refuses_wrong_parameters_and_names_them(project: Path, parameters: dict, error: str):
    run_step(at_defaults("10_prepare_world"), project, progress=False)
    step = at_defaults("20_train_recommenders", "refused", **{"out": "outputs/refused", **parameters})
    with pytest.raises(Exception, match=error):
        run_step(step, project, progress=False)
    assert not (project / "outputs/refused/models").exists(), "nothing is trained from wrong parameters"
    assert read_step_note(step.output, project) == {}, "no note without a notebook"


@pytest.mark.xdist_group("run_recommenders")
def test_an_evaluation_before_its_training_names_the_run(project: Path):
    run_step(at_defaults("10_prepare_world"), project, progress=False)
    step = at_defaults("40_evaluate_ranking", "untrained", out="outputs/untrained")
    with pytest.raises(Exception, match="nothing is trained in .*untrained: run 20_train_recommenders with this folder as `out` first"):
        run_step(step, project, progress=False)


GRAPH_STEPS = [
    at_defaults("40_evaluate_ranking", "toy/graphs", preset="toy-diffmm", family="graph_diffusion", data="outputs/toy/data",
                out="outputs/toy/graphs", report="toy_diffmm"),
    *(at_defaults(name, "toy/simple", preset="toy-table", changes={"models": ["walk", "lightgcn_softmax"], "rivals": []},
                  data="outputs/toy/data", out="outputs/toy/simple", **more)
      for name, more in (("20_train_recommenders", {}), ("40_evaluate_ranking", {"report": "toy_diffmm"}))),
    at_defaults("61_report_graphs", "toy/reports/toy_diffmm", forms=["diffmm"],
                folders=["outputs/toy/graphs", "outputs/toy/simple"], simple="outputs/toy/simple")]


@pytest.mark.xdist_group("run_losses")
def test_a_report_on_texts_of_items_compares_with_shuffled_texts_and_with_none(project: Path):
    report = make_report([find_report("ml-1m-likes")], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    compared = set(zip(rows["model"], rows["versus"]))
    assert {("vbpr", "vbpr_shuffled"), ("vbpr", "vbpr_no_features")} <= compared
    assert {"all", "item_cold"} <= set(rows["slice"])


@pytest.mark.xdist_group("run_losses")
def test_the_map_of_generated_graphs_has_every_point_and_goes_on_where_it_stopped(project: Path):
    (step,) = find_report("when_graphs_help").steps(True)
    run_step(step, project, progress=False)
    folder = (project / step.output).parent
    study, rows = GRAPH_MAPS["toy"], read_rows(folder / "results.parquet")
    differences = rows.query("versus == 'diffmm_none' and metric == 'recall' and slice == 'all' and seed.isna()")
    assert set(differences["dataset"]) == {EVERY_POINT, *(point.name for point in study.points())}
    trials = sorted((project / step.parameters["folder"]).rglob("trials/*.parquet"))
    assert len(trials) == len(study.points()) * len(study.models)
    written = [path.stat().st_mtime_ns for path in trials[1:]]
    trials[0].unlink()                                                # as if it had been interrupted there
    (project / step.output).unlink()
    run_step(step, project, progress=False)
    assert [path.stat().st_mtime_ns for path in trials[1:]] == written and trials[0].exists()
    pd.testing.assert_frame_equal(read_rows(folder / "results.parquet"), rows)


@pytest.mark.xdist_group("run_graphs")
def test_a_report_on_generated_graphs_shows_every_control(project: Path):
    run_chain(project, "graphs")
    assert run_steps(GRAPH_STEPS, project) == [True] * 4
    rows = read_rows(project / "outputs/toy/reports/toy_diffmm/results.parquet")
    paired = rows[(rows["versus"] != "") & rows["seed"].isna() & (rows["metric"] == "recall") & (rows["slice"] == "all")]
    assert {"diffmm_none", "diffmm_observed"} <= set(paired["versus"]) and (paired["ci_low"] <= paired["ci_high"]).all()
    found = paired[paired["selection"] == "valid"].set_index(["model", "versus"])["value"]
    values = rows.query("versus == '' and seed.isna() and metric == 'recall' and slice == 'all' and selection == 'valid' and k == 20")
    values = values.set_index("model")["value"]
    assert {pair for pair in found.index if pair[1] in ("walk", "lightgcn_softmax")} == {
        (model, other) for model in ("diffmm", "diffmm_none") for other in ("walk", "lightgcn_softmax")}
    assert found["diffmm_none", "walk"] == pytest.approx(values["diffmm_none"] - values["walk"], abs=1e-12)
    drawn = rows[rows["metric"] == "observed_share"].set_index("model")["value"]
    assert drawn["diffmm_observed"] == 1 and drawn["diffmm"] == 0


@pytest.mark.xdist_group("run_losses")
def test_the_report_on_what_adds_what_has_every_step(project: Path):
    report = make_report([find_report("tiktok_losses")], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    rows = rows[rows["seed"].isna() & rows["slice"].eq("all") & rows["selection"].eq("valid") & rows["k"].eq(20)]
    for metric in ("recall", "ndcg"):
        found = rows[rows["metric"] == metric].set_index(["model", "versus"])
        for step in ADDITIONS:
            value = found.loc[(step.model, ""), "value"]
            if step.before:
                row = found.loc[(step.model, step.before)]
                assert row["value"] == pytest.approx(value - found.loc[(step.before, ""), "value"], abs=1e-12)
                assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert {("lightgcn_softmax", "lightgcn_bpr"), ("lightgcn_bpr", "lightgcn_bpr_no_graph")} <= set(found.index)


@pytest.mark.xdist_group("run_table")
def test_the_published_table_has_both_losses_and_every_control(project: Path):
    report = make_report([find_report("tiktok_table")], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    rows = rows[rows["seed"].isna() & rows["slice"].eq("all") & rows["selection"].eq("valid") & rows["metric"].eq("recall")]
    found = rows.set_index(["model", "versus"])
    for pair in (("sgl", "sgl_no_contrast"), ("sgl_softmax", "sgl"), ("diffrec", "diffrec_one_step"), ("diffrec", "mult_vae"),
                 ("freedom", "freedom_shuffled"), ("freedom", "walk"), ("sgl_softmax", "lightgcn_softmax")):
        both = [found.loc[(model, ""), "value"] for model in pair]
        assert found.loc[pair, "value"] == pytest.approx(both[0] - both[1], abs=1e-12)
        assert found.loc[pair, "ci_low"] <= found.loc[pair, "value"] <= found.loc[pair, "ci_high"]
    assert {"sgl-seed-0.parquet", "freedom_shuffled-seed-0.parquet"} <= {path.name for path in (report / "trials").iterdir()}
    pairs = read_rows(report / "pairs.parquet").query("metric == 'recall' and versus != ''")
    published_values = published("tiktok", "recall")
    own = pairs[pairs["run"].str.endswith("published loss")]
    assert set(zip(own["model"], own["versus"])) == {("lightgcn", "sgl")}            # the two of the toy table that are printed
    assert published_values["lightgcn"] > published_values["sgl"]
    assert own["value"].iloc[0] == pytest.approx(found.loc[("lightgcn", ""), "value"] - found.loc[("sgl", ""), "value"], abs=1e-12)


@pytest.mark.xdist_group("run_cold_items")
def test_new_items_are_ranked_among_each_other_by_every_trained_model(project: Path):
    report = make_report([find_report("tiktok_cold_items")], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    assert set(rows["slice"]) == {"cold_candidates"}
    found = rows[rows["seed"].isna() & rows["metric"].eq("recall")].set_index(["model", "versus"])
    for pair in (("freedom", "freedom_shuffled"), ("freedom", "features_alone"), ("diffmm", "diffmm_none")):
        both = [found.loc[(model, ""), "value"] for model in pair]
        assert found.loc[pair, "value"] == pytest.approx(both[0] - both[1], abs=1e-12)
    trial = read_trial(report / "trials/freedom-seed-0.parquet")
    assert trial.values.query("metric == 'recall'")["value"].mean() == pytest.approx(found.loc[("freedom", ""), "value"])


@pytest.mark.xdist_group("run_negatives")
def test_every_proposal_of_negatives_is_compared_with_uniform_ones_and_the_generator_with_the_walk(project: Path):
    report = make_report([find_report("tiktok_negatives")], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    assert set(rows[rows["metric"] == "held_out_share"]["model"]) == {f"negatives_{kind}" for kind in LISTED}
    found = rows[rows["seed"].isna() & rows["metric"].eq("recall") & rows["selection"].eq("valid")].set_index(["model", "versus"])
    pairs = [(f"negatives_{kind}", "negatives_uniform") for kind in PROPOSALS[1:]] + [("negatives_generator", "negatives_walk")]
    assert {pair for pair in found.index if pair[1]} == set(pairs)
    for model, versus in pairs:
        both = [found.loc[(one, ""), "value"] for one in (model, versus)]
        assert found.loc[(model, versus), "value"] == pytest.approx(both[0] - both[1], abs=1e-12)
        assert found.loc[(model, versus), "ci_low"] <= found.loc[(model, versus), "value"] <= found.loc[(model, versus), "ci_high"]
    trial = read_trial(report / "trials/negatives_generator-seed-0.parquet")
    chosen = trial.values.query("metric == 'recall' and selection == 'valid'")["value"]
    assert chosen.mean() == pytest.approx(found.loc[("negatives_generator", ""), "value"])


PEER_STEPS = {name: find_report(name).steps(True) for name in ("ml-100k", "ml-100k-ratings")}


@pytest.mark.xdist_group("run_peers")
@pytest.mark.parametrize(("name", "metric", "ours", "peer"), [("ml-100k", "recall", "ease", "implicit_als"),
                                                             ("ml-100k-ratings", "rmse", "als", "surprise_svd")])
def test_a_search_of_ours_and_of_a_peer_end_in_one_difference(project: Path, name: str, metric: str, ours: str, peer: str):
    report = make_report([find_report(name)], project, quick=True)[0].parent
    rows = read_rows(report / "results.parquet")
    found = rows[rows["seed"].isna() & rows["metric"].eq(metric) & rows["slice"].eq("all")].set_index(["model", "versus"])["value"]
    assert found[ours, peer] == pytest.approx(found[ours, ""] - found[peer, ""], abs=1e-12)
    trials = pd.read_parquet(report / "trials.parquet")
    assert trials.groupby("model").size()[[ours, peer]].tolist() == [2, 2] and (trials["state"] == "complete").all()
    searched = read_json(report / "config.json")["parameters"]
    assert searched["budget"] == 2 and searched["beside"] == [peer]


@pytest.mark.xdist_group("run_graphs")
def test_genrec_is_trained_from_its_preset(project: Path):
    run_chain(project, "graphs")
    step = at_defaults("21_train_graphs", "genrec", preset="toy-genrec", out="outputs/toy/genrec")
    assert run_step(step, project, progress=False)
    assert {"genrec", "genrec_none", "genrec_observed"} <= {path.name for path in (project / "outputs/toy/genrec/models").iterdir()}


@pytest.mark.xdist_group("run_priors")
def test_a_report_on_priors_shows_every_control(project: Path):
    run_chain(project, "priors")
    rows = read_rows(project / "outputs/toy/reports/toy_prior/results.parquet")
    assert {"unconditional", "score_only", "mean", "gaussian", "kde", "retrieval", "best_of", "shuffled", "prior_population", "oracle"} <= set(rows["model"])
    matched = rows[rows["metric"] == "utility_at_coverage"]
    assert {"mean", "gaussian", "kde", "retrieval"} <= set(matched["versus"]) and (matched["ci_low"] <= matched["value"]).all()
    assert {"few", "many", "unseen"} <= set(rows["slice"])
    utility = rows[(rows["metric"] == "utility") & (rows["slice"] == "few") & (rows["versus"] == "") & rows["seed"].isna()].set_index("model")["value"]
    assert utility["kde"] > utility["unconditional"]                     # the user's own likes, whatever was trained
    assert {"rank_correlation(utility)", "rank_correlation(coverage)", "relative_uplift(truth)"} <= set(rows["metric"])       # evaluators without the truth, beside it
    inside = rows[rows["metric"].isin(["outlier_quantile", "isolation_quantile"]) & (rows["model"] == "retrieval") & rows["seed"].isna()]["value"]
    assert len(inside) and inside.between(.02, .9).all()             # pictures of the catalogue lie where pictures lie


@pytest.mark.xdist_group("run_priors")
def test_an_evaluation_of_priors_reads_what_is_kept_and_makes_only_what_is_missing(project: Path):
    run_chain(project, "priors")
    first, again = project / "outputs/toy/reports/toy_prior", project / "outputs/kept/toy_prior"
    (first / "trials/kde-seed-0.parquet").unlink()                      # as if the evaluation had been interrupted there
    before = {path.stem: path.stat().st_mtime_ns for path in (first / "trials").glob("*.parquet")}
    assert {f"{system}-seed-0" for system in ("prior", "prior_population", "prior_late", "mean", "best_of", "shuffled", "prior_long_sampler", "oracle",
                                              "verifier", "verifier_shuffled", "verifier_with_ratings", "evaluator")} <= set(before)
    step = Step("42_evaluate_prior", "outputs/kept/report.ipynb", {"out": "outputs/kept/toy_prior", "trials": "outputs/toy/reports/toy_prior/trials"})
    assert run_step(step, project, progress=False)
    after = {path.stem: path.stat().st_mtime_ns for path in (first / "trials").glob("*.parquet")}
    assert {name for name, written in after.items() if before.get(name) != written} == {"kde-seed-0"}
    for name in ("results.parquet", "judged.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(again / name), pd.read_parquet(first / name), check_exact=True)


@pytest.mark.xdist_group("run_pictures")
def test_the_simulation_and_the_zoo_show_every_control(project: Path):
    run_chain(project, "pictures")
    rows = read_rows(project / "outputs/toy/reports/toy_simulation/results.parquet")
    assert {"mean", "gaussian", "kde", "retrieval", "best_of", "score_only", "unconditional", "shuffled", "likes", "catalogue"} == set(rows["versus"]) - {""}
    precise = rows[(rows["metric"] == "precision") & (rows["k"] == 25) & (rows["versus"] == "") & (rows["slice"] == "all")].set_index("model")["value"]
    assert min(precise[["likes", "gaussian", "kde", "retrieval"]]) > precise["catalogue"] + .3       # what knows the user, whatever was trained
    chains = read_rows(project / "outputs/toy/reports/toy_zoo/results.parquet")
    varied = chains[chains["metric"] == "shape_variety"].set_index("model")["value"]
    assert {"sd3", "sd3_long", "sd3_ancestral", "sd3_renewed"} <= set(varied.index) and varied["possible"] > 5 and varied.between(1, 8).all()
    assert {("sd3_ancestral", "sd3_long"), ("sd3_renewed", "sd3_long")} <= set(map(tuple, chains.loc[chains["metric"] == "mean_outline_iou", ["model", "versus"]].to_numpy()))


@pytest.mark.xdist_group("run_priors")
def test_a_world_of_which_users_are_left_out_is_refused(project: Path):
    run_step(at_defaults("10_prepare_world"), project, progress=False)
    run_step(Step("23_train_prior", "outputs/fewer/23.ipynb", {"out": "outputs/fewer/priors", "changes": {"models": ["prior"], "split.least_likes": 2}}), project, progress=False)
    with pytest.raises(Exception, match="with least_likes = 2 some users are left out"):
        run_step(Step("42_evaluate_prior", "outputs/fewer/42.ipynb", {"priors": "outputs/fewer/priors"}), project, progress=False)


@pytest.fixture(scope="module")
def flickr(project: Path) -> Path:
    "A folder with a table of scores, its pictures as files, and the data set made from both, as FLICKR-AES comes."
    run_step(at_defaults("10_prepare_world"), project, progress=False)
    ratings, images, home = read_dataset(project / "outputs/toy/data/ratings"), load_images(project / "outputs/toy/data"), project / "outputs/flickr"
    claim_folder(home, "run")
    (home / "pictures").mkdir()
    for item, picture in enumerate(images):
        Image.fromarray(np.asarray(picture)).save(home / "pictures" / f"{item}.png")
    lines = [f"worker{user},{item}.png,{value:g}" for part in ratings.splits.values() for user, item, value in zip(part.users, part.items, part.values)]
    (home / "scores.csv").write_text("\n".join(["worker,imagePair,score", *lines]) + "\n")
    save_dataset(import_flickr_aes(home / "scores.csv"), home / "data")
    return home


FLICKR = {"data": "outputs/flickr/data", "pictures": "outputs/flickr/pictures"}
PUBLISHED = {"models": ["prior"], "split": {"kind": "published", "n_held_out": 3, "least_likes": 4}}


@pytest.mark.xdist_group("run_flickr")
def test_priors_learn_from_a_table_of_scores_and_picture_files(project: Path, flickr: Path):
    step = Step("23_train_prior", "outputs/flickr/23.ipynb", {**FLICKR, "out": "outputs/flickr/priors", "changes": PUBLISHED})
    assert run_step(step, project, progress=False)
    noted = read_json(flickr / "priors/training.json")
    assert noted["parameters"]["split"]["kind"] == "published" and noted["data"]["split"] == "published, 3 held out, seed 0, 4 likes"
    prior, _ = load_prior(flickr / "priors/prior/seed-0/prior.safetensors")
    everybody = read_dataset(project / "outputs/toy/data/ratings").n_users
    assert 0 < prior.n_users < everybody                                   # those with fewer likes are left out


@pytest.mark.xdist_group("run_flickr")
def test_without_a_true_utility_held_out_ratings_evaluate_priors_and_pictures(project: Path, flickr: Path):
    assert run_step(Step("23_train_prior", "outputs/flickr/23_apart.ipynb", {
        **FLICKR, "out": "outputs/flickr/apart", "changes": {"models": ["prior"], "split": {"share_unseen": .2, "least_likes": 2}}}), project, progress=False)
    shared = {"data": FLICKR["data"], "priors": "outputs/flickr/apart"}
    assert run_step(Step("42_evaluate_prior", "outputs/flickr/42.ipynb", {
        **shared, "out": "outputs/flickr/evaluated", "store": "outputs/flickr/draws", "changes": {"others": []}}), project, progress=False)
    rows = read_rows(flickr / "evaluated/results.parquet")
    assert {"unconditional", "score_only", "mean", "gaussian", "kde", "retrieval", "best_of", "shuffled", "prior", "evaluator"} <= set(rows["model"]) and "oracle" not in set(rows["model"])
    assert {"utility", "coverage", "relative_uplift(evaluator)", "relative_uplift(verifier)", "outlier_quantile", "isolation_quantile", "disagreement", "kept_share"} <= set(rows["metric"]) and "relative_uplift(truth)" not in set(rows["metric"])
    of_many = rows[(rows["slice"] == "many") & (rows["versus"] == "") & rows["seed"].isna()].set_index(["metric", "model"])["value"]
    assert of_many["kinds", "mean"] == 1 < of_many["kinds", "gaussian"] and of_many["coverage", "mean"] < of_many["coverage", "gaussian"]        # a mean counts as one picture
    drawn = Step("30_generate_images", "outputs/flickr/30.ipynb", {
        **shared, "out": "outputs/flickr/drawn", "work": "outputs/flickr/work",
        "changes": {"zoo": "tiny", "n_users": 1, "n_draws": 1}})
    assert run_step(drawn, project, progress=False)
    of_pictures = read_rows(flickr / "drawn/results.parquet")
    assert {"gaussian", "retrieval", "best_of", "score_only", "unconditional", "prompt_alone"} <= set(of_pictures["model"]) and {"kept", "utility", "coverage"} <= set(of_pictures["metric"])


@pytest.mark.xdist_group("run_flickr")
def test_a_split_without_unseen_users_is_evaluated_too(project: Path, flickr: Path):
    assert run_step(Step("23_train_prior", "outputs/flickr/23_published.ipynb", {
        **FLICKR, "out": "outputs/flickr/published", "changes": PUBLISHED}), project, progress=False)
    step = Step("42_evaluate_prior", "outputs/flickr/42_published.ipynb", {
        "data": FLICKR["data"], "priors": "outputs/flickr/published",
        "out": "outputs/flickr/published_report", "store": "outputs/flickr/draws",
        "changes": {"others": [], "verifier": {"n_members": 1, "calibration": "none"}}})
    assert run_step(step, project, progress=False)
    rows = read_rows(flickr / "published_report/results.parquet")
    assert {"few", "many"} <= set(rows["slice"]) and "unseen" not in set(rows["slice"]) and "disagreement" not in set(rows["metric"])       # one verifier, no disagreement


@pytest.mark.xdist_group("run_flickr")
def test_the_preset_for_published_weights_runs_from_ratings_to_pictures(project: Path, flickr: Path, monkeypatch: pytest.MonkeyPatch):
    "Its sizes are changed, for minutes instead of hours; the models are stand-ins with the names, files and widths of the true ones."
    write_sd15(project / "data/models", project / "data/zoo")
    monkeypatch.setenv("DIFFREC_DATA", str(project / "data"))
    home = "outputs/flickr/full"
    steps = [Step("23_train_prior", f"{home}/23.ipynb", {**FLICKR, "preset": "flickr-aes", "out": f"{home}/priors", "changes": {
                "settings": "toy", "split.least_likes": 2, "split.share_unseen": .2}}),
             Step("42_evaluate_prior", f"{home}/42.ipynb", {"preset": "flickr-aes", "data": FLICKR["data"], "priors": f"{home}/priors",
                "out": f"{home}/evaluated", "store": f"{home}/draws", "changes": {
                    "few": 6, "n_most": 10, "n_draws": 4, "n_tries": 2, "verifier_trials": 1, "verifier_epochs": 2, "n_resamples": 50}}),
             Step("30_generate_images", f"{home}/30.ipynb", {"preset": "flickr-aes", "data": FLICKR["data"], "priors": f"{home}/priors",
                "out": f"{home}/drawn", "work": f"{home}/work", "changes": {
                    "few": 6, "n_users": 1, "n_draws": 1, "drawing_steps": 2, "verifier_epochs": 2, "n_resamples": 50}})]
    assert run_steps(steps, project) == [True, True, True]
    prior, _ = load_prior(project / home / "priors/prior/seed-0/prior.safetensors")
    assert prior.n_dims == 1024                                            # of ViT-H/14, whose embeddings the IP-Adapter reads
    rows = read_rows(project / home / "drawn/results.parquet")
    assert {"gaussian", "best_of", "unconditional", "prompt_alone"} <= set(rows["model"]) and {"kept", "utility"} <= set(rows["metric"])


PICTURE_STEPS = find_report("pictures").steps(True)


@pytest.mark.xdist_group("run_demo")
def test_pictures_are_drawn_once_and_kept(project: Path):
    run_steps(PICTURE_STEPS, project)
    stores = project / "outputs/pictures-quick/pictures/stores"
    before = {path: path.stat().st_mtime_ns for path in stores.rglob("*.png")}
    assert len(before) > 50 and {"mean", "kde", "shuffled", "prior_1", "prior_8", "edited"} <= {path.name.rpartition("-")[0] for path in stores.iterdir()}
    (project / PICTURE_STEPS[-1].output).unlink()                    # as if it had been interrupted at its very end
    assert run_steps(PICTURE_STEPS, project) == [False] * (len(PICTURE_STEPS) - 1) + [True]
    assert before == {path: path.stat().st_mtime_ns for path in stores.rglob("*.png")}
    rows = read_rows(project / "outputs/pictures-quick/reports/pictures/results.parquet")
    assert {"kept", "utility", "coverage", "same_kind"} <= set(rows["metric"]) and {"shuffled", "mean", "gaussian", "kde", "retrieval", "best_of", "score_only", "unconditional", "prompt_alone"} <= set(rows["versus"])


@pytest.mark.parametrize("report", [report for system in SYSTEMS for report in system.reports], ids=lambda report: report.name)
def test_no_step_writes_around_a_folder_that_an_earlier_step_made(report):
    "It would find files of this project without a marker there, and refuse the folder; quick and full forms differ in their folders."
    for quick in (True, False):
        homes: list[Path] = []
        for step in report.steps(quick):
            for place in map(Path, step_folders(step)):
                is_marked = any(home == place or home in place.parents for home in homes)
                assert is_marked or not any(place in home.parents for home in homes), f"{place} holds {homes}"
            homes.append(Path(step.output).parent)


LANGUAGE_STEPS = find_report("ml-1m_language").steps(True)


@pytest.mark.xdist_group("run_language")
def test_a_report_on_language_models_shows_every_control_and_ensemble(project: Path):
    run_steps(LANGUAGE_STEPS, project)
    folder = (project / LANGUAGE_STEPS[-1].output).parent
    rows = read_rows(folder / "results.parquet")
    auc = rows[(rows["metric"] == "auc") & rows["seed"].isna() & (rows["slice"] == "all")]
    assert {"like_rate", "mf", "din", "icl", "tallrec", "collm_mf", "cora_mf", "cora_din", "cora_mf+like_rate"} <= set(auc["model"])
    compared = set(zip(auc["model"], auc["versus"]))
    assert {("tallrec", "icl"), ("cora_mf", "cora_mf_shuffled"), ("collm_mf", "collm_mf_shuffled"), ("cora_din", "tallrec"),
            ("cora_mf", "mf"), ("cora_mf+like_rate", "like_rate"), ("cora_mf+like_rate", "mf+like_rate")} <= compared
    assert {path.name.split("-seed")[0] for path in (folder / "trials").glob("*.parquet")} == {name for name in auc["model"] if "+" not in name}
    assert run_steps(LANGUAGE_STEPS, project) == [False] * len(LANGUAGE_STEPS)


PERSONAL_STEPS = find_report("world_image_lora").steps(True)


@pytest.mark.xdist_group("run_personal")
def test_a_report_on_pictures_for_users_shows_every_control(project: Path):
    run_steps(PERSONAL_STEPS, project)
    rows = read_rows((project / PERSONAL_STEPS[-1].output).parent / "results.parquet")
    liked = rows[(rows["metric"] == "liked_attributes") & rows["seed"].isna()]
    assert {"base", "keywords", "named", "mean_of_likes", "prior", "lora", "user_lora", "generated", "generated_shuffled"} <= set(liked["model"])
    beside = set(zip(liked["model"], liked["versus"]))
    assert {("generated", other) for other in ("generated_shuffled", "base", "lora", "keywords", "mean_of_likes", "prior")} <= beside
    assert {("user_lora", "lora"), ("prior", "mean_of_likes")} <= beside
    costs = rows[rows["metric"].isin(["kilobytes", "cpu_seconds"])]
    clusters = {"cluster_lora", "cluster_lora_shuffled"}
    assert set(costs["model"]) == {"mean_of_likes", "prior", "lora", "user_lora", "generated", "generated_shuffled", *clusters}
    assert {("cluster_lora", other) for other in ("cluster_lora_shuffled", "base", "lora", "user_lora", "generated")} <= beside
    seconds = costs[costs["metric"] == "cpu_seconds"].set_index("model")["value"]
    assert seconds["user_lora"] > 5 * seconds["generated"]
    weights = rows[rows["model"].str.startswith("fusion_weight")]
    assert set(zip(weights["model"], weights["versus"])) == {
        ("fusion_weight", ""), *(pair for control in ("fusion_weight_item", "fusion_weight_shuffled")
                                 for pair in ((control, ""), ("fusion_weight", control)))}
    assert set(weights["metric"]) == {"weight_range", "rank_correlation"}


PERSONALISATION_STEPS = find_report("world_personalisation").steps(True)


def test_what_pictures_gain_is_made_from_the_values_of_other_reports(project: Path):
    "The committed ones; every system stands beside permuted sets, with p, and wins of a slice add up to 1."
    for report in ("world_prior", "world_image_lora", "world_pictures"):
        if not (project / "outputs/reports" / report).exists():
            shutil.copytree(root / "outputs/reports" / report, project / "outputs/reports" / report)
    run_steps(PERSONALISATION_STEPS, project, progress=False)
    rows = read_rows((project / PERSONALISATION_STEPS[-1].output).parent / "results.parquet")
    for metric in ("uplift(truth)", "uplift(verifier)", "uplift(liked attributes)"):
        compared, corrected = (rows[rows["metric"].eq(name) & rows["versus"].eq("permuted")] for name in (metric, f"p_holm({metric})"))
        assert len(compared) > 20 and set(zip(compared["model"], compared["slice"])) == set(zip(corrected["model"], corrected["slice"]))
    assert {("generated", "generated_shuffled"), ("keywords", "permuted")} <= set(zip(rows["model"], rows["versus"]))
    wins = rows[rows["metric"] == "wins(utility)"]
    assert {"few", "many", "unseen", "pictures", "seen-16", "unseen-64"} <= set(wins["slice"])
    assert np.allclose(wins.groupby("slice")["value"].sum(), 1)


JUDGE_STEPS = find_report("world_judges").steps(True)


def test_judges_stand_beside_the_truth(project: Path):
    run_steps(JUDGE_STEPS, project, progress=False)
    rows = read_rows((project / JUDGE_STEPS[-1].output).parent / "results.parquet")
    judges = {"verifier, seen", "verifier, sampled", "leaking verifier", "everybody", "cpis", "cps", "attributes"}
    for metric in ("rank_correlation", "pooled_rank_correlation"):
        assert set(rows.loc[rows["metric"] == metric, "model"]) == judges
    assert {"verifier", "verifier, raw", "leaking verifier"} <= set(rows.loc[rows["metric"] == "ece", "model"])
    assert {"own", "other"} == set(rows.loc[rows["metric"] == "uplift(residual verifier)", "model"])


COST_STEPS = find_report("language_benchmarks").steps(True)


@pytest.mark.xdist_group("run_language")
def test_costs_of_language_models_stand_beside_the_plain_ways(project: Path):
    run_steps(COST_STEPS, project)
    rows = read_rows((project / COST_STEPS[-1].output).parent / "results.parquet")
    ratios = rows[rows["metric"] == "cpu_ratio"]
    assert set(zip(ratios["model"], ratios["versus"])) == {
        ("packed sequences", "rows in batches"), ("rows in batches", "rows one by one"), ("shared history", "rows one by one"),
        ("one batch", "merged for each row")}


EXPLANATION_STEPS = find_report("explanations").steps(True)


@pytest.mark.xdist_group("run_explanations")
def test_stored_models_explain_as_they_did_when_they_were_trained(project: Path):
    "Both reports, the second from the files that the first wrote; the quick form of the first is a step of the second."
    assert EXPLANATION_STEPS[:1] == find_report("world_explanations").steps(True)
    run_steps(EXPLANATION_STEPS, project, progress=False)
    trained, loaded = ((project / step.output).parent for step in EXPLANATION_STEPS)
    rows = [read_rows(folder / "results.parquet").drop(columns="run") for folder in (trained, loaded)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert {("cora", "lora"), ("cora", "item_mean"), ("cora", "user_mean")} <= set(zip(rows[0]["model"], rows[0]["versus"]))
    assert {"user_true", "item_true", "agreement", "failed", "mae"} <= set(rows[0]["metric"])
    assert len(list((trained / "trials").glob("*-seed-1.parquet"))) == 4
    assert run_steps(EXPLANATION_STEPS, project) == [False, False]


JOINT_STEPS = find_report("joint").steps(True)


@pytest.mark.xdist_group("run_joint")
def test_a_joint_system_answers_beside_its_control(project: Path):
    "The same requests to both, for users of the data set and for unseen ones; every component of the score has rows."
    run_steps(JOINT_STEPS, project, progress=False)
    folder = (project / JOINT_STEPS[-1].output).parent
    rows = read_rows(folder / "results.parquet")
    found = rows[rows["seed"].isna()]
    assert {"known", "unseen"} == set(found["slice"]) and {"joint", "joint_without_user"} == set(found["model"])
    metrics = {"fulfilled", "liked", "utility", "user_true", "item_true", "rating_error", "picture_follows", "picture_liked",
               "picture_utility", "score", *COMPONENTS}
    for slice_ in ("known", "unseen"):
        of = found[found["slice"] == slice_]
        assert metrics <= set(of["metric"]) and metrics <= set(of.loc[of["versus"] == "joint_without_user", "metric"])
    values = pd.read_parquet(folder / "values.parquet")
    assert values.groupby(["slice", "user", "metric"])["model"].nunique().eq(2).all()
    fulfilled = values[values["metric"] == "fulfilled"]["value"]
    assert (fulfilled == 1).all()                       # requests restrict the catalogue, whatever was trained
    assert run_steps(JOINT_STEPS, project) == [False] * len(JOINT_STEPS)
STAR_STEPS = find_report("world_stars").steps(True)


@pytest.mark.xdist_group("run_stars")
def test_a_report_on_stars_shows_every_control_and_is_made_again_from_its_trials(project: Path):
    run_steps(STAR_STEPS, project, progress=False)
    folder = (project / STAR_STEPS[-1].output).parent
    rows = read_rows(folder / "results.parquet")
    assert {"global_mean", "user_mean", "item_mean", "two_biases", "als", "mf_bias", "svdpp", "mf_ordinal", "oracle"} == set(rows["model"])
    assert {"rmse", "mae"} == set(rows["metric"]) and {"all", "warm", "cold"} <= set(rows["slice"]) and set(rows["selection"]) == {"valid"}
    compared = set(zip(rows["model"], rows["versus"]))
    assert {("two_biases", "item_mean"), ("als", "two_biases"), ("mf_bias", "two_biases"), ("svdpp", "two_biases"), ("mf_ordinal", "two_biases"),
            ("svdpp", "mf_bias"), ("svdpp", "oracle")} <= compared
    shutil.rmtree(project / "outputs/stars-quick/stars")                         # weights and rows are gone
    run_steps(STAR_STEPS, project, progress=False)
    assert not (project / "outputs/stars-quick/stars/models").exists(), "a model that has a trial was trained again"
    pd.testing.assert_frame_equal(read_rows(folder / "results.parquet"), rows, check_exact=True)


ABLATION_STEPS = [at_defaults("50_ablate")]


@pytest.mark.xdist_group("run_ablations")
def test_an_ablation_shows_every_cell_beside_its_base(project: Path):
    run_steps(ABLATION_STEPS, project, progress=False)
    folder = project / "outputs/toy/ablations/steps-solvers"
    rows, trials = read_rows(folder / "results.parquet"), pd.read_parquet(folder / "trials.parquet")
    assert trials["state"].tolist() == ["complete"] * 4 and trials["trial"].tolist() == list(range(4))
    compared = rows[(rows["versus"] != "") & (rows["metric"] == "utility")]
    assert compared["model"].tolist() == ["step count 2, solver ddim", "step count 2, solver dpm++2m", "step count 10, solver ddim"]
    assert set(compared["versus"]) == {"step count 10, solver dpm++2m"}
    assert read_json(folder / "config.json")["parameters"]["settings"]["world"] == "toy"
    assert run_steps(ABLATION_STEPS, project) == [False]
    step = at_defaults("50_ablate", "refused-ablation", out="outputs/refused-ablation/study", study="steps-solver")
    with pytest.raises(Exception, match="unknown study 'steps-solver'; did you mean 'steps-solvers'"):
        run_step(step, project, progress=False)


FIGURES_STEP = at_defaults("64_figures", names=["prior_benchmarks", "simulation", "world_pictures"])


@pytest.mark.xdist_group("run_figures")
def test_figures_are_drawn_again_from_what_reports_keep(project: Path):
    "From rows and values beside them alone, no wider than a page, with fonts that are embedded."
    for name in (*FIGURES_STEP.parameters["names"], "zoo"):
        shutil.copytree(root / "outputs/reports" / name, project / "outputs/reports" / name, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("figures", "trials", "report.ipynb"))
    run_step(FIGURES_STEP, project, progress=False)
    files = {path.relative_to(project / "outputs/toy/figures").as_posix(): path for path in (project / "outputs/toy/figures").rglob("*.p??")}
    assert {"prior_benchmarks/costs.png", "prior_benchmarks/learning.pdf", "simulation/precision_coverage.png", "world_pictures/users.pdf",
            "world_pictures/differences.png"} <= set(files) and not any(name.startswith("zoo") for name in files)
    for name, path in files.items():
        assert all(pdf_fonts(path).values()) and pdf_fonts(path) if name.endswith(".pdf") else Image.open(path).width <= 150 * PAGE_WIDTH, name


OWN_STEPS = [at_defaults("27_train_own_lora"), at_defaults("76_benchmark_image_lora")]    # of the tests below


def test_every_run_notebook_is_run_by_a_test():
    there = {path.stem for path in (root / "nbs" / "runs").glob("*.ipynb")}
    run = {step.notebook for step in [*WORLD.steps(True), *GRAPH_STEPS, *PICTURE_STEPS, *LANGUAGE_STEPS, *PERSONAL_STEPS, *COST_STEPS,
                                      *EXPLANATION_STEPS, *JOINT_STEPS, *STAR_STEPS, *ABLATION_STEPS, FIGURES_STEP, *PERSONALISATION_STEPS,
                                      *find_report("tiktok_losses").steps(True), *find_report("tiktok_table").steps(True),
                                      *find_report("tiktok_cold_items").steps(True), *find_report("world_judges").steps(True), *OWN_STEPS,
                                      *find_report("tiktok_negatives").steps(True), *(step for steps in PEER_STEPS.values() for step in steps),
                                      *find_report("ml-1m-likes").steps(True), *find_report("when_graphs_help").steps(True)]} | {name for chain in CHAINS.values() for name in chain}
    assert there == run


@pytest.mark.xdist_group("run_own")
def test_a_lora_of_ones_own_pictures_is_trained_drawn_and_judged_beside_the_base(project: Path):
    step, home = at_defaults("27_train_own_lora"), project / "outputs/toy/own_lora"
    run_step(step, project, progress=False)
    rows = read_rows(home / "results.parquet")
    for metric in ("clip_score", "clip_i_liked", "clip_i_held_out", "swap_gain", "failure_rate"):
        found = rows[rows["metric"] == metric].set_index(["model", "versus"])["value"]
        assert found["lora", "base"] == pytest.approx(found["lora", ""] - found["base", ""], abs=1e-9)
    assert set(rows.loc[rows["versus"] == "permuted", "model"]) == {"base", "lora"}
    assert sorted(path.parent.name for path in home.glob("loras/*/lora")) == ["user0", "user1"]
    before = {path: path.stat().st_mtime_ns for part in ("encoded", "loras", "log/pictures") for path in (home / part).rglob("*") if path.is_file()}
    (project / step.output).unlink()                              # as if it had been interrupted at its very end
    assert run_step(step, project, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pd.testing.assert_frame_equal(read_rows(home / "results.parquet"), rows)


@pytest.mark.xdist_group("run_own")
def test_one_folder_and_one_prompt_for_stable_diffusion_15_without_a_table(project: Path):
    folder, rng = project / "mine", np.random.default_rng(0)
    folder.mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(256, size=(70, 60 + 20 * number, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    parameters = {"pictures": "mine", "prompt": "a picture of mine", "out": "outputs/mine",
                  "changes": {"base": "data/zoo/sd15", "training.step": 16, "training.adapters": "shared", "training.repeats": 1,
                              "training.sample_every": 1, "training.fit.n_epochs": 1,
                              "drawing.n_pictures": 2, "drawing.n_steps": 2, "drawing.prompts": []}}
    assert run_step(at_defaults("27_train_own_lora", "own", **parameters), project, progress=False)
    rows = read_rows(project / "outputs/mine/results.parquet")
    assert [path.parent.name for path in (project / "outputs/mine/loras").glob("*/lora")] == ["all"]
    assert {"clip_score", "clip_i_held_out"} <= set(rows["metric"]) and "swap_gain" not in set(rows["metric"])      # nobody to swap with
    log = ImageLog(project / "outputs/mine/log").rows()
    samples = log[log["run"].str.startswith("training all")]
    assert sorted(samples["step"]) == [0, 1, 2] and set(samples["status"]) == {"drawn"} and samples["seed"].nunique() == 1
    cells = read_json(project / "outputs/own/27_train_own_lora.ipynb")["cells"]
    trained = next(cell for cell in cells if "train_own(" in "".join(cell["source"]))
    shown = [output for output in trained["outputs"] if "image/png" in output.get("data", {})]
    assert len(shown) == 2, "one picture that was shown anew at every step, and the losses"
    for name in ("1.png", "3.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:90])
    with pytest.raises(Exception, match=r"(?s)2 of 4 pictures cannot be read.*1\.png.*3\.png"):
        run_step(at_defaults("27_train_own_lora", "own_broken", **parameters | {"out": "outputs/broken"}), project, progress=False)
    assert not (project / "outputs/broken/loras").exists() and not (project / "outputs/broken/encoded").exists()


@pytest.mark.xdist_group("run_own")
def test_a_preset_of_a_published_model_says_all_that_is_missing_before_any_work(project: Path):
    step = at_defaults("27_train_own_lora", "own_large", preset="sd35-medium", out="outputs/large", changes={"training.fit.device": "cpu"})
    with pytest.raises(Exception, match=r"(?s)lacks 2 things.*encoder of zoo 'sd35-medium'.*stabilityai/stable-diffusion-3.5-medium"):
        run_step(step, project, progress=False)
    assert not (project / "outputs/large/encoded").exists()


@pytest.mark.xdist_group("run_own")
def test_the_preset_of_stable_diffusion_35_runs_from_pictures_to_judged_drawings(project: Path, monkeypatch: pytest.MonkeyPatch):
    "Its sizes are changed, for seconds of a CPU; the models are stand-ins with the names, files and text encoders of the true ones."
    write_sd35(project / "data/models", project / "data/zoo")
    monkeypatch.setenv("DIFFREC_DATA", str(project / "data"))
    changes = {"training.size": 128, "training.fit.device": "cpu", "training.fit.n_epochs": 1, "training.repeats": 1,
               "training.fit.warmup_steps": 1, "drawing.n_steps": 2, "drawing.n_pictures": 1}
    step = at_defaults("27_train_own_lora", "sd35", preset="sd35-medium", out="outputs/sd35", changes=changes)
    assert run_step(step, project, progress=False)
    encoders = read_json(project / "outputs/sd35/config.json")["data"]
    assert len({"vae", "text_encoder", "text_encoder_2", "text_encoder_3"} & set(encoders)) == 4, "the third text encoder is read too"
    [lora] = (project / "outputs/sd35/loras").glob("*/lora")
    learned = load_file(next(lora.glob("*.safetensors")))
    assert any("transformer_blocks.0.attn2." in name for name in learned), "a dual layer has attention that version 3 has not"
    assert any(weights.any() for name, weights in learned.items() if "lora_B" in name), "a LoRA begins at zero, and learned nothing"
    rows = read_rows(project / "outputs/sd35/results.parquet")
    assert {"clip_score", "clip_i_held_out", "failure_rate"} <= set(rows["metric"]) and {"base", "lora"} == set(rows["model"])


@pytest.mark.xdist_group("run_own")
def test_costs_of_lora_training_are_measured_beside_a_loop_that_encodes_every_step(project: Path):
    run_step(at_defaults("76_benchmark_image_lora"), project, progress=False)
    rows = read_rows(project / "outputs/image_lora_benchmarks-toy/results.parquet")
    speed = rows[rows["metric"] == "images_per_second"].set_index("model")["value"]
    ratio = rows.loc[rows["metric"] == "images_per_second_ratio", "value"].item()
    assert set(speed.index) == {"plain", "cached", "drawing"} and ratio == pytest.approx(speed["cached"] / speed["plain"], rel=1e-9)
    assert "peak_gigabytes" not in set(rows["metric"]), "on a CPU the process holds both ways"
