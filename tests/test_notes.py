"""The notes beside the reports take their numbers from rows: notes.md is notes.template.md with its places filled.

`python tests/test_notes.py` writes every notes.md again. What has no row stands under the heading `Outside the rows`.
"""
import re
import textwrap
from pathlib import Path

import pytest
from test_reports import numbers_in, without_code

from diffrec.core.artifacts import read_rows
from diffrec.evaluation.rows import fill_text

reports = Path(__file__).parent.parent / "outputs" / "reports"
NOTED = sorted(path.parent.name for path in reports.glob("*/notes.md"))
PLACE, OUTSIDE = re.compile(r"\{[^{}|]+\|[^{}|]+\}"), "## Outside the rows"


def template_of(name: str) -> str:
    return (reports / name / "notes.template.md").read_text(encoding="utf-8")


def notes_of(name: str) -> str:
    "The notes of a report, its paragraphs in lines of at most 120 characters."
    rows, blocks = read_rows(reports / name / "results.parquet"), []
    for block in template_of(name).strip().split("\n\n"):
        filled = fill_text(block, rows)
        blocks.append(filled if filled == block else
                      textwrap.fill(" ".join(filled.split()), 120, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("name", NOTED)
def test_numbers_of_notes_are_those_of_the_rows(name: str):
    assert (reports / name / "notes.md").read_text(encoding="utf-8") == notes_of(name), \
        "change notes.template.md, and write the notes again with `python tests/test_notes.py`"


@pytest.mark.parametrize("name", NOTED)
def test_notes_type_in_no_number_but_goals_and_what_they_mark_as_outside_the_rows(name: str):
    claimed = template_of(name).split(OUTSIDE)[0]
    assert PLACE.search(claimed), "notes that name no row"
    text = re.sub(r"\bgoal:\s+[^;)]*", "goal", without_code(PLACE.sub("place", claimed)))
    assert not [number for number in numbers_in(text) if "." in number]


if __name__ == "__main__":
    for noted in NOTED:
        (reports / noted / "notes.md").write_text(notes_of(noted), encoding="utf-8")
