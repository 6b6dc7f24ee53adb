"""The command line as a person meets it: quick, light, one line for each mistake; and the front door of the package."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffrec

root = Path(__file__).parent.parent
HEAVY = {"torch", "pandas", "numpy", "sklearn", "scipy", "matplotlib", "diffusers", "transformers", "optuna", "accelerate", "open_clip", "papermill"}


def run(*arguments: str, folder: Path = root) -> subprocess.CompletedProcess:
    return subprocess.run([Path(sys.executable).with_name("diffrec"), *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"]])
def test_help_and_lists_import_nothing_heavy(arguments: list[str]):
    script = (f"import sys, contextlib, io, json\nfrom diffrec.app.cli import main\n"
              f"with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main({arguments})\n"
              f"print(json.dumps(sorted(set(sys.modules) & set({sorted(HEAVY)}))))")
    found = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_list_names_every_preset_and_report_with_its_needs():
    from diffrec.app.cli import SYSTEMS
    text = run("list").stdout
    for system in SYSTEMS:
        assert system.name in text and all(preset in text for preset in system.presets)
        for report in system.reports:
            assert f"  {report.name}: {report.shows}" in text and (report.needs in text) and report.minutes > 0


@pytest.mark.parametrize("arguments, complaint", [
    (["report", "wrold"], "did you mean 'world'?"),
    (["train", "recomenders"], "did you mean 'recommenders'?"),
    (["train", "recommenders", "--preset", "tikotk"], "did you mean 'tiktok'?"),
    (["train", "recommenders", "--set", "n_sedes=3"], "Known are settings, models"),
    (["train", "recommenders", "--set", "seeds=0"], "seeds = 0"),
    (["train", "priors", "--data", "nowhere"], "nowhere")])
def test_a_mistake_is_a_few_lines_and_the_exit_code_is_2(arguments: list[str], complaint: str):
    found = run(*arguments)
    assert found.returncode == 2 and complaint in found.stderr and "Traceback" not in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 5, found.stderr


def test_outside_a_checkout_the_error_says_what_is_missing(tmp_path: Path):
    found = run("train", "recommenders", folder=tmp_path)
    assert found.returncode == 2 and "checkout of the project" in found.stderr and len(found.stderr.strip().splitlines()) <= 5


def test_importing_the_package_is_light_and_its_names_are_there():
    script = f"import sys, diffrec\nassert not set(sys.modules) & set({sorted(HEAVY)})\nprint(sorted(diffrec.__all__))"
    assert subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert set(diffrec.__all__) == set(diffrec._PLACES)
    for name in diffrec.__all__:
        value = getattr(diffrec, name)
        assert callable(value) and value.__doc__, name
    with pytest.raises(AttributeError, match="did you mean 'recommend'?"):
        diffrec.recomend
