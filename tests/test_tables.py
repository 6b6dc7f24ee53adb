"""A table means what it says: the same events come back, or an error names the file and the rule; nothing is shifted, merged or lost."""
import csv
import datetime
import gzip
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from diffrec.data.batches import TripletBatches
from diffrec.data.columns import TIME_UNITS, time_column
from diffrec.data.importers import import_diffmm, import_table
from diffrec.data.interactions import Dataset, Interactions
from diffrec.data.layouts import import_book_crossing, import_recbole, import_user_lines
from diffrec.data.reviews import import_amazon_reviews, import_flickr_aes, import_movielens, import_rated_pictures
from diffrec.data.splits import check_leakage, split_temporal
from diffrec.data.tables import read_frame
from diffrec.evaluation.ranking import RANK_METRICS, ndcg_at_k, precision_at_k, recall_at_k

MARCH = 1_646_092_800        # 2022-03-01
bounded = settings(max_examples=40, deadline=None, derandomize=True,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def events_of(dataset: Dataset, split: str = "train") -> list[tuple]:
    "(user id, item id, value?) of a split, sorted."
    part = dataset.splits[split]
    columns = [dataset.users["id"].to_numpy()[part.users], dataset.items["id"].to_numpy()[part.items]]
    columns += [] if part.values is None else [part.values.tolist()]
    return sorted(zip(*columns))


def save(path: Path, text: str | bytes) -> Path:
    "A file, packed if its name ends in .gz."
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# ---- rows and fields


@pytest.mark.parametrize("name, separator", [("log.csv", ","), ("log.tsv", "\t"), ("log.csv.gz", ","), ("log.tsv.gz", "\t"), ("log.txt", ";")])
@pytest.mark.parametrize("rows, line, fields", [
    (["u1|10|5|880"], 2, 4), (["u1|10|5", "u2|9|4|880", "u3|9|4"], 3, 4), (["u1|10|5", "u2|9"], 3, 2), (["u1|10|5|"], 2, 4),
    (["u1|10|5", "", "u2"], 4, 1), (["u1|10|5|880", "u2|9|5|881"], 2, 4)])
def test_a_row_with_another_number_of_fields_than_the_header_is_named(tmp_path, name, separator, rows, line, fields):
    path = save(tmp_path / name, "\n".join(["user|item|value", *rows]).replace("|", separator) + "\n")
    with pytest.raises(ValueError, match=rf"{re.escape(name)}, line {line}: {fields} fields where the header has 3 \(user, item, value\)"):
        import_table(path, value="value", separator=separator if name.endswith("txt") else None)


@pytest.mark.parametrize("header, rule", [
    ("user,item,user", "names the column 'user' twice"), ("user,item,item ", "names the column 'item' twice"),
    ("user,it\u200bem,value", "invisible character U\\+200B"), ("user,\ufeffitem,value", "invisible character U\\+FEFF"),
    ("user;item;value", "give separator=';'"), ("u1,10,5", "if the file has no header"), ("user,,value", "lacks the columns \\['item'\\]")])
def test_a_header_that_is_ambiguous_is_refused(tmp_path, header, rule):
    row = "u1,10,5" if "," in header else "u1;10;5"
    with pytest.raises(ValueError, match=rf"log.csv.*{rule}"):
        import_table(save(tmp_path / "log.csv", f"{header}\n{row}\n"), value="value")


def test_a_lone_quote_in_a_file_with_tabs_is_a_character(tmp_path):
    rows = [("u1", "a"), ("u2", '"b'), ("u3", "c"), ("u4", '7" d'), ("u5", "e"), ("u6", 'f"')]
    path = save(tmp_path / "log.tsv", "user\titem\n" + "".join(f"{user}\t{item}\n" for user, item in rows))
    assert events_of(import_table(path)) == rows
    with pytest.raises(ValueError, match="log.tsv, line 3.*quote"):
        import_table(save(tmp_path / "log.tsv", 'user\titem\nu1\ta\nu2\t"b\nu3\tc\n'), quotes=True)


@pytest.mark.parametrize("text, line", [('user,item\nu1,"a\nu2,b\nu3,c\n', 2), ('user,item\nu1,a\nu2,"b', 3), ('user,item\nu1,a\nu2,"b"x\n', 3),
                                        ('user,item\nu1,"a\nu2,b"\n', 2), ('user,item\n"u1,a\nu2,b\n', 2), ('user,"item\nu1,a\n', 1)])
def test_a_quote_that_is_not_closed_names_its_line(tmp_path, text, line):
    with pytest.raises(ValueError, match=rf"log.csv(, column 'item')?, line {line}: "):
        import_table(save(tmp_path / "log.csv", text))


# ---- ids


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_words_for_nothing_are_ids_and_an_empty_cell_is_none(tmp_path, ending):
    ids = ["NA", "null", "nan", "None", "NaN", "N/A", "<NA>", "#N/A", "NULL", "n/a", "-nan", "inf", "True", "1e5", "007", "7", "0x1F", "1_000"]
    path, frame = tmp_path / f"log.{ending}", pd.DataFrame({"user": ids, "item": ids[::-1]})
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    assert events_of(import_table(path)) == sorted(zip(ids, ids[::-1]))
    frame.loc[3, "user"] = ""
    frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    with pytest.raises(ValueError, match=rf"column 'user', {'row 3' if ending == 'parquet' else 'line 5'}: an id is missing"):
        import_table(path)


def test_numbers_in_two_spellings_are_not_two_users(tmp_path):
    train, test = save(tmp_path / "train.csv", "user,item\n196,1\n22,2\n"), save(tmp_path / "test.csv", "user,item\n196.0,2\n22.0,1\n")
    with pytest.raises(ValueError, match=r"test.csv, line 2: the ids '196' and '196.0' are one number in two spellings"):
        import_table({"train": train, "test": test})
    with pytest.raises(ValueError, match="log.csv, column 'item', line 3: the ids '5' and '5.00' are one number"):
        import_table(save(tmp_path / "log.csv", "user,item\na,5\na,5.00\n"))
    floats = tmp_path / "test.parquet"
    pd.DataFrame({"user": [196., 22.], "item": ["2", "1"]}).to_parquet(floats)          # a float column has no spelling
    assert events_of(import_table({"train": train, "test": floats}), "test") == [("196", "2"), ("22", "1")]
    for other in ("0196", "u196", "197"):
        with pytest.raises(ValueError, match="test.csv, line 2: none of the 1 users of 'test' has an event in 'train'"):
            import_table({"train": train, "test": save(tmp_path / "test.csv", f"user,item\n{other},2\n")})
    pd.DataFrame({"user": [196, None], "item": ["2", "1"]}).to_parquet(floats)
    with pytest.raises(ValueError, match="test.parquet, column 'user', row 1: an id is missing"):
        import_table(floats)


def test_blanks_around_ids_neither_split_nor_merge_users_in_silence(tmp_path):
    with pytest.warns(UserWarning, match="log.csv, column 'user': 1 ids are written with and without blanks.*'bob ' in line 3"):
        data = import_table(save(tmp_path / "log.csv", "user,item\nbob,1\nbob ,2\n"))
    assert events_of(data) == [("bob", "1"), ("bob", "2")]
    with warnings.catch_warnings(action="error"):
        data = import_table({"train": save(tmp_path / "a.csv", "user , item\nbob , 1\nann , 2\n"), "test": save(tmp_path / "b.csv", "user,item\nbob,2\n")})
    assert events_of(data, "test") == [("bob", "2")]
    with pytest.raises(ValueError, match="differ only in how an accent is composed"):
        import_table(save(tmp_path / "log.csv", "user,item\nJos\u00e9,1\nJose\u0301,2\n"))


def test_integers_are_sorted_as_integers_in_every_format(tmp_path):
    frame = pd.DataFrame({"user": [10, 9, 100], "item": [3, 20, 1]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_csv(tmp_path / "log.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "log.parquet")
    for ending in ("csv", "tsv", "parquet"):
        data = import_table(tmp_path / f"log.{ending}")
        assert (list(data.users["id"]), list(data.items["id"])) == (["9", "10", "100"], ["1", "3", "20"])


# ---- times


@pytest.mark.parametrize("dtype", ["datetime64[s]", "datetime64[ms]", "datetime64[us]", "datetime64[ns]", "datetime64[us, UTC]",
                                   "datetime64[ns, Asia/Tokyo]", "date", "text", "text with a fraction", "int64", "float64"])
def test_every_kind_of_date_in_parquet_is_the_same_second(tmp_path, dtype):
    day = {"date": datetime.date(2022, 3, 1), "text": "2022-03-01", "text with a fraction": "2022-03-01T00:00:00.987+00:00"}.get(dtype, MARCH)
    times = pd.Series([day], dtype=dtype if dtype in ("int64", "float64") else object)
    if dtype.startswith("datetime64"):
        zone = dtype.partition(", ")[2].rstrip("]")
        times = pd.Series(pd.to_datetime([MARCH], unit="s")).dt.as_unit(re.match(r"datetime64\[(\w+)", dtype)[1])
        times = times.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else times
    pd.DataFrame({"user": ["a"], "item": ["x"], "when": times}).to_parquet(tmp_path / "log.parquet")
    data = import_table(tmp_path / "log.parquet", timestamp="when")
    assert data.train.timestamps.tolist() == [MARCH] and "2022-03-01" in data.summary()["span"].iloc[0]


@pytest.mark.parametrize("unit, name", [("ms", "milliseconds"), ("us", "microseconds"), ("ns", "nanoseconds"), ("D", "days"), ("h", "hours"), ("min", "minutes")])
def test_a_number_in_another_unit_is_named_with_its_line(tmp_path, unit, name):
    times, parts = TIME_UNITS[unit]
    path = save(tmp_path / "log.csv", f"user,item,when\na,x,{MARCH}\nb,x,{MARCH * parts // times}\n")
    with pytest.raises(ValueError, match=rf"log.csv, column 'when', line 3: \d+ seconds is not a moment between 1990 and 2100: it looks like {name}; give unit='{unit}'"):
        import_table(path, timestamp="when")
    with pytest.raises(ValueError, match="line 2: .*looks like seconds; give unit='s'"):
        import_table(path, timestamp="when", unit=unit)
    save(path, f"user,item,when\na,x,{MARCH * parts // times}\n")
    assert import_table(path, timestamp="when", unit=unit).train.timestamps.tolist() == [MARCH]


def test_training_in_milliseconds_and_test_in_microseconds_do_not_pass(tmp_path):
    files = {"train": save(tmp_path / "train.csv", f"user,item,when\na,x,{MARCH * 10**3}\n"), "test": save(tmp_path / "test.csv", f"user,item,when\na,y,{MARCH * 10**6}\n")}
    with pytest.raises(ValueError, match="train.csv, column 'when', line 2: .*looks like milliseconds"):
        import_table(files, timestamp="when")
    with pytest.raises(ValueError, match="test.csv, column 'when', line 2: .*looks like microseconds"):
        import_table(files, timestamp="when", unit="ms")
    for left, right in ((10**3, 10**6), (10**6, 10**3), (1, 10**3)):
        parts = {split: Interactions([0], [item], 1, 2, timestamps=np.array([MARCH * scale + item]))
                 for item, (split, scale) in enumerate((("train", left), ("test", right)))}
        with pytest.raises(ValueError, match="their times are in different units"):
            check_leakage(parts, temporal="global")


@given(seconds=st.integers(631_152_000, 4_102_444_799), unit=st.sampled_from(["s", "ms", "us", "ns"]), part=st.floats(0, .999),
       kind=st.sampled_from(["number", "text", "date"]))
@bounded
def test_times_of_every_unit_come_back_as_seconds(seconds, unit, part, kind):
    parts = TIME_UNITS[unit][1]
    number = seconds * parts + int(part * parts)
    column = {"number": pd.Series([number]), "text": pd.Series([str(number)]),
              "date": pd.Series(np.array([number], f"datetime64[{unit}]"))}[kind]
    assert time_column("log", column, unit).tolist() == [seconds]


@given(number=st.one_of(st.integers(-2**62, 631_151_999), st.integers(4_102_444_800, 2**62)), line=st.integers(2, 9))
@bounded
def test_a_number_that_is_no_moment_is_an_error(number, line):
    column = pd.Series([str(MARCH), str(number)], index=pd.Index([1, line], name="line"))
    with pytest.raises(ValueError, match=f"log, line {line}: {number} seconds is not a moment"):
        time_column("log", column)


# ---- order of splits and new users


def test_files_of_splits_in_the_wrong_order_are_refused_and_overlap_is_counted(tmp_path):
    def log(name, *rows):
        return save(tmp_path / name, "user,item,when\n" + "".join(f"{user},{item},{MARCH + time}\n" for user, item, time in rows))

    early, late = log("a.csv", ("u", 1, 0), ("v", 2, 5)), log("b.csv", ("u", 2, 9), ("v", 1, 9))
    with warnings.catch_warnings(action="error"):
        import_table({"train": early, "test": late}, timestamp="when")
    for files in ({"train": late, "test": early}, {"train": early, "valid": late, "test": log("c.csv", ("u", 3, 7))}):
        with pytest.raises(ValueError, match="comes after every event of"):
            import_table(files, timestamp="when")
    with pytest.warns(UserWarning, match=r"a.csv, line 3: 1 of 2 events of 'train' come after the first event of their user in 'test'"):
        import_table({"train": early, "test": log("d.csv", ("v", 1, 3), ("u", 2, 9))}, timestamp="when")


def test_a_temporal_split_counts_the_users_without_training_events():
    users, times = np.repeat(np.arange(10), 10), np.arange(100)
    log = Interactions(users, np.tile(np.arange(10), 10), 10, 10, timestamps=times, name="log")
    with pytest.warns(UserWarning, match=r"log: 2 of 2 users of 'test' have no training event.*per_user=True.*split_ratio"):
        splits = split_temporal(log, fractions=(.8, .2))
    frame = pd.DataFrame({"id": [str(number) for number in range(10)]})
    with pytest.warns(UserWarning, match="mine: 2 of 2 users of 'test' have no training event"):
        Dataset("mine", splits, frame, frame).summary()
    with warnings.catch_warnings(action="error"):
        own = split_temporal(log, fractions=(.8, .1, .1), per_user=True)
        Dataset("mine", own, frame, frame).summary()
    check_leakage(own, temporal="user")
    assert {split: part.user_counts().tolist() for split, part in own.items()} == {"train": [8] * 10, "valid": [1] * 10, "test": [1] * 10}


# ---- ranges, texts, releases


def test_ratings_off_their_scale_are_not_hidden_by_a_mean(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    for score in ("9", "0", "-1", "5.5"):
        path = save(tmp_path / "scores.csv", f"worker,imagePair,score\nw,a.jpg,2\nw,a.jpg,{score}\n")
        mine = dict(user="worker", picture="imagePair", rating="score")
        for read in (lambda: import_flickr_aes(path, repeats="mean"), lambda: import_rated_pictures(path, tmp_path, repeats="mean", **mine)):
            with pytest.raises(ValueError, match=rf"scores.csv, column 'score', line 3: .*{score}'? is not (between|one of)"):
                read()
    reviews = save(tmp_path / "toys.jsonl", "".join(
        f'{{"user_id": "u", "parent_asin": "b", "rating": {rating}, "timestamp": {MARCH * 1000}, "verified_purchase": true}}\n' for rating in (2, 9)))
    with pytest.raises(ValueError, match="toys.jsonl, column 'rating', line 2: 9 is not between 1 and 5"):
        import_amazon_reviews(reviews, repeats="mean")


def test_texts_of_other_items_are_refused_and_missing_ones_counted(tmp_path):
    log = save(tmp_path / "log.csv", "user,item\na,1\na,2\na,3\n")
    with pytest.raises(ValueError, match="belong to none of the 3 items"):
        import_table(log, items=save(tmp_path / "films.csv", "id,title\n001,Alien\n"))
    with pytest.warns(UserWarning, match="2 of 3 items have no text, the first is '2'"):
        data = import_table(log, items=save(tmp_path / "films.csv", "movie,id,title\n1,x,NA\n9,y,Brazil\n"), items_id="movie")
    assert data.items["title"].iloc[0] == "NA" and data.items["title"].isna().tolist() == [False, True, True]


def test_two_releases_in_one_folder_are_refused(tmp_path):
    for first, second in [("ratings.dat", "ratings.csv"), ("ratings.csv", "movies.dat"), ("u.data", "ratings.dat"), ("ratings.csv", "old/ratings.csv")]:
        folder = tmp_path / f"{first}{second}".replace("/", "")
        for name in (first, second):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save(folder / name, "userId,movieId,rating,timestamp\n1,2,3,978300760\n")
        with pytest.raises(ValueError, match="files of several releases") as error:
            import_movielens(folder)
        assert first in str(error.value) and second in str(error.value)


def test_a_feature_without_columns_is_refused_by_its_file(tmp_path):
    import pickle
    for name, at in (("trn", (0, 0)), ("val", (0, 1)), ("tst", (1, 1))):
        (tmp_path / f"{name}Mat.pkl").write_bytes(pickle.dumps(sp.coo_matrix(([1.], ([at[0]], [at[1]])), shape=(2, 2))))
    np.save(tmp_path / "video_feat.npy", np.zeros((2, 3)))
    assert import_diffmm(tmp_path).features["video"].shape == (2, 3)
    np.save(tmp_path / "video_feat.npy", np.zeros((2, 0)))
    with pytest.raises(ValueError, match=r"video_feat.npy has no column, got shape \[2, 0\]"):
        import_diffmm(tmp_path)


# ---- encodings


@given(texts=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=6), min_size=1, max_size=5, unique=True),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), ending=st.sampled_from(["\n", "\r\n", "\r"]))
@bounded
def test_the_mark_of_a_file_decides_its_encoding(tmp_path, texts, encoding, ending):
    path = save(tmp_path / "films.tsv", ending.join(["id\ttitle", *(f"{at}\t{text}" for at, text in enumerate(texts)), ""]).encode(encoding))
    assert read_frame(path)["title"].tolist() == texts


def test_latin_1_is_declared_and_never_guessed(tmp_path):
    path = save(tmp_path / "log.csv", "user,item\nann,1\nZoë,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"log.csv, line 3: the byte 0xeb at position 2 is not UTF-8; if the file is Latin-1, give encoding='latin-1'"):
        import_table(path)
    assert events_of(import_table(path, encoding="latin-1")) == [("Zoë", "2"), ("ann", "1")]
    for wrong, rule in [("user,item\na,1\n".encode("utf-16-le"), "NUL character"), ("user,item\na,1\n".encode("utf-16")[:-1], "UTF-16"),
                        (b"\x1f\x8b0", "gzip file"), (b"PK\x03\x04", "zip or Excel"), (b"", "no line")]:
        with pytest.raises(ValueError, match=rf"log.csv.*{rule}"):
            import_table(save(tmp_path / "log.csv", wrong))


# ---- tables at random

NASTY = ["NA", "null", "nan", "None", "", " ", "007", "7", "7.0", "07", "-1", "1.5", "1e5", "inf", " bob", "bob ", "bob", "a,b", 'say "hi"', '"', '"q"', "'",
         "two\nlines", "a\tb", "\u200b", "x\u200b", "\ufeff", "é", "e\u0301", "user", "item", "#", "a;b", "a|b", "::", "\\", "\\N", "0", "00", "Ⅷ", "٣", "x" * 50,
         "\u00a0", "=1+1", "True", "1646092800000", str(10**19), "\x85", "\r"]
marks = st.text('ab"",;\t\n\'| \\', max_size=5)
nasty = st.one_of(st.sampled_from(NASTY), marks, st.text(max_size=4), st.integers(0, 12).map(str))
sound = st.one_of(st.sampled_from([*(text for text in NASTY if text.isprintable() and text.strip() and "." not in text and text not in ("-1", "é", "e\u0301")), "NA"]),
                  st.text('ab"",;\'| \\', max_size=4).map("k{}".format), st.text('ab"",;| ', max_size=3).map('"{}k'.format), st.integers(0, 12).map(str))
values = st.sampled_from(["1", "2.5", "5", "-3", "0", "4.25"])
tables = st.one_of(*(st.lists(st.tuples(ids, ids, values, nasty), min_size=1, max_size=8, unique_by=lambda row: (row[0].strip(), row[1].strip()))
                     for ids in (sound, sound, nasty)))


def may_be_refused(ids: list[str]) -> bool:
    "Ids that break a rule: missing, invisible, in two spellings, or numbers that are no ids. Slow and on its own."
    ids = [text.strip() for text in ids]
    hidden = any(unicodedata.category(mark) in ("Cc", "Cf", "Zl", "Zp") or mark == "\u034f" for text in ids for mark in text)
    spelled = len({unicodedata.normalize("NFC", text) for text in ids}) < len(set(ids))
    doubled = any(re.fullmatch(re.escape(text) + r"\.0+", other) for text in ids for other in ids if re.fullmatch("-?[0-9]+", text))
    numbers = all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) for text in ids)
    return "" in ids or hidden or spelled or doubled or (numbers and any("-" in text or re.search(r"\.0*[1-9]", text) for text in ids))


def written(rows: list[tuple], path: Path, kind: str) -> None:
    "The table as a file, by a writer that is not ours."
    frame = pd.DataFrame(rows, columns=["user", "item", "value", "note"])
    if kind == "parquet":
        frame.assign(value=frame["value"].astype(float)).to_parquet(path)
    elif kind == "tsv":
        path.write_text("\n".join(["\t".join(row) for row in [tuple(frame.columns), *rows]]) + "\n", encoding="utf-8", newline="")
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=";" if kind == "semicolon" else ",", quoting=csv.QUOTE_ALL if kind == "quoted" else csv.QUOTE_MINIMAL).writerows([frame.columns, *rows])


@given(rows=tables, kind=st.sampled_from(["csv", "quoted", "semicolon", "tsv", "parquet"]))
@settings(bounded, max_examples=100)
def test_any_table_comes_back_or_is_refused_with_its_rule(tmp_path, rows, kind):
    if kind == "tsv":                           # a table with tabs cannot hold tabs and line ends
        rows = [tuple(re.sub(r"[\t\r\n]", "_", cell) for cell in row) for row in rows]
    pairs = [(user.strip(), item.strip()) for user, item, _, _ in rows]        # a lone "_" may be there twice
    path = tmp_path / f"log.{'parquet' if kind == 'parquet' else 'tsv' if kind == 'tsv' else 'csv'}"
    written(rows, path, kind)
    late = kind in ("csv", "quoted", "semicolon") and any(re.match(r' +\s*"', cell) for row in rows for cell in row)   # a quote after a blank
    refused = (late or len(set(pairs)) < len(pairs) or any(may_be_refused(list(column)) for column in zip(*[row[:2] for row in rows]))
               or (kind != "parquet" and any("\0" in cell for row in rows for cell in row)))
    try:
        with warnings.catch_warnings(action="ignore"):
            data = import_table(path, value="value", separator=";" if kind == "semicolon" else None)
    except ValueError as error:
        assert path.name in str(error) and refused, (str(error), rows)
        return
    assert not refused, rows
    assert events_of(data) == sorted((*pair, float(row[2])) for pair, row in zip(pairs, rows))


@given(rows=st.lists(st.lists(st.text("ab1 .", min_size=1, max_size=3), min_size=3, max_size=3), min_size=1, max_size=6), data=st.data(),
       separator=st.sampled_from([",", "\t", ";", "::"]), more=st.booleans())
@bounded
def test_a_cell_more_or_less_is_never_read(tmp_path, rows, data, separator, more):
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at] = [*rows[at], "x"] if more else rows[at][:2]
    path = save(tmp_path / "log.txt", "\n".join(map(separator.join, [["user", "item", "value"], *rows])))
    with pytest.raises(ValueError, match=rf"log.txt, line {at + 2}: {len(rows[at])} fields where the header has 3"):
        read_frame(path, separator=separator)


@given(titles=st.lists(nasty, min_size=1, max_size=6), kind=st.sampled_from(["csv", "tsv"]))
@settings(bounded, max_examples=60)
def test_titles_are_read_to_the_letter(tmp_path, titles, kind):
    if kind == "tsv":
        titles = [re.sub(r"[\t\r\n]", "_", title) for title in titles]
    assume("\0" not in "".join(titles))
    log = save(tmp_path / "log.csv", "user,item\n" + "".join(f"u,{at}\n" for at in range(len(titles))))
    path = tmp_path / f"films.{kind}"
    if kind == "tsv":
        path.write_text("id\ttitle\n" + "".join(f"{at}\t{title}\n" for at, title in enumerate(titles)), encoding="utf-8", newline="")
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "title"], *enumerate(titles)])
    found = import_table(log, items=path).items["title"]
    assert [None if pd.isna(title) else title for title in found] == [title or None for title in titles]


@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=12, unique=True), order=st.randoms(use_true_random=False))
@bounded
def test_the_order_of_rows_and_the_format_do_not_change_the_indices(tmp_path, rows, order):
    shuffled = order.sample(rows, len(rows))
    save(tmp_path / "a.csv", "user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    pd.DataFrame(shuffled, columns=["user", "item"]).to_parquet(tmp_path / "b.parquet")
    left, right = import_table(tmp_path / "a.csv"), import_table(tmp_path / "b.parquet")
    assert left.users.equals(right.users) and left.items.equals(right.items) and list(left.users["id"]) == sorted(left.users["id"], key=int)
    assert sorted(left.train.pair_keys()) == sorted(right.train.pair_keys())


# ---- layouts


def test_recbole_lightgcn_and_book_crossing_in_one_call_each(tmp_path):
    save(tmp_path / "a.inter", "user_id:token\titem_id:token\trating:float\nNA\t1\t4\nu\t1\t3\n")
    save(tmp_path / "a.item", 'item_id:token\ttitle:token_seq\n1\t12" mix\n')
    games = import_recbole(tmp_path)
    assert events_of(games) == [("NA", "1", 4.), ("u", "1", 3.)] and games.items["title"].tolist() == ['12" mix']
    assert events_of(import_recbole(tmp_path, like_at_least=4)) == [("NA", "1")]
    save(tmp_path / "train.txt", "0 1 2\n1 0\n")
    save(tmp_path / "test.txt", "0 0\n1\n")
    assert events_of(import_user_lines(tmp_path)) == [("0", "1"), ("0", "2"), ("1", "0")]
    save(tmp_path / "test.txt", "0 0 2\n")
    with pytest.warns(UserWarning, match="1 pairs are both in 'train' and in 'test'.*left out of 'test'"):
        assert events_of(import_user_lines(tmp_path, overlap="drop"), "test") == [("0", "0")]
    save(tmp_path / "BX-Book-Ratings.csv", '"User-ID";"ISBN";"Book-Rating"\n"1";"0155061224";"7"\n"2";"0155061224";"0"\n'.encode("latin-1"))
    assert events_of(import_book_crossing(tmp_path)) == [("1", "0155061224", 7.)]


def test_ratings_become_a_ranking_task_in_one_call(tmp_path):
    path = save(tmp_path / "stars.csv", "user,item,stars\na,1,5\na,2,3\nb,1,4\n")
    likes = import_table(path, value="stars", like_at_least=4)
    assert events_of(likes) == [("a", "1"), ("b", "1")] and likes.train.values is None
    with pytest.raises(ValueError, match="stars.csv: no value is at least 6; the largest is 5"):
        import_table(path, value="stars", like_at_least=6)
    with pytest.raises(ValueError, match="likes need a column of values"):
        import_table(path, like_at_least=4)


# ---- negatives and lists


def test_a_user_who_has_seen_everything_draws_no_negatives():
    seen = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    events = Interactions(*np.nonzero(seen), 3, 4, name="log")
    with pytest.warns(UserWarning, match="log: 1 users have seen all 4 items, the first is user 1"):
        batches = TripletBatches(events, batch_size=2, n_negatives=3)
    others = TripletBatches(events.select(events.users != 1), batch_size=2, n_negatives=3)
    for epoch in range(3):
        ours, theirs = batches(epoch).columns, others(epoch).columns
        assert all((left == right).all() for left, right in zip(ours, theirs)) and set(ours.users.tolist()) == {0, 2}
        assert not seen[ours.users[:, None], ours.negatives].any()


@pytest.mark.parametrize("ranked, rule", [([[3, 3, 3]], "row 0: item 3 is listed twice"), ([[0, 1, 2], [4, 0, 4]], "row 1: item 4 is listed twice"),
                                          ([[0, 1, 5]], "row 0: item 5 is not one of 5 items")])
def test_a_list_that_names_an_item_twice_has_no_metric(ranked, rule):
    ranked = np.array(ranked)
    relevant = sp.csr_array(np.tile([0, 0, 0, 1, 1], (len(ranked), 1)))
    for metric in RANK_METRICS.values():
        with pytest.raises(ValueError, match=rule):
            metric(ranked, relevant, 3)


def test_values_of_lists_with_empty_places():
    ranked, relevant = np.array([[3, -1, -1, -1], [3, 4, 0, 0]]), sp.csr_array(np.tile([0, 0, 0, 1, 1], (2, 1)))
    assert recall_at_k(ranked, relevant, 3).tolist() == [.5, 1.] and precision_at_k(ranked, relevant, 3).tolist() == [1 / 3, 2 / 3]
    assert ndcg_at_k(ranked, relevant, 3)[1] == 1
