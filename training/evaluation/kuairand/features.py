"""Point-in-time features of the model benchmark, in named groups. No product path serves them.

The user's own labels enter as a *profile*: as of the night before, and in the test as of the model's publication
(05-04 0:00). A running mean of them would raise AUC and sink GAUC by an artefact (docs/ranking.md). A profile is the
same for all candidates of a request; the item, context and session groups, which rank them, run in real time.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import svds

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from training.evaluation.kuairand.point_in_time import PointInTimeSums

TRAIN_UNTIL, VALIDATION_DAY, TEST_FROM = 20220502, 20220503, 20220504
USER_CATEGORIES = (
    "user_active_degree",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
USER_NUMBERS = (
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "fans_user_num",
    "friend_user_num",
    "register_days",
    *(f"onehot_feat{i}" for i in range(18)),
)


class FeatureGroups:
    """Adds one group after another; `self.user`, `self.click`, … are (n,) columns in time order."""

    def __init__(
        self, log: pd.DataFrame, users: pd.DataFrame, videos: pd.DataFrame, sequences: pd.DataFrame
    ) -> None:
        self.log, self.users, self.videos, self.sequences = log, users, videos, sequences
        self.groups: dict[str, list[str]] = {}
        self.columns: dict[str, NDArray[np.float32]] = {}
        self.user, self.video = self._ids("user_id"), self._ids("video_id")
        self.author, self.tab, self.time = self._ids("author_id"), self._ids("tab"), self._ids("time_ms")
        self.click, self.long, self.like = (
            self._column(name) for name in ("is_click", "long_view", "is_like")
        )
        self.play_s = self._column("play_time_ms") / 1000
        self.duration_s = np.maximum(self._column("duration_ms") / 1000, 1)
        self.ratio = np.minimum(self.play_s / self.duration_s, 2)
        main_tag = videos["tag"].astype(str).str.split(",").str[0]
        self.tag = pd.factorize(log["video_id"].map(main_tag).fillna("-1"), sort=True)[0].astype(np.int64)
        self.main_tags = main_tag
        self.hour = self._ids("hourmin") // 100
        self.trained = self._ids("date") <= TRAIN_UNTIL
        for group in (self._static, self._item, self._context, self._taste, self._session, self._profile):
            group()

    def _ids(self, name: str) -> NDArray[np.int64]:
        return np.asarray(self.log[name].to_numpy(np.int64))

    def _column(self, name: str) -> NDArray[np.float64]:
        return np.asarray(np.nan_to_num(self.log[name].to_numpy(np.float64, na_value=0.0)))

    def _add(self, group: str, **columns: NDArray[np.generic]) -> None:
        self.groups.setdefault(group, []).extend(columns)
        self.columns |= {name: np.asarray(column, np.float32) for name, column in columns.items()}

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(values[self.trained].mean())  # a constant of the training period

    def _mapped(self, values: pd.Series, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(pd.Series(keys).map(values).fillna(0), np.float64)

    def _sums(self, *keys: NDArray[Any]) -> PointInTimeSums:
        return PointInTimeSums(keys, self.time)

    def _static(self) -> None:
        """What the published baseline uses: attributes, and counts of the sequences before 04-25."""
        watched, long, liked = (
            _counts(self.sequences[c]) for c in ("watch_seq", "long_watch_seq", "like_seq")
        )
        lengths = {c: self.sequences[c].map(len) for c in ("watch_seq", "long_watch_seq", "like_seq")}
        i_watch, i_long, i_like = (self._mapped(counts, self.video) for counts in (watched, long, liked))
        creators = self.videos["author_id"]
        by_author = [
            self._mapped(c.groupby(creators.reindex(c.index)).sum(), self.author) for c in (watched, long)
        ]
        u_watch, u_long, u_like = (self._mapped(lengths[c], self.user) for c in lengths)
        self.user_long_rate = (u_long + 3) / (u_watch + 10)
        attributes = self.users.reindex(self.user)
        video = self.videos.reindex(self.video)
        coded = {c: pd.factorize(attributes[c], sort=True)[0] for c in USER_CATEGORIES}
        coded |= {c: pd.factorize(video[c], sort=True)[0] for c in ("video_type", "upload_type")}
        self._add(
            "static",
            i_watch=i_watch,
            i_long=i_long,
            i_like=i_like,
            i_lr=(i_long + 3) / (i_watch + 10),
            i_kr=(i_like + 0.2) / (i_watch + 10),
            u_hist=self._mapped(self.sequences["history_len"], self.user),
            u_lr=self.user_long_rate,
            u_like=u_like,
            a_lr=(by_author[1] + 3) / (by_author[0] + 10),
            tag=self.tag,
            tab=self.tab,
            hour=self.hour,
            weekday=pd.to_datetime(self.log["date"].astype(str)).dt.dayofweek.to_numpy(),
            duration_ms=self.duration_s * 1000,
            video_duration=self._column("video_duration"),
            freshness_days=self._ids("freshness_days"),
            music_type=video["music_type"].to_numpy(np.float32),
            width=video["server_width"].to_numpy(np.float32),
            height=video["server_height"].to_numpy(np.float32),
            **coded,
            **{c: attributes[c].to_numpy(np.float32) for c in USER_NUMBERS},
        )

    def _item(self) -> None:
        """Rates of item, author and item on this page: ever, in the last day, in the last three hours."""
        click, long, ratio = self._mean(self.click), self._mean(self.long), self._mean(self.ratio)
        item = self._sums(self.video)
        ever = item.rate(self.click, click, 20), item.rate(self.long, long, 20)
        hours = item.rate(self.click, ever[0], 20, 3 * MS_PER_HOUR)
        on_page = self._sums(self.video, self.tab)
        author = self._sums(self.author)
        self.expected = on_page.rate(self.click, ever[0], 20), on_page.rate(self.long, ever[1], 20)
        self._add(
            "item",
            it_n=item.count(),
            it_c=ever[0],
            it_l=ever[1],
            it_k=item.rate(self.like, self._mean(self.like), 20),
            it_r=item.rate(self.ratio, ratio, 20),
            it_n_1d=item.count(MS_PER_DAY),
            it_c_1d=item.rate(self.click, ever[0], 20, MS_PER_DAY),
            it_l_1d=item.rate(self.long, ever[1], 20, MS_PER_DAY),
            it_n_3h=item.count(3 * MS_PER_HOUR),
            it_c_3h=hours,
            it_trend=hours - ever[0],
            it_page_n=on_page.count(),
            it_page_c=self.expected[0],
            it_page_l=self.expected[1],
            it_page_r=on_page.rate(self.ratio, ratio, 20),
            au_n=author.count(),
            au_c=author.rate(self.click, click, 20),
            au_l=author.rate(self.long, long, 20),
            au_r=author.rate(self.ratio, ratio, 20),
        )

    def _context(self) -> None:
        """Rates of this page, hour, length and tag, and of users with the same anonymous attribute."""
        page, click = self._sums(self.tab), self._mean(self.click)
        base = page.rate(self.click, click, 50)
        bucket = np.digitize(self.duration_s, [10, 20, 40, 80])
        tag = self._sums(self.tag).rate(self.click, click, 50)
        known = self.users.reindex(self.user)
        attributes = {i: known[f"onehot_feat{i}"].fillna(-1).to_numpy() for i in (1, 2, 3, 7, 8)}
        self._add(
            "context",
            page_c=base,
            page_c_3h=page.rate(self.click, base, 50, 3 * MS_PER_HOUR),
            page_hour_c=self._sums(self.tab, self.hour).rate(self.click, base, 50),
            page_length_c=self._sums(self.tab, bucket).rate(self.click, base, 50),
            page_length_r=self._sums(self.tab, bucket).rate(self.ratio, self._mean(self.ratio), 50),
            tag_c=tag,
            tag_page_c=self._sums(self.tag, self.tab).rate(self.click, base, 50),
            it_above_page=self.expected[0] - base,
            **{f"attr{i}_c": self._sums(v).rate(self.click, click, 50) for i, v in attributes.items()},
            **{
                f"tag_attr{i}_c": self._sums(self.tag, attributes[i]).rate(self.click, tag, 30)
                for i in (1, 2)
            },
        )

    def _taste(self) -> None:
        """Before 04-25: how often the user met, finished and liked this video, author and tag; a factor model."""
        keys = {
            "it": (pd.Series(self.videos.index, self.videos.index), self.video),
            "au": (self.videos["author_id"], self.author),
        }
        tags = pd.Series(pd.factorize(self.main_tags, sort=True)[0], self.videos.index)
        keys["tg"] = (tags, self._mapped(tags, self.video).astype(np.int64))
        found: dict[str, Any] = {}
        asked = {name: pd.MultiIndex.from_arrays([self.user, wanted]) for name, (_, wanted) in keys.items()}
        for short, column in (("w", "watch_seq"), ("l", "long_watch_seq"), ("k", "like_seq")):
            events = self.sequences[column].explode().dropna().astype(np.int64)
            for name, (facts, _) in keys.items():
                pairs = pd.MultiIndex.from_arrays([events.index, events.map(facts)])
                met = pd.Series(1.0, pairs).groupby(level=[0, 1]).sum()
                found[f"s_{name}_{short}"] = met.reindex(asked[name]).fillna(0).to_numpy()
        for name in ("tg", "au"):
            rate = (found[f"s_{name}_l"] + 2 * self.user_long_rate) / (found[f"s_{name}_w"] + 2)
            found[f"s_{name}_lift"] = rate - self.user_long_rate
        self._add(
            "taste", **found, factors=_factor_scores(self.sequences, self.videos, self.user, self.video)
        )

    def _session(self) -> None:
        """Pace and repetition, without labels: gaps, counts, the same tag or author recently."""
        user = self._sums(self.user)
        ordered = pd.DataFrame({"user": self.user, "time": self.time, "tag": self.tag, "tab": self.tab})
        before = ordered.groupby("user").shift(1)
        gap = ((ordered["time"] - before["time"]) / 1000).fillna(1e7)
        session = (gap > 1800).groupby(ordered["user"]).cumsum()
        tag, author = (
            self._sums(self.user, self.tag),
            self._sums(self.user, self.author),
        )
        page_gap = ordered["time"] - ordered.groupby(["user", "tab"])["time"].shift(1)
        self._add(
            "session",
            gap_s=gap.to_numpy(),
            page_gap_s=(page_gap / 1000).fillna(1e7).to_numpy(),
            session_place=ordered.groupby(["user", session]).cumcount().to_numpy(),
            shown_10m=user.count(MS_PER_HOUR // 6),
            shown_1h=user.count(MS_PER_HOUR),
            shown_1d=user.count(MS_PER_DAY),
            page_before=before["tab"].fillna(-1).to_numpy(),
            tag_again=(before["tag"] == ordered["tag"]).to_numpy(),
            tag_shown_1h=tag.count(MS_PER_HOUR),
            tag_shown_1d=tag.count(MS_PER_DAY),
            author_shown_1d=author.count(MS_PER_DAY),
            item_shown=self._sums(self.user, self.video).count(),
        )

    def _profile(self) -> None:
        """The user's own labels, as of the night before; in the test, as of the model's publication."""
        day = pd.factorize(self.log["date"], sort=True)[0].astype(np.int64)
        published = int(day[self._ids("date") == TEST_FROM][0])
        as_of = np.minimum(day, published)

        def until_midnight(*keys: NDArray[np.int64]) -> PointInTimeSums:
            return PointInTimeSums([self.user, *keys], day, as_of)

        user, length = until_midnight(), np.digitize(self.duration_s, [10, 20, 40, 80])
        patience = np.log1p(self.play_s)
        click = user.rate(self.click, self._mean(self.click), 4)
        dwell = user.rate(patience, self._mean(patience), 4)
        zero = np.zeros(len(day))
        self._add(
            "profile",
            u_n=user.count(),
            u_c=click,
            u_l=user.rate(self.long, self._mean(self.long), 4),
            u_k=user.rate(self.like, self._mean(self.like), 4),
            u_r=user.rate(self.ratio, self._mean(self.ratio), 4),
            u_p=dwell,
            u_c_over=user.rate(self.click - self.expected[0], zero, 4),
            u_l_over=user.rate(self.long - self.expected[1], zero, 4),
            u_page_n=until_midnight(self.tab).count(),
            u_page_c=until_midnight(self.tab).rate(self.click, click, 3),
            u_length_c=until_midnight(length).rate(self.click, click, 3) - click,
            u_length_p=until_midnight(length).rate(patience, dwell, 3) - dwell,
            u_tag_n=until_midnight(self.tag).count(),
            u_tag_c=until_midnight(self.tag).rate(self.click, click, 3) - click,
        )


def _counts(lists: pd.Series) -> pd.Series:
    return lists.explode().dropna().astype(np.int64).value_counts()


def _factor_scores(
    sequences: pd.DataFrame, videos: pd.DataFrame, user: NDArray[np.int64], video: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Dot products of a 32-factor model of the old sequences: finished or liked +1, only watched -0.3."""
    long = sequences[["watch_seq", "long_watch_seq", "like_seq"]].apply(lambda c: c.map(set))
    good = [a | b for a, b in zip(long["long_watch_seq"], long["like_seq"], strict=True)]
    rows, columns, values = [], [], []
    place = {v: i for i, v in enumerate(videos.index)}
    for row, (watched, liked) in enumerate(zip(long["watch_seq"], good, strict=True)):
        for item in sorted(watched | liked):
            if item in place:
                rows.append(row)
                columns.append(place[item])
                values.append(1.0 if item in liked else -0.3)
    ratings = csr_matrix((values, (rows, columns)), (len(sequences), len(videos)))
    for axis, least in ((0, 5.0), (1, 0.5)):  # popular items and busy users weigh less
        weight = np.maximum(np.asarray(abs(ratings).sum(axis)).ravel(), least) ** -0.5
        ratings = ratings @ diags(weight) if axis == 0 else diags(weight) @ ratings
    _, _, factors = svds(ratings.tocsr(), k=32, random_state=0)
    tastes = np.asarray(ratings @ factors.T)
    u, v = sequences.index.get_indexer(pd.Index(user)), videos.index.get_indexer(pd.Index(video))
    return np.where((u >= 0) & (v >= 0), (tastes[u] * factors.T[v]).sum(1), 0.0)
