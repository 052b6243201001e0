"""One small sound data set for each loader: 120 rows, each with an id of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.evaluation.fault_injection.imports.damage import Format, Lines

ROWS = 120
FIRST_ID = 1_000
_START_S = 1_600_000_000


@dataclass(frozen=True)
class Loader:
    """A layout, and the file of it that is damaged. `row(n)` has the cells of row n; the cell at `key` is its id."""

    name: str
    file: str
    format: Format
    row: Callable[[int], tuple[object, ...]]
    header: str = ""  # of a Parquet file: the names of its columns
    table: Literal["events", "items"] = "events"
    key: int = 0
    others: Mapping[str, str] = field(default_factory=dict)  # file → content

    @property
    def is_parquet(self) -> bool:
        return self.file.endswith(".parquet")

    def lines(self) -> Lines:
        rows = [self.format.delimiter.join(map(str, self.row(n))) for n in range(ROWS)]
        return [line.encode() for line in ([self.header] if self.format.has_header else []) + rows]

    def columns(self) -> pa.Table:
        names = self.header.split(",")
        cells = zip(*(self.row(n) for n in range(ROWS)), strict=True)
        return pa.table(dict(zip(names, map(list, cells), strict=True)))

    def write(self, folder: Path) -> None:
        """Write the data set, sound."""
        folder.mkdir(parents=True)
        for name, content in self.others.items():
            (folder / name).write_text(content, encoding="utf-8")
        if self.is_parquet:
            pq.write_table(self.columns(), folder / self.file, row_group_size=ROWS // 4)
        else:
            (folder / self.file).write_bytes(b"".join(line + b"\n" for line in self.lines()))


def _time_s(n: int) -> int:
    return _START_S + 3_600 * n


def _rating(n: int) -> tuple[object, ...]:
    return FIRST_ID + n, n % 7, n % 5 + 1, _time_s(n)


def _shop(n: int) -> tuple[object, ...]:
    return FIRST_ID + n, n % 7, _time_s(n) * 1_000, n % 5 + 1, f"note {n}"


def _video(n: int) -> tuple[object, ...]:
    return FIRST_ID + n, n % 7, _time_s(n) * 1_000, n % 2, 0, 0, 700, 1


def _item(n: int) -> tuple[object, ...]:
    return FIRST_ID + n, f"title {n}", "Drama|Comedy"


_MAPPING = """
events:
  files: [{file}]
  delimiter: "{delimiter}"
  quoted: {quoted}
  user: u
  item: i
  time: {{column: t}}
  context: {{note: c}}
  events: [{{type: rating, value: v}}]
"""
_ITEM_MAPPING = """
items: {files: [i.csv], item: i, title: title, categories: genres}
events: {files: [e.csv], user: u, item: i, time: {column: t}, events: [{type: click}]}
"""
_CLICKS = "u,i,t\n" + "".join(f"1,{FIRST_ID + n},{_time_s(n)}000\n" for n in range(ROWS))
_RATINGS = "userId,movieId,rating,timestamp\n" + "".join(
    f"1,{FIRST_ID + n},3,{_time_s(n)}\n" for n in range(ROWS)
)
_VIDEOS = "video_id,author_id,video_type,upload_dt,upload_type,video_duration,music_type,tag\n" + "".join(
    f"{n},7,NORMAL,2020-01-01,Kmovie,8.0,9,1\n" for n in range(7)
)
_VIDEO_COLUMNS = "user_id,video_id,time_ms,is_click,long_view,is_like,play_time_ms,tab"


def _mapped(file: str, delimiter: str = ",", quoted: bool = True) -> Mapping[str, str]:
    shown = delimiter.replace("\t", "\\t")
    return {"mapping.yaml": _MAPPING.format(file=file, delimiter=shown, quoted=str(quoted).lower())}


_COLUMNS = "u,i,t,v,c"
LOADERS = (
    Loader("mapping, CSV", "e.csv", Format(time=2), _shop, _COLUMNS, others=_mapped("e.csv")),
    Loader(
        "mapping, TSV",
        "e.tsv",
        Format("\t", time=2),
        _shop,
        _COLUMNS.replace(",", "\t"),
        others=_mapped("e.tsv", "\t", quoted=False),
    ),
    Loader("mapping, Parquet", "e.parquet", Format(), _shop, _COLUMNS, others=_mapped("e.parquet")),
    Loader(
        "mapping, items",
        "i.csv",
        Format(),
        _item,
        "i,title,genres",
        "items",
        others={"mapping.yaml": _ITEM_MAPPING, "e.csv": _CLICKS},
    ),
    Loader("movielens-100k", "u.data", Format("\t", has_header=False, time=3), _rating),
    Loader("movielens-1m", "ratings.dat", Format("::", has_header=False, time=3), _rating),
    Loader("movielens-csv", "ratings.csv", Format(time=3), _rating, "userId,movieId,rating,timestamp"),
    Loader(
        "movielens-csv, items",
        "movies.csv",
        Format(),
        _item,
        "movieId,title,genres",
        "items",
        others={"ratings.csv": _RATINGS},
    ),
    Loader(
        "recbole",
        "x.inter",
        Format("\t", time=3),
        _rating,
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    ),
    Loader(
        "kuairand, CSV",
        "log_1.csv",
        Format(time=2),
        _video,
        _VIDEO_COLUMNS,
        others={"video_features_basic_x.csv": _VIDEOS},
    ),
    Loader(
        "kuairand, Parquet",
        "train.parquet",
        Format(),
        _video,
        _VIDEO_COLUMNS,
        others={"video_features_basic_x.csv": _VIDEOS},
    ),
    Loader(
        "kuairand, history",
        "user_sequences.parquet",
        Format(),
        lambda n: (FIRST_ID + n, _time_s(n) * 1_000, [n % 7, 3], [n % 5]),
        "user_id,last_time_ms,long_watch_seq,like_seq",
        others={
            "video_features_basic_x.csv": _VIDEOS,
            "log_1.csv": f"{_VIDEO_COLUMNS}\n1,1,{_time_s(ROWS)}000,1,0,0,700,1\n",
        },
    ),
)
