"""`recsys simulate fit`: fit a response model to KuaiRand, and test it on held-out days.

The fitted users respond to the exposures of the last days, and their outcomes are compared with the real ones: rates,
dwell, how much users and items differ, and whether impressions and items are ordered alike.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from recsys.contracts.errors import InvalidData
from recsys.metrics import auc, gauc
from recsys.result import Goal, Result
from recsys.simulation.fitted import Exposures, FittedResponse, Outcome, fit

Floats = NDArray[np.float64]
_COLUMNS = ("user_id", "video_id", "tab", "date", "duration_ms", "is_click", "long_view", "play_time_ms")
_ITEM_SHOWN, _USER_SHOWN, _TAB_SHOWN = 20, 8, 500  # least impressions on the held-out days to be compared
_RATE = 0.02  # allowed absolute error of a rate


@dataclass(frozen=True)
class ResponseFit:
    """`data`: folder with Parquet files of impressions in KuaiRand's columns; `held_out`: share of the days."""

    data: Path
    held_out: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class RealLog:
    """Every impression, once."""

    shown: Exposures
    outcome: Outcome
    day: NDArray[np.int64]  # number of the day, from 0
    sizes: tuple[int, int, int]


def run(config: ResponseFit) -> Result:
    """Fit and compare.

    Raises:
        InvalidData: there are no such files, or fewer than two days.
    """
    log = read_log(config.data)
    days = int(log.day.max()) + 1
    held = max(1, round(config.held_out * days))
    if days < 2:
        raise InvalidData(f"{config.data}: one day only; nothing can be held out")
    later = log.day >= days - held
    fitted = fit(log.shown.take(~later), log.outcome.take(~later), log.sizes)
    shown, real = log.shown.take(later), log.outcome.take(later)
    lived = fitted.respond(shown, np.random.default_rng(config.seed))
    figures: dict[str, float] = {
        "days_fitted": days - held,
        "days_held_out": held,
        "impressions_fitted": int((~later).sum()),
        "impressions_held_out": len(shown),
        "user_click_sd": fitted.click.user_sd,
        "item_click_sd": fitted.click.item_sd,
        **_moments(shown, real, lived),
        **_rankings(log, later, fitted, lived),
    }
    goals = {
        "click_rate_error": Goal("<=", _RATE),
        "long_view_rate_error": Goal("<=", _RATE),
        "log_dwell_mean_error": Goal("<=", 0.1),
        "log_dwell_sd_error": Goal("<=", 0.1),
        "user_rate_sd_error": Goal("<=", 0.03),
        "click_auc": Goal(">=", 0.65),
        "item_rate_rank_correlation": Goal(">=", 0.5),
    }
    return Result("simulate fit", config.seed, figures, goals)


def read_log(folder: Path) -> RealLog:
    """Impressions of every Parquet file that has the columns; one per (user, video, millisecond).

    Raises:
        InvalidData: none has.
    """
    tables = [
        pq.read_table(path, columns=[*_COLUMNS, "time_ms"])
        for path in sorted(folder.glob("*.parquet"))
        if set(_COLUMNS) <= set(pq.read_schema(path).names)
    ]
    if not tables:
        raise InvalidData(f"{folder}: no Parquet file with the columns {', '.join(_COLUMNS)}")
    key = ["user_id", "video_id", "time_ms"]
    values = [name for name in _COLUMNS if name not in key]
    table = pa.concat_tables(tables).group_by(key).aggregate([(name, "max") for name in values])
    table = table.rename_columns([name.removesuffix("_max") for name in table.column_names])
    table = table.sort_by([("time_ms", "ascending"), ("user_id", "ascending"), ("video_id", "ascending")])
    columns = {name: np.asarray(table.column(name), np.int64) for name in _COLUMNS}
    (users, user), (items, item), (tabs, tab), (_, day) = (
        np.unique(columns[name], return_inverse=True) for name in ("user_id", "video_id", "tab", "date")
    )
    click = columns["is_click"] > 0
    return RealLog(
        Exposures(user, item, tab, columns["duration_ms"] / 1e3),
        Outcome(
            click, click & (columns["long_view"] > 0), np.where(click, columns["play_time_ms"] / 1e3, 0.0)
        ),
        day,
        (len(users), len(items), len(tabs)),
    )


def _moments(shown: Exposures, real: Outcome, lived: Outcome) -> dict[str, float]:
    figures: dict[str, float] = {}

    def both(name: str, of_real: float, of_lived: float) -> None:
        figures.update(
            {name: of_real, f"{name}_simulated": of_lived, f"{name}_error": abs(of_lived - of_real)}
        )

    both("click_rate", float(real.click.mean()), float(lived.click.mean()))
    both(
        "long_view_rate", float(real.long_view[real.click].mean()), float(lived.long_view[lived.click].mean())
    )
    dwell = [np.log(o.seconds[o.click & (o.seconds > 0)]) for o in (real, lived)]
    both("log_dwell_mean", float(dwell[0].mean()), float(dwell[1].mean()))
    both("log_dwell_sd", float(dwell[0].std()), float(dwell[1].std()))
    for q in (10, 50, 90):
        both(f"dwell_p{q}_s", *(float(np.exp(np.percentile(d, q))) for d in dwell))
    for name, code, least in (("user", shown.user, _USER_SHOWN), ("item", shown.item, _ITEM_SHOWN)):
        both(f"{name}_rate_sd", *(float(_rates(code, o.click, least).std()) for o in (real, lived)))
    tabs = [_rates(shown.place, o.click, _TAB_SHOWN) for o in (real, lived)]
    figures["worst_tab_rate_error"] = float(np.abs(tabs[0] - tabs[1]).max(initial=0))
    return figures


def _rankings(
    log: RealLog, later: NDArray[np.bool_], fitted: FittedResponse, lived: Outcome
) -> dict[str, float]:
    shown, real = log.shown.take(later), log.outcome.take(later)
    predicted = fitted.click_probability(shown)
    labels = real.click.astype(np.int64)
    items = [_rates(shown.item, o.click, _ITEM_SHOWN) for o in (real, lived)]
    expected = _means(shown.item, predicted, _ITEM_SHOWN)
    earlier, now = (np.bincount(log.shown.item[part], minlength=log.sizes[1]) for part in (~later, later))
    return {
        "click_auc": float(auc(labels, predicted)),
        "click_gauc": float(gauc(labels, predicted, shown.user)),
        "item_rate_rank_correlation": float(stats.spearmanr(items[0], expected).statistic),
        "item_rate_rank_correlation_simulated": float(stats.spearmanr(items[0], items[1]).statistic),
        "popularity_rank_correlation": float(stats.spearmanr(earlier, now).statistic),
    }


def _rates(code: NDArray[np.int64], happened: NDArray[np.bool_], least: int) -> Floats:
    return _means(code, happened.astype(np.float64), least)


def _means(code: NDArray[np.int64], value: Floats, least: int) -> Floats:
    """Mean of each code that occurs `least` times, by code."""
    n = np.bincount(code)
    enough = n >= least
    return np.asarray(np.bincount(code, value)[enough] / n[enough])
