"""The import law: what each part of the package may use, read from the source of every module."""
import ast
import re
from pathlib import Path

import pytest
from nbdev.config import get_config

config = get_config()
package, notebooks = Path(config.lib_path), Path(config.nbs_path)
sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py")) if path.name not in ("__init__.py", "_modidx.py")}
notebook = {path: path.parent / match[1] for path, text in sources.items() if (match := re.search(r"File to edit: (.*?\.ipynb)", text))}

STUDY = 50        # in a system's folder, lower numbers are networks and mathematics; from here on, the study
# part -> the other parts that a module of it may use. Tools know no system.
TOOLS = {
    "core": set(),
    "data": {"core"},
    "world": {"core", "data"},
    "diffusion": {"core"},
    "training": {"core"},
    "evaluation": {"core", "data", "world"},
    "figures": {"core", "evaluation"},
    "studies": {"core", "data", "training", "evaluation", "figures"},
}
# system -> the parts that its networks may use (below `STUDY`), and the other systems that its study may use
SYSTEMS = {
    "recommenders": ({"core", "diffusion"}, set()),
    "graph_diffusion": ({"core", "diffusion", "recommenders"}, {"recommenders"}),
    "image_models": ({"core", "diffusion", "world", "recommenders"}, {"recommenders"}),
    "priors": ({"core", "diffusion", "recommenders", "evaluation.calibration"}, {"recommenders", "image_models"}),
    "language": ({"core", "diffusion", "recommenders"}, {"recommenders"}),
    "personal_images": ({"core", "diffusion", "image_models", "language"}, {"recommenders", "image_models", "priors", "language"}),
}

# An arrow that points sideways until the studies are split; nothing may be added here.
PENDING = {("priors.recipes", "graph_studies.settings")}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def place(path: Path) -> tuple[int, int]:
    "(number of the part, number of the notebook), from the notebook that a module's header names."
    part, stem = notebook[path].parent.name, notebook[path].name
    return int(part.split("_")[0]), int(stem.split("_")[0])


def own_imports(path: Path):
    "Paths of the package's modules that a module imports, relatively or by full name."
    for node in ast.walk(ast.parse(sources[path])):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = path.parents[node.level - 1]
            elif (node.module or "").split(".")[0] == package.name:
                base = package.parent
            else:
                continue
            base = base.joinpath(*(node.module or "").split("."))
            names = [base, *(base / alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [package.parent.joinpath(*alias.name.split(".")) for alias in node.names]
        else:
            continue
        yield from (name.with_suffix(".py") for name in names if name.with_suffix(".py") in sources)


def allowed(path: Path) -> set[str]:
    "Parts (or single modules) that the law lets a module use."
    part = path.relative_to(package).parts[0]
    if part in TOOLS:
        return TOOLS[part] | {part}
    if part == "app":
        return {*TOOLS, *SYSTEMS, "app"}
    networks, systems = SYSTEMS[part]
    return ({*TOOLS} | systems if place(path)[1] >= STUDY else networks) | {part}


modules = pytest.mark.parametrize("path", sorted(sources), ids=module_name)


@modules
def test_a_module_names_the_notebook_it_comes_from(path: Path):
    "Also a module whose notebook was moved away or renamed is seen here; an export alone leaves it in the package."
    assert path in notebook, f"{path} was not exported from a notebook"
    where = (path.parent / notebook[path]).resolve()
    expected = [re.sub(r"^\d+_", "", name) for name in where.relative_to(notebooks.resolve()).with_suffix("").parts]
    assert where.exists(), f"{module_name(path)}: {notebook[path]} is not there"
    assert module_name(path).split(".") == expected


def test_no_module_is_loose_and_no_number_is_used_twice():
    loose = [path.name for path in package.glob("*.py") if path.name not in ("__init__.py", "_modidx.py")]
    assert not loose
    places = [place(path) for path in sources]
    assert len(places) > 100 and len(set(places)) == len(places), sorted(one for one in places if places.count(one) > 1)
    parts = [path.name for path in notebooks.iterdir() if re.match(r"\d", path.name)]
    assert len({name.split("_")[0] for name in parts}) == len(parts)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for name in [*parts, *(path.stem for path in notebooks.glob("[0-9]*/*.ipynb"))])


@modules
def test_imports_point_down(path: Path):
    for target in own_imports(path):
        assert place(target) < place(path), f"{module_name(path)} {place(path)} imports {module_name(target)} {place(target)}"


@modules
def test_the_import_law(path: Path):
    for target in own_imports(path):
        name = module_name(target)
        assert {name, name.split(".")[0]} & allowed(path), f"{module_name(path)} may not use {name}"
        assert name.split(".")[-1] != "reports" or name.startswith(("studies.", module_name(path).split(".")[0] + ".")) or path.parent.name == "app"


def test_the_library_never_imports_its_build_tools():
    for path, text in sources.items():
        assert not re.search(r"^\s*(from|import) (nbdev|fastcore|execnb|pytest)\b", text, re.M), path
