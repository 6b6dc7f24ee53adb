"""The snippet at the head of a notebook runs as it stands, with made-up inputs."""
import re
from pathlib import Path

import nbformat
import pytest

notebooks = Path(__file__).parents[1] / "nbs"
HEADS = ["40_recommenders/15_counting", "40_recommenders/17_walks", "40_recommenders/20_factorization", "40_recommenders/22_star_means",
         "40_recommenders/25_neural_cf", "40_recommenders/30_lightgcn", "40_recommenders/35_multimodal", "40_recommenders/40_lattice",
         "50_graph_diffusion/35_diffmm", "50_graph_diffusion/36_diffmm_corrected", "50_graph_diffusion/40_genrec",
         "50_graph_diffusion/41_genrec_corrected"]


@pytest.mark.parametrize("name", HEADS)
def test_the_snippet_at_the_head_runs(name: str):
    "In a namespace of its own, as a reader pastes it."
    head = nbformat.read(notebooks / f"{name}.ipynb", as_version=4).cells[0]["source"]
    snippets = re.findall(r"```python\n(.*?)```", head, re.DOTALL)
    assert snippets, f"{name} has no snippet at its head"
    exec(compile(snippets[0], name, "exec"), {})
