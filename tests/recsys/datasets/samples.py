"""Small data sets in the layouts that the project reads, written by the tests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# user, item, stars, Unix seconds: two days in 1997, in no order
RATINGS = (
    ("2", "10", 5, 875_000_100),
    ("1", "10", 3, 875_100_000),
    ("1", "20", 4, 875_000_000),
    ("3", "30", 1, 875_000_100),
)
TITLE = "Bébé, le (1990)"  # é is one byte in latin-1
VIDEOS = "video_features_basic_pure.csv"


def movielens_100k(folder: Path) -> Path:
    folder.mkdir()
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{s}\t{t}\n" for u, i, s, t in RATINGS))
    genres = {"10": (1, 5), "20": (5,), "30": (0,)}
    lines = []
    for item, on in genres.items():
        flags = "|".join("1" if g in on else "0" for g in range(19))
        lines.append(f"{item}|{TITLE}|01-Jan-1990||http://x/?{item}|{flags}\n")
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n3|7|M|other|T8H1N\n")
    return folder


def movielens_1m(folder: Path, encoding: str = "latin-1") -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join(f"{u}::{i}::{s}::{t}\n" for u, i, s, t in RATINGS))
    movies = f"10::{TITLE}::Action|Comedy\n20::Se: 7 (1995)::Comedy\n30::Nothing (2000)::Drama\n"
    (folder / "movies.dat").write_text(movies, encoding=encoding)
    (folder / "users.dat").write_text("1::M::24::10::48067\n2::F::50::16::70072\n3::M::1::10::x\n")
    return folder


def movielens_csv(folder: Path) -> Path:
    folder.mkdir()
    rows = "".join(f"{u},{i},{s}.0,{t}\n" for u, i, s, t in RATINGS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = f'10,"{TITLE}",Action|Comedy\n20,"The ""Best"" (1999)",Comedy\n30,Nothing,(no genres listed)\n'
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies, encoding="utf-8")
    return folder


def recbole(folder: Path) -> Path:
    folder.mkdir()
    rows = "".join(f"{u}\t{i}\t{s}\t{t}\n" for u, i, s, t in RATINGS)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "small.inter").write_text(header + rows)
    items = f"10\t{TITLE}\t1990\tAction Comedy\n20\tx\t1999\tComedy\n30\ty\t\t\n"
    (folder / "small.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + items,
        encoding="utf-8",
    )
    (folder / "small.user").write_text("user_id:token\tage:token\n1\t24\n2\t53\n3\t7\n")
    return folder


LOG_START_MS = 1_650_900_000_000
# user, video, time, click, long view, like, play time; the third row is the second again, with another play time
KUAIRAND_ROWS = (
    (1, 100, LOG_START_MS, 1, 1, 1, 9_000),
    (1, 101, LOG_START_MS + 60_000, 0, 0, 0, 0),
    (1, 101, LOG_START_MS + 60_000, 0, 0, 0, 700),
    (2, 100, LOG_START_MS + 90_000, 1, 0, 0, 1_500),
)
_KUAIRAND_COLUMNS = ("user_id", "video_id", "time_ms", "is_click", "long_view", "is_like", "play_time_ms")


def _kuairand_tables(folder: Path) -> Path:
    folder.mkdir()
    (folder / VIDEOS).write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
        "server_height,music_id,music_type,tag\n"
        '100,7,NORMAL,2022-04-10,LongImport,0.0,87433.0,720.0,1280.0,1,9.0,"39,2"\n'
        "101,8,AD,2022-04-11,Kmovie,0.0,,720.0,1280.0,2,,\n"
    )
    (folder / "user_features_pure.csv").write_text('user_id,degree,fans\n1,full,"[10,100)"\n2,low,0\n')
    return folder


def kuairand_csv(folder: Path) -> Path:
    """The publisher's layout: logs as CSV."""
    _kuairand_tables(folder)
    rows = "".join(",".join(map(str, (*row, 4))) + "\n" for row in KUAIRAND_ROWS)
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text(
        ",".join((*_KUAIRAND_COLUMNS, "tab")) + "\n" + rows
    )
    return folder


def kuairand_parquet(folder: Path, last_seen_ms: int = LOG_START_MS - 3_600_000) -> Path:
    """Logs as Parquet, and the history before them."""
    _kuairand_tables(folder)
    columns = dict(zip(_KUAIRAND_COLUMNS, map(list, zip(*KUAIRAND_ROWS, strict=True)), strict=True))
    table = pa.table({**columns, "tab": [4] * len(KUAIRAND_ROWS)})
    pq.write_table(table.slice(0, 2), folder / "val.parquet")
    pq.write_table(table.slice(2), folder / "test.parquet")
    history = {
        "user_id": [1, 2],
        "last_time_ms": [last_seen_ms, LOG_START_MS + 5],
        "watch_seq": [[100, 101, 100], [101]],
        "like_seq": [[101], []],
        "long_watch_seq": [[100, 101], [101]],
    }
    pq.write_table(pa.table(history), folder / "user_sequences.parquet")
    leaking = {"video_id": [100, 101], "show_cnt": [1.0, 2.0], "play_progress": [0.5, 0.1]}
    pq.write_table(pa.table(leaking), folder / "item_features.parquet")
    return folder


MAPPING = """
events:
  files: [events.csv]
  user: u
  item: i
  time: {column: t}
  position: p
  context: {note: c}
  events:
    - {type: rating, value: v}
"""


def table(folder: Path, rows: Sequence[str], mapping: str = MAPPING) -> Path:
    """A user's own table with the columns u, i, t (milliseconds), v, p, c."""
    folder.mkdir(exist_ok=True)
    (folder / "mapping.yaml").write_text(mapping)
    (folder / "events.csv").write_text(
        "u,i,t,v,p,c\n" + "".join(row + "\n" for row in rows), encoding="utf-8"
    )
    return folder
