"""Links lead somewhere: every relative link, every notebook that prose names; every name of the originals has a row and a test."""
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).parent.parent
notebooks = sorted(path for path in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
pages = [root / "README.md", root / "CONTRIBUTING.md", root / "outputs" / "README.md"]
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")
NAMED = re.compile(r"`((?:\d\d_[a-z0-9_]+|runs)/\d\d_[a-z0-9_]+)`")     # a notebook, as `05_data/20_splits`


def without_code(text: str) -> str:
    "Markdown without fenced and indented code."
    return re.sub(r"^(    |\t).*$", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), flags=re.M)


def texts(path: Path) -> Iterator[str]:
    "The markdown of a page, or of each text cell of a notebook."
    if path.suffix != ".ipynb":
        yield without_code(path.read_text(encoding="utf-8"))
        return
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            yield without_code("".join(cell["source"]))


def links(path: Path) -> Iterator[str]:
    "Targets of the relative links of a file, without anchors."
    for text in texts(path):
        for target in LINK.findall(text):
            if not re.match(r"[a-z]+:|#", target):
                yield unquote(target.split("#")[0])


def name(path: Path) -> str:
    return path.relative_to(root).as_posix()


@pytest.mark.parametrize("path", [*notebooks, *pages], ids=name)
def test_relative_links_lead_to_a_file(path: Path):
    broken = [target for target in links(path) if not (path.parent / target).exists()]
    assert not broken, f"{name(path)} links to {broken}"


@pytest.mark.parametrize("path", [*notebooks, *pages], ids=name)
def test_a_notebook_that_prose_names_is_a_link_to_it(path: Path):
    for text in texts(path):
        linked = [(match[1], target) for match, target in ((NAMED.search(whole[0]), whole[1]) for whole in LINK.finditer(text)) if match]
        for named, target in linked:
            assert (path.parent / target).resolve() == root / "nbs" / f"{named}.ipynb", f"{name(path)}: {named} leads to {target}"
        bare = NAMED.findall(LINK.sub("", text))
        assert not bare, f"{name(path)} names {bare} without a link"


def test_the_index_leads_to_every_notebook():
    index = root / "nbs" / "index.ipynb"
    reached = {(index.parent / target).resolve() for target in links(index)}
    assert set(notebooks) - {index} <= reached, sorted(name(path) for path in set(notebooks) - {index} - reached)


def test_links_and_names_are_found():
    "The patterns themselves, on text that has every case."
    text = "[`05_data/20_splits`](../05_data/20_splits.ipynb) and `05_data/30_batches`, ![a [b]](c%20d.png), [x](https://a.b/c) [y](#z)"
    assert LINK.findall(text) == ["../05_data/20_splits.ipynb", "c%20d.png", "https://a.b/c", "#z"]
    assert NAMED.findall(LINK.sub("", text)) == ["05_data/30_batches"]
    assert without_code("a\n\n    [x](y)\n\n```\n[x](y)\n```\n").strip() == "a"


originals = root / "nbs" / "originals.ipynb"
seeds = Path(os.environ.get("DIFFREC_DATA", root.parent / "shared" / "data")).parent / "seeds"     # the originals' READMEs
NAMES = json.loads((root / "tests" / "originals.json").read_text(encoding="utf-8"))                # what each of them names
TITLES = {"diffmm": "DiffMM", "genrec": "GenRec-V1", "rebeca": "REBECA", "diffrec": "DiffRec"}
PATTERNS = {                                                                # of the text without addresses, commands on one line each
    "file": r"[\w-][\w.-]*\.(?:npy\.zip|py|ipynb|md|ya?ml|txt|pkl|npy|zip|pdf|png)\b",
    "folder": r"(?<![\w/<>.-])(?:\./)?((?:[\w-]+/)*[\w-]+)/(?=[\s`),.]|$)",
    "tree": r"(?:├──|└──|â”œâ”€â”€|â””â”€â”€)\s+([\w .-]*[\w-])",
    "command": r"python \w+\.py[^`\n#]*|conda env create -f [\w.]+|conda create -n \w+ python=[\d.]*\d|conda activate \w+|git clone|"
               r"pip install -r [\w.]+|huggingface-cli login",
    "import": r"from \w+ import (\w+)"}


def names_in(text: str) -> list[str]:
    "Files, folders, entries of trees, commands, keys of settings and imports that a README names."
    text = re.sub(r"(?<=weights/)(?=Key)|(?<=baselines/)(?=Outputs)|(?<=and)(?=evaluation|notebooks)", "\n", text)   # lost line breaks
    text = re.sub(r"\s*\\\n\s*", " ", re.sub(r"https?://\S+", " ", text))
    keys = {key for block in re.findall(r"```yaml\n(.*?)```", text, re.S) for key in re.findall(r"^\s*(\w+):", block, re.M)}
    return sorted({found.strip() for pattern in PATTERNS.values() for found in re.findall(pattern, text)} | keys)


def rows_of_originals(name: str) -> list[list[str]]:
    "The cells of each row of an original's table."
    text = next(text for text in texts(originals) if text.startswith(f"## {TITLES[name]}\n"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| there | here | tested by |", lines[0]
    return [re.split(r" \| ", line.strip("| ")) for line in lines[2:]]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_an_original_has_a_row(name: str):
    there = "\n".join(row[0] for row in rows_of_originals(name)).lower()
    lacking = [word for word in NAMES[name] if not re.search(rf"(?<![\w-]){re.escape(word.lower())}(?![\w-])", there)]
    assert not lacking, f"{TITLES[name]} names {lacking}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_an_original_has_a_test_that_is_there(name: str):
    "A test by its name, or notebooks of the library, each of which `test_notebooks` runs; a page or a picture has none."
    for row in rows_of_originals(name):
        there, here, tested = row
        named = LINK.findall(tested)
        for target, words in zip(named, re.findall(r"\[([^\]]*)\]", tested)):
            source = (originals.parent / target).read_text(encoding="utf-8")
            assert f"def test_{words.replace(' ', '_')}(" in source, f"{there}: no test of {target} is called {words!r}"
        library = [target for target in LINK.findall(here) if target.endswith(".ipynb") and not target.startswith("runs/")]
        assert library or "the notebooks" not in tested, f"{there}: no notebook of the library is linked"
        assert named or "the notebooks" in tested or tested == "nothing runs", there
        assert tested != "nothing runs" or not re.search(r"\.(py|ipynb|pkl|npy|zip)\b|python ", there), f"{there}: code without a test"


@pytest.mark.skipif(not seeds.is_dir(), reason=f"the originals' READMEs are not in {seeds}")
@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_those_of_the_readme(name: str):
    assert NAMES[name] == names_in((seeds / f"{name}.md").read_text(encoding="utf-8"))
