"""Files to rows: numbers of rows, rows that are none, encodings."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from recsys.datasets import json_lines, reading
from recsys.datasets.base import Broken
from recsys.datasets.mapping import Files
from recsys.datasets.reading import read_chunks


def read(path: Path, wanted: list[str], **how: object) -> tuple[list[tuple[object, ...]], list[Broken]]:
    """(row number, cells …) of every row, and the broken ones."""
    rows: list[tuple[object, ...]] = []
    broken: list[Broken] = []
    for chunk in read_chunks(path.parent, Files.model_validate({"files": [path.name], **how}), wanted):
        cells = (chunk.table.column(name).to_pylist() for name in wanted)
        rows += zip(chunk.numbers.tolist(), *cells, strict=True)
        broken += chunk.broken
    return rows, broken


def test_rows_keep_their_numbers_beside_malformed_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n1,2\n3\n\n"x\ny",4\n5,6,7\n,\n8,\n')
    rows, broken = read(path, ["a", "b"])
    assert rows == [(2, "1", "2"), (5, "x\ny", "4"), (9, "8", None)]
    assert [(b.row, b.reason) for b in broken] == [
        (3, "1 columns instead of 2"),
        (7, "3 columns instead of 2"),
    ]


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1 << 20])
@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["ok", "short", "long", "bad", "both"]), max_size=60))
def test_row_numbers_are_those_of_the_lines_for_every_chunk_size(
    rows_per_chunk: int, kinds: list[str]
) -> None:
    text = {"ok": b"1,2", "short": b"1", "long": b"1,2,3", "bad": b"\xff,2", "both": b"\xff,2,3"}
    lines = [b"a,b", *(text[kind] for kind in kinds)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK_ROWS", rows_per_chunk)
        path = Path(folder) / "t.csv"
        path.write_bytes(b"\n".join(lines) + b"\n")
        rows, broken = read(path, ["a", "b"])
    assert [row[0] for row in rows] == [n for n, kind in enumerate(kinds, start=2) if kind == "ok"]
    assert sorted(b.row for b in broken) == [n for n, kind in enumerate(kinds, start=2) if kind != "ok"]


@pytest.mark.parametrize(
    "damaged",
    [
        {7: 'u,7,"open'},  # to the end of the file
        {7: 'u,7,"open', 90: 'u,90,"open'},  # to the next quote
        {7: 'u,7,"open', 90: 'u,90,"closed"'},
        {7: 'u,7,"open', 90: 'u,90,end"'},  # a cell of 84 lines, by the rules of CSV
        {7: 'u,"7,x', 50: "short", 90: 'u,90",end'},
        {7: 'u,7,"said "so"', 8: 'u,8,"\\"so\\""'},
        {7: '"u,7,x', 1_500: '"u,1500,x'},  # in other blocks of lines
    ],
)
def test_a_quote_costs_its_own_row_alone(damaged: dict[int, str], tmp_path: Path) -> None:
    lines = ["a,b,c", *(damaged.get(n, f"u,{n},x") for n in range(2, 2_001))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    rows, broken = read(tmp_path / "t.csv", ["b"])
    closing = {n for n, line in damaged.items() if line.endswith(('end"', '"closed"', '",end'))}
    assert [b.row for b in broken] == sorted(damaged.keys() - closing)
    assert {row[0] for row in rows} == set(range(2, 2_001)) - (damaged.keys() - closing)
    assert all(text == str(number) for number, text in rows if number not in damaged)


def test_a_cell_may_have_lines(tmp_path: Path) -> None:
    text = "Dear all,\n\nyours, truly\n17, Main Street"
    (tmp_path / "t.csv").write_text(f'id,text\n1,"{text}"\n2,x\n"a\nb","{text}"\n')
    rows, broken = read(tmp_path / "t.csv", ["id", "text"])
    assert not broken
    assert rows == [(2, "1", text), (6, "2", "x"), (7, "a\nb", text)]


def test_one_bad_character_is_one_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,\xe9\n2,\xc3\xa9\n")
    rows, broken = read(path, ["a", "b"])
    assert rows == [(3, "2", "é")]
    assert broken == [Broken("t.csv", 2, "b", "not utf-8 text")]


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("a;b\n1;é\n".encode("latin-1"))
    assert read(path, ["b"], delimiter=";", encoding="latin-1")[0] == [(2, "é")]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read(path, ["a"])[0] == [(2, "1")]


def test_delimiters_of_several_characters(tmp_path: Path) -> None:
    path = tmp_path / "t.dat"
    path.write_bytes(b"1::Se: 7::x\n2::y\n\n3::::z\n4::\xff::z\n")
    rows, broken = read(path, ["a", "b"], delimiter="::", columns=["a", "b", "c"])
    assert rows == [(1, "1", "Se: 7"), (4, "3", None)]
    assert broken == [
        Broken("t.dat", 2, "", "2 columns instead of 3"),
        Broken("t.dat", 5, "b", "not utf-8 text"),
    ]


def test_quotes_are_text_where_cells_are_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('a\tb\n"Best\t1\n')
    assert read(path, ["a"], delimiter="\t", quoted=False)[0] == [(2, '"Best')]


def test_parquet_gives_plain_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    words = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"a": [1, 2, 3], "w": words, "n": [[1], [2], []]}), path)
    assert read(path, ["w", "a"])[0] == [(1, "x", 1), (2, "y", 2), (3, "x", 3)]
    with pytest.raises(InvalidData, match="column n is list"):
        read(path, ["n"])


@pytest.mark.parametrize("name", ["t.csv", "t.dat", "t.parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    else:
        path.write_text("a::b\n" if name == "t.dat" else "a,b\n")
    with pytest.raises(InvalidData, match="column c is not in the file; it has a, b"):
        read(path, ["a", "c"], delimiter="::" if name == "t.dat" else ",")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_that_is_there_twice_is_refused(name: str, tmp_path: Path) -> None:
    if name == "t.parquet":
        pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / name)
    else:
        (tmp_path / name).write_text("a,a\n1,2\n")
    with pytest.raises(InvalidData, match="column a is there more than once"):
        read(tmp_path / name, ["a"])


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    with pytest.raises(InvalidData, match=r"not a file; name the files in a folder: t\.parquet/\*\.parquet"):
        read(tmp_path / "t.parquet", ["a"])


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InvalidData, match=r"t\.parquet: cannot be read"):
        read(tmp_path / "t.parquet", ["a"])
    with pytest.raises(InvalidData, match=r"no file absent\.csv"):
        read(tmp_path / "absent.csv", ["a"])


def test_a_file_with_a_header_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    assert read(tmp_path / "t.csv", ["a"]) == ([], [])
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(InvalidData, match="column a is not in the file"):
        read(tmp_path / "e.csv", ["a"])


def test_numbers_are_int64(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    *_, chunk = read_chunks(tmp_path, Files(files=["t.csv"]), ["a"])
    assert chunk.numbers.dtype == np.int64


# --- JSON lines -------------------------------------------------------------------------------------------------


def test_json_lines_are_rows_and_other_lines_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        b'\xef\xbb\xbf{"a": 1, "b": ["x", "y"], "more": {"deep": 1}}',
        b"",
        b'{"a": 2.5, "b": null}',
        b'{"a": true}',
        b"[1, 2]",
        b'{"a": 1, "b": {"deep": 1}}',
        b'{"a": "\xff"}',
        b'{"a": ',
        b'  {"b": "", "a": "z\\ny"}  ',
    ]
    path.write_bytes(b"\n".join(lines))
    rows, broken = read(path, ["a", "b"])
    assert rows == [(1, "1", "x|y"), (3, "2.5", None), (4, "true", None), (9, "z\ny", None)]
    assert [(b.row, b.column, b.reason) for b in broken] == [
        (5, "", "not a JSON object"),
        (6, "b", "not a single value, nor a list of them"),
        (7, "", "not a JSON object"),
        (8, "", "not a JSON object"),
    ]
    chunks = list(read_chunks(tmp_path, Files(files=["t.jsonl"]), ["a"]))
    assert sum(chunk.lines for chunk in chunks) == 9
    assert sum(chunk.blank for chunk in chunks) == 1
    with pytest.raises(InvalidData, match="column c is not in the file; it has a, b, more"):
        read(path, ["a", "c"])


def test_a_line_that_never_ends_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_MAX_LINE", 20)
    path = tmp_path / "t.ndjson"
    path.write_text('{"a": "' + "x" * 90 + '"}\n{"a": "ok"}\n' + "[" * 500, encoding="utf-8")
    rows, broken = read(path, ["a"])
    assert rows == [(2, "ok")]
    assert [b.row for b in broken] == [1, 3]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=20))
def test_any_bytes_are_rows_or_broken(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        path.write_bytes(b"".join(line + b"\n" for line in [b'{"a": 1}', *lines]))
        chunks = list(read_chunks(Path(folder), Files(files=["t.json"]), ["a"]))
    assert sum(len(c.numbers) + len(c.broken) + c.blank for c in chunks) == len(lines) + 1
