"""`Recommender`: fit on frames, evaluate, recommend, save what `recsys serve` loads."""

import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

import pyarrow as pa

from infra.notebook.answers import Answers
from infra.notebook.dataset import NAME, id_types, import_frames
from infra.notebook.evaluation import last_item
from infra.notebook.fitting import fit_bundle, two_tower_config
from infra.notebook.frames import F, Frame, frame_like, of_type, texts_of
from infra.notebook.progress import bars
from recsys.bundle import Bundle, copy_bundle, current_version, open_bundle, publish, versions
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.datasets.mapping import Mapping as TableMapping
from recsys.files import replace_folder, staged_folder
from recsys.lake.forget import forgotten_users
from recsys.lake.lake import EVENTS, IMPRESSIONS
from recsys.models.two_tower import TwoTowerShape
from training.choices import QUICK_RANK_EPOCHS, quick_epochs
from training.two_tower.recipe import DataSize, recipe

_BY_SIZE = (
    "loss",
    "negatives",
    "batch_tokens",
)  # what is taken of the recipe; epochs are those of a notebook
_DATASET = Path("datasets") / NAME
_ITEM = [
    ("item_id", pa.string()),
    ("score", pa.float64()),
    ("title", pa.string()),
    ("categories", pa.string()),
]
_LISTS = pa.schema([("user_id", pa.string()), ("rank", pa.int64()), *_ITEM, ("channels", pa.string())])
_SIMILAR = pa.schema([("similar_to", pa.string()), ("rank", pa.int64()), *_ITEM])


class Recommender(Generic[F]):
    """A published bundle with the log it was trained on. Make one with `fit` or `load`.

    bundle: its `manifest.metrics` has the figures of the training.
    doubts: what was guessed of the frames and should be looked at, and which rows are not used.
    """

    def __init__(
        self, home: Path, bundle: Bundle, kind: type[F], doubts: Iterable[str] = (), progress: bool = True
    ) -> None:
        self.home = home
        self.bundle = bundle
        self.doubts = tuple(doubts)
        self._kind = kind
        self._progress = progress
        self._keep: object = None  # what deletes `home` with this object

    @classmethod
    def fit(
        cls,
        events: F,
        items: Frame | None = None,
        users: Frame | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        mapping: TableMapping | Path | str | None = None,
        epochs: int | None = None,
        rank_epochs: int = QUICK_RANK_EPOCHS,
        seed: int = 0,
        shift_to_now: bool = False,
        progress: bool = True,
        **settings: Any,
    ) -> "Recommender[F]":
        """Train both models on frames of pandas, polars or pyarrow, in a temporary folder.

        Args:
            events: who did what with which item, and when.
            items: the catalogue; without it, the items that the events name.
            users: their attributes.
            columns: role → column, such as {"user_id": "customer"}, where the guess of `recsys data guess` is wrong.
            mapping: in place of a guess (docs/data.md), also a path of a YAML file; its `files` are replaced.
            epochs: of the two-tower; by default as many as take minutes on two cores.
            rank_epochs: of the ranker, over the examples of the newest events.
            seed: the same seed, data and machine give the same models.
            shift_to_now: shift all times by whole weeks, so that the log ends this week, to serve an old log.
            progress: show bars.
            settings: of the two-tower (`training.two_tower.config.TwoTowerConfig`), such as shape={"dim": 32}.

        Raises:
            InvalidData: a frame cannot be used; it says why.
            InvalidConfig: a role or a setting is unknown or out of range.
        """
        kept = tempfile.TemporaryDirectory(prefix="recsys-", ignore_cleanup_errors=True)
        home = Path(kept.name)
        asked = {"seed": seed, **settings} | ({"epochs": epochs} if epochs is not None else {})
        two_tower_config(home, asked)  # a wrong setting is refused before anything is read
        if rank_epochs < 1:
            raise InvalidConfig(f"rank_epochs: at least 1 is needed, got {rank_epochs}")
        frames = {"events": events, "items": items, "users": users}
        given = {name: frame for name, frame in frames.items() if frame is not None}
        end_ms = time.time_ns() // 1_000_000 if shift_to_now else None
        with bars(progress) as show:
            imported = import_frames(
                given,
                home / _DATASET,
                home / "lake",
                columns or {},
                mapping,
                end_ms,
                lambda phase, rows: show("import", 0, None),
            )
            size = DataSize(imported.report.items, imported.report.active_users, imported.report.events)
            by_size = {name: recipe(size).values[name] for name in _BY_SIZE if name in recipe(size).values}
            asked = {"epochs": quick_epochs(size.events), **by_size, **asked}
            if users is not None:
                shape = TwoTowerShape.model_validate(asked.get("shape", {}))
                asked["shape"] = {"profile": True, **shape.model_dump(exclude_unset=True)}
            bundle = fit_bundle(home, two_tower_config(home, asked), rank_epochs, show)
        if imported.doubts:
            warnings.warn(f"check what was made of the frames: {'; '.join(imported.doubts)}", stacklevel=2)
        model = cls(home, bundle, type(events), imported.doubts, progress)
        model._keep = kept
        return model

    @classmethod
    def load(cls, home: Path | str, kind: type[F] = pa.Table, progress: bool = True) -> "Recommender[F]":
        """Open the current bundle and the lake of a home folder: of `save`, or of any `RECSYS_HOME`.

        Args:
            kind: class of the frames that come out, such as `pandas.DataFrame`.

        Raises:
            InvalidBundle: there is none, or it cannot be used.
        """
        home = Path(home)
        version = current_version(home / "bundles")
        if version is None:
            raise InvalidBundle(
                f"{home / 'bundles'}: no bundle; save a model there, or run `recsys train all`"
            )
        return cls(home, open_bundle(home / "bundles" / version), kind, progress=progress)

    def evaluate(self, cases: int = 10_000, seed: int = 0) -> F:
        """How often the held-out last item of a user is in a list of the full catalogue, without the seen items unless
        people come back to them in this log.

        The two-tower is trained once more, without those items, next to popularity and item-kNN. The ranker, which
        orders what recall finds, is not part of it; `bundle.manifest.metrics` has its figures.

        Args:
            cases: users at most; more are sampled.

        Returns:
            Per model hr@10, ndcg@10, mrr, hr@50, coverage@10 (share of the catalogue in all lists) and the cases.
        """
        with bars(self._progress) as show:
            manifest = self.bundle.manifest
            settings, repeats = dict(manifest.models["two_tower"]), bool(manifest.repeats)
            figures = last_item(self.home, settings, repeats, cases, seed, show)
        return self._frame(pa.Table.from_pylist(figures))

    def recommend(
        self,
        user_ids: object,
        k: int = 10,
        exclude: Iterable[object] = (),
        filter: str = "",
        region: str = "",
        language: str = "",
    ) -> F:
        """What an API with this bundle and log would list for each of the users; unknown ones get what is popular.

        Args:
            user_ids: one id, or a list, an array or a column of them.
            k: length of the lists.
            exclude: items to leave out, besides the seen ones to which people do not come back in this log.
            filter: which items may be listed, such as 'price <= 20 and "Comedy" in categories' (docs/serving.md).
            region: where the request comes from, for items with regions; by default the user's attribute `region`.
            language: of the titles, such as "de" or "en-GB", for items with titles by language.

        Returns:
            user_id, rank (from 1), item_id, score, title, categories, channels (of recall that found it; `|` between).

        Raises:
            InvalidFilter: it is no expression, or asks for what no item has.
        """
        excluded = texts_of(exclude, "exclude") if (exclude := list(exclude)) else []
        users = texts_of(user_ids, "user_ids")
        asked = k, excluded, filter, region, language
        lines = [line for user in users for line in self._answers.recommend(user, *asked)]
        return self._frame(pa.Table.from_pylist(lines, _LISTS))

    def similar(
        self, item_ids: object, k: int = 10, filter: str = "", region: str = "", language: str = ""
    ) -> F:
        """The nearest items of each of the items, as the API gives them. `filter`, `region` and `language`: as in
        `recommend`.

        Returns:
            similar_to, rank (from 1), item_id, score, title, categories.

        Raises:
            InvalidData: the catalogue does not have an item.
        """
        asked = texts_of(item_ids, "item_ids")
        lines = [line for item in asked for line in self._answers.similar(item, k, filter, region, language)]
        return self._frame(pa.Table.from_pylist(lines, _SIMILAR))

    def explain(self, user_id: object, k: int = 10, filter: str = "", region: str = "") -> dict[str, Any]:
        """The funnel of a list: stages, channels, scores, features and reasons, as `recsys explain` shows them."""
        (user,) = texts_of(user_id, "user_id")
        return self._answers.explain(user, k, filter, region)

    def save(self, home: Path | str) -> Path:
        """Write the bundle, its lake and the frames into a home folder, such as `var`, and make the bundle current.

        `RECSYS_HOME=… recsys serve` loads it, and every other command continues from there.

        Returns:
            The folder of the bundle.

        Raises:
            InvalidConfig: the folder has a lake with other data.
        """
        home = Path(home)
        lake, version = home / "lake", self.bundle.manifest.version
        if home.resolve() == self.home.resolve():
            return self.bundle.path
        if lake.exists() and _has_other_data(lake):
            raise InvalidConfig(
                f"{lake}: has other data; name another folder, and to serve it with that data, copy only the bundle: "
                "`recsys bundle copy`"
            )
        for part in (Path("lake"), _DATASET):
            _copy(self.home / part, home / part)
        if version not in versions(home / "bundles"):
            copy_bundle(self.bundle, home / "bundles")
        return publish(home / "bundles", version).path

    def __repr__(self) -> str:
        return f"Recommender(bundle {self.bundle.manifest.version} in {self.home})"

    @cached_property
    def _answers(self) -> Answers:
        with bars(self._progress) as show:
            return Answers(self.bundle, self.home / "lake", show)

    def _frame(self, table: pa.Table) -> F:
        """A frame of the user's library, ids in the type that they came in."""
        user, item = id_types(self.home / _DATASET)
        for name, kind in (("user_id", user), ("item_id", item), ("similar_to", item)):
            if name in table.column_names:
                place = table.column_names.index(name)
                table = table.set_column(place, name, of_type(table.column(name).to_pylist(), kind))
        return frame_like(table, self._kind)


def _has_other_data(lake: Path) -> bool:
    """Imports of something else; or what was archived, served or forgotten since frames were saved there."""
    events = (path.name for path in (lake / EVENTS).rglob("*.parquet"))
    return (
        {path.stem for path in (lake / "imports").glob("*.json")} != {NAME}
        or not all(name.startswith(f"import-{NAME}-") for name in events)
        or any((lake / IMPRESSIONS).rglob("*.parquet"))
        or bool(forgotten_users(lake))
    )


def _copy(folder: Path, target: Path) -> None:
    """Put a copy in the place of `target`."""
    if not folder.exists():
        return
    new = target.with_name(f"{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with staged_folder(new) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)
    if target.exists():
        replace_folder(new, target)
    else:
        new.rename(target)
