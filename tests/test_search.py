"""A search as a person meets it: killed and called again, shared by two commands, and blind to the test set."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import diffrec
from diffrec.core.artifacts import read_table

pytestmark = pytest.mark.timeout(600)


def command(data: Path, out: Path) -> subprocess.Popen:
    "A search of six trials of MF-BPR, four epochs each."
    return subprocess.Popen([Path(sys.executable).with_name("diffrec"), "search", "mf_bpr", "--data", data, "--budget", "6", "--out", out,
                             "--set", "fit.n_epochs=4", "--set", "batch_size=64"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def trials_of(out: Path) -> pd.DataFrame:
    return read_table(out / "searches" / "mf_bpr" / "trials.parquet").drop(columns="seconds")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffrec.save_dataset(diffrec.load_dataset("toy"), tmp_path_factory.mktemp("toy") / "data")


def reports_in(journal: Path) -> int:
    "Validation scores that trials reported so far (Optuna's entries of intermediate values)."
    return journal.read_text().count('"intermediate_value"') if journal.exists() else 0


def test_a_killed_search_goes_on_and_two_commands_share_one(toy: Path, tmp_path: Path):
    "Killed in the middle of its third trial, then called twice at once: the trials of one that ran through, each once."
    whole = command(toy, tmp_path / "whole")
    text, errors = whole.communicate()
    assert whole.returncode == 0 and "Test, judged once: " in text, errors
    killed, journal = command(toy, tmp_path / "killed"), tmp_path / "killed" / "searches" / "mf_bpr" / "search.jsonl"
    until = time.monotonic() + 300
    while reports_in(journal) < 10:
        assert killed.poll() is None and time.monotonic() < until
        time.sleep(.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (journal.parent / "trials.parquet").exists()
    both = [command(toy, tmp_path / "killed") for _ in range(2)]
    outcomes = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    expected, found = trials_of(tmp_path / "whole"), trials_of(tmp_path / "killed")
    assert found["trial"].tolist() == list(range(6))                                                 # none is lost, none is doubled
    settings = [name for name in found if "." in name or name == "n_negatives"]
    assert not found[settings].astype(str).duplicated().any()
    pd.testing.assert_frame_equal(found.head(3), expected.head(3))                                   # the killed one among them
    best = json.loads((journal.parent / "best.json").read_text())
    assert best["valid"] == found.loc[found["state"] == "complete", "valid"].max() and best["test"]["recall@20"]["value"] > 0
