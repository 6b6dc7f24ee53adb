"Every mutant of the table can still be put in; that tests see it is what `make mutants` finds out."
from pathlib import Path

import pytest
from mutants import ROOT, TABLE, Mutant, put_in, read_table

table = read_table()


@pytest.mark.parametrize("name", table)
def test_a_mutant_applies_and_its_tests_are_there(name: str):
    mutant, texts = table[name], table[name].faulty(ROOT)
    module = next(path for path in texts if path.suffix == ".py")
    compile(texts[module], str(module), "exec")
    assert mutant.old != mutant.new and mutant.tests(ROOT)
    for test in mutant.tests(ROOT):
        path = Path("nbs", test) if test.endswith(".ipynb") else Path(test.partition(" -k ")[0])
        assert (ROOT / path).is_file(), path


def test_every_part_of_the_package_has_mutants():
    parts = {path.parent.name for path in (ROOT / "diffrec").glob("*/[a-z]*.py")}
    assert parts == {mutant.module.split("/")[0] for mutant in table.values()}


def test_a_text_that_no_longer_occurs_is_an_error():
    gone = Mutant("gone", "core/seeds", "a text that is nowhere", "")
    with pytest.raises(ValueError, match=r"gone: the old text occurs 0 times in diffrec/core/seeds.py and 0 times in"):
        gone.faulty(ROOT)


def test_the_fault_is_in_both_files_within_the_block_only(tmp_path: Path):
    mutant = Mutant("one", "core/seeds", 'f"{int(seed)}:{name}"', '"one name for all"')
    for path in mutant.files(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    before = [path.read_bytes() for path in mutant.files(tmp_path)]
    with put_in(mutant, tmp_path):
        for path in mutant.files(tmp_path):
            assert mutant.old not in path.read_text("utf-8") and "one name for all" in path.read_text("utf-8")
    assert before == [path.read_bytes() for path in mutant.files(tmp_path)]
    assert TABLE.parent == ROOT / "tests"
