"""Every module imports only modules whose notebook has a lower number, so data flows one way."""
import ast
import re
from pathlib import Path

import pytest
from nbdev.config import get_config

package = Path(get_config().lib_path)
sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
number = {path: (int(match[1]), match[2]) for path, text in sources.items()          # 26a comes after 26 and before 27
          if (match := re.search(r"File to edit: .*?/(\d+)([a-z]?)_", text))}


def own_imports(path: Path):
    "Paths of the package's numbered modules that a module imports, relatively or by full name."
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
        yield from (name.with_suffix(".py") for name in names if name.with_suffix(".py") in number)


def test_modules_have_numbers():
    unnumbered = [path.name for path in sources if path not in number and path.name not in ("__init__.py", "_modidx.py")]
    assert len(number) > 10 and not unnumbered, unnumbered


@pytest.mark.parametrize("path", sorted(number), ids=lambda path: path.stem)
def test_imports_point_down(path: Path):
    for target in own_imports(path):
        assert number[target] < number[path], f"{path.name} ({number[path]}) imports {target.name} ({number[target]})"


@pytest.mark.parametrize("floor, forbidden", [
    ("models", ("data", "training", "evaluation")), ("training", ("models", "data", "evaluation")),
    ("evaluation", ("models", "training")), ("generators", ("data", "training", "evaluation")),
    ("diffusion", ("data", "models", "generators", "sampling", "training", "evaluation")), ("sampling", ("data", "models", "training", "evaluation"))])
def test_floors_that_do_not_know_each_other(floor: str, forbidden: tuple[str, ...]):
    for path in (package / floor).glob("*.py"):
        if path in number:
            seen = {target.parent.name for target in own_imports(path)} & set(forbidden)
            assert not seen, f"{floor}/{path.name} imports {seen}"


def test_the_library_never_imports_its_build_tools():
    for path, text in sources.items():
        if path.name != "_modidx.py":
            assert not re.search(r"^\s*(from|import) (nbdev|fastcore|execnb|pytest)\b", text, re.M), path
