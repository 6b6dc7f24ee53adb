"""Links lead somewhere: every relative link of the notebooks and pages, and every notebook that prose names is a link."""
import json
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
