"""Ablations as a person meets them: killed and called again by two processes, failed trials shown, prompts that are seen and that matter."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffrec.app import picture_ablations
from diffrec.app.ablations import ABLATION_STUDIES, ablate
from diffrec.app.picture_ablations import PROMPT_LEVELS
from diffrec.core.artifacts import read_rows, read_table

pytestmark = pytest.mark.timeout(600)

SLEEPING = '''
"""A study whose trials take a moment, write down that they began, and fail in one cell."""
import os, sys, time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffrec.studies.ablations import Ablation, AblationSettings, axis, run_ablation


@dataclass(frozen=True)
class Nap(AblationSettings):
    width: int = 1
    depth: int = 1


def measure(parts, settings, seed, report):
    with open(os.environ["NAP_LOG"], "a") as log:
        log.write(f"{settings.width} {settings.depth} {seed}\\n")
    time.sleep(float(os.environ["NAP"]))
    if settings.width == 2 and settings.depth == 3:
        raise MemoryError("2 x 3 does not fit")
    return pd.DataFrame({"user": range(8), "metric": "value", "value": settings.width * settings.depth + np.arange(8.) + seed})


NAP = Ablation("naps", measure, Nap(seeds=(0, 1)), (axis("width", "width", 1, 2, 3), axis("depth", "depth", 1, 3)))

if __name__ == "__main__":
    import sleeping
    run_ablation(sleeping.NAP, sys.argv[1], int(sys.argv[2]))
'''


def napping(module: Path, out: Path, nap: float, workers: int = 1) -> subprocess.Popen:
    "A process that takes part in the study; it writes the cells that it begins to OUT.log."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NAP": str(nap), "NAP_LOG": f"{out}.log",
           "PYTHONPATH": os.pathsep.join(filter(None, [str(module.parent), os.environ.get("PYTHONPATH", "")]))}
    return subprocess.Popen([sys.executable, str(module), str(out), str(workers)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(out: Path) -> list[str]:
    "The cells and seeds that were begun, in order."
    log = Path(f"{out}.log")
    return log.read_text().splitlines() if log.exists() else []


def test_a_killed_ablation_goes_on_and_processes_share_it(tmp_path: Path):
    "Killed in its fifth trial, then called by two processes at once, one of them with two workers: no trial is lost, and none is counted twice."
    module = tmp_path / "sleeping.py"
    module.write_text(SLEEPING)
    whole = napping(module, tmp_path / "whole", 0)
    assert whole.wait() == 0, whole.stderr.read()
    killed, until = napping(module, tmp_path / "killed", .3), time.monotonic() + 200
    while len(begun(tmp_path / "killed")) < 5:
        assert killed.poll() is None and time.monotonic() < until
        time.sleep(.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "trials.parquet").exists()
    both = [napping(module, tmp_path / "killed", .05), napping(module, tmp_path / "killed", .05, workers=2)]
    outcomes = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    expected, found = (read_table(tmp_path / name / "trials.parquet").drop(columns="seconds") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(found, expected)
    assert found["trial"].tolist() == list(range(12)) and found["state"].tolist() == ["complete"] * 6 + ["failed"] * 2 + ["complete"] * 4
    assert set(found.loc[found["state"] == "failed", "error"]) == {"MemoryError: 2 x 3 does not fit"}
    started = begun(tmp_path / "killed")
    assert len(started) == 13 and len(set(started)) == 12 and started.count(started[4]) == 2        # the fifth was begun twice, no other
    for path in sorted((tmp_path / "whole" / "values").iterdir()):
        pd.testing.assert_frame_equal(read_table(tmp_path / "killed" / "values" / path.name), read_table(path))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, list[set[str]]]:
    "Values of two prompt levels with two seeds, drawn by the prompt alone, and the texts that the text encoder saw in each call."
    seen, opened = [], picture_ablations.open_pictures

    def listening(settings, folder):
        parts = opened(settings, folder)
        tokenizer = parts.drawer.pipeline.tokenizer

        def note(model, given):
            seen.append({tokenizer.decode(row, skip_special_tokens=True).strip() for row in given[0]})

        parts.drawer.pipeline.text_encoder.register_forward_pre_hook(note)
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_ablations, "open_pictures", listening)
        outcome = ablate("cross-prompts", changes={"seeds": [0, 1], "generator": "prompt", "n_draws": 2, "picture_steps": 8, "metric": "said"},
                         only={"prompt level": [0, 2], "generator": ["prompt"]}, out=tmp_path_factory.mktemp("prompts") / "study")
    return outcome.found.values, seen


def test_the_text_encoder_sees_each_prompt_of_a_study(prompts: tuple[pd.DataFrame, list[set[str]]]):
    "Words of both levels and nothing else, in the order of the trials: level 0 with both seeds, then level 2."
    seen, plain = prompts[1], lambda text: "".join(text.split()).lower()           # a tokenizer may set blanks otherwise
    half = len(seen) // 2
    first, second = ({plain(text) for texts in part for text in texts} for part in (seen[:half], seen[half:]))
    assert half and first == {""} and second == {plain(word) for word in PROMPT_LEVELS["world"][2]}


def test_two_prompts_differ_by_more_than_seed_noise(prompts: tuple[pd.DataFrame, list[set[str]]]):
    "What pictures show of the described item, by user: the difference of the prompts is larger than that of the seeds."
    values = prompts[0][prompts[0]["metric"] == "said"].pivot_table(index="user", columns=["prompt level", "seed"], values="value")
    between = np.array([[values["2", one].mean() - values["0", other].mean() for other in (0, 1)] for one in (0, 1)])
    within = [abs(values[level, 0].mean() - values[level, 1].mean()) for level in ("0", "2")]
    assert between.min() > 2 * max(within), (between, within)


@pytest.mark.parametrize("name", ["cross-cfgs", "steps-solvers"])
def test_a_study_of_a_prior_has_rows_for_every_cell(tmp_path: Path, name: str):
    outcome = ablate(name, out=tmp_path / "study")
    study, rows = outcome.found.study, read_rows(tmp_path / "study" / "results.parquet")
    cells = rows[rows["metric"].eq("utility") & rows["seed"].isna()]
    assert cells.loc[cells["versus"] == "", "model"].nunique() == len(study.cells)
    assert (cells["versus"] != "").sum() == len(study.cells) - 1 and len(set(cells.loc[cells["versus"] != "", "versus"])) == 1
    shares = rows.loc[rows["metric"] == "importance(utility)", "value"]
    assert len(shares) == len(study.axes) + 1 and abs(shares.sum() - 1) < 1e-9
    assert {path.stem for path in (tmp_path / "study" / "figures").glob("*.png")} == {"importance", "means"}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "values").iterdir()}
    ablate(name, out=tmp_path / "study")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "values").iterdir()} == kept


def test_every_study_has_a_small_form_and_a_full_one():
    for name, presets in ABLATION_STUDIES.items():
        full = [study for preset, study in presets.items() if preset != "toy"]
        assert full and all(len(study.cells) >= len(presets["toy"].cells) for study in full), name
