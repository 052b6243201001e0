"""The shipped features, one entry each. To add one: write its entry here, then run `recsys features diff`.

Above the entries is what they share: signals (which events count), windows, histories. Features that read the same
signal over windows of the same hop share their cells, so reusing them costs no state.
"""

from functools import partial

from recsys.contracts.state import History, Op
from recsys.contracts.types import (
    ENGAGEMENT,
    GOOD_STARS,
    MS_PER_DAY,
    MS_PER_HOUR,
    NARROWED,
    EventType,
)
from recsys.features.aggregates import LOG2_SCALE, LOOKS_SCALE, Entity, Measure, Split
from recsys.features.feature_set import FeatureSet
from recsys.features.item_weights import Weighing
from recsys.features.kinds import (
    Affinity,
    Attribute,
    CategoryCount,
    Count,
    HourOfDay,
    ItemAge,
    Lift,
    Mean,
    Ratio,
    Recency,
    VisitCount,
    VisitRecency,
    Weekday,
)
from recsys.features.spec import HistoryQuery, Match, Signal, total_of
from recsys.features.windows import EVER, Window, decayed, last, settled

USER, ITEM, PAIR, REQUEST = Entity.USER, Entity.ITEM, Entity.USER_ITEM, Entity.CONTEXT
CATEGORY, CREATOR, OWN = Split.CATEGORY, Split.CREATOR, Split.ITEM

STARRED = frozenset({EventType.RATING, EventType.DISLIKE})
STARS_SCALE = 10  # ratings are kept in tenths of a star
ACTIVITY = ("low_active", "middle_active", "high_active", "full_active")

# Signals. Numerators over impressions count only events with the id of the request that showed the item: a click from
# elsewhere (a search, an imported history) has no impression.
SHOWN = Signal("shown", frozenset({EventType.IMPRESSION}))
SHOWN_NARROWED = Signal("narrowed", frozenset({EventType.IMPRESSION}), min_value=NARROWED)
# How often an item, a category or a creator was looked at: what stands at the end of a list is rarely seen.
LOOKED = Signal("looked", frozenset({EventType.IMPRESSION}), Measure.EXAMINED, scale=LOOKS_SCALE)
CLICKED = Signal("click", frozenset({EventType.CLICK}), attributed=True)
LIKED = Signal("like", frozenset({EventType.LIKE}), attributed=True)
CONVERTED = Signal("convert", frozenset({EventType.PURCHASE}), attributed=True)
ENGAGED = Signal("engaged", ENGAGEMENT)
DWELT = Signal("dwell", frozenset({EventType.DWELL}), min_value=0.0)
DWELL_MS = Signal("dwellms", frozenset({EventType.DWELL}), Measure.VALUE, min_value=0.0)
LOG_DWELL = Signal("logdwell", frozenset({EventType.DWELL}), Measure.LOG2, min_value=0.0, scale=LOG2_SCALE)
RATED = Signal("rate", STARRED, min_value=0.0)
STARS = Signal("stars", STARRED, Measure.VALUE, min_value=0.0, scale=STARS_SCALE)
RATED_GOOD = Signal("good", frozenset({EventType.RATING}), min_value=GOOD_STARS)
# What makes an item popular counts users, each once a tile: one user's thousand clicks of a day are one (ADR 14).
ENGAGED_USERS = Signal("engagedusers", ENGAGEMENT, once=True)
LAST_ENGAGED = Signal("lastengaged", ENGAGEMENT, Measure.TIME, Op.MAX)

# Windows
HOUR, SIX_HOURS = last(MS_PER_HOUR), last(6 * MS_PER_HOUR)
DAY, WEEK, MONTH = last(MS_PER_DAY), last(7 * MS_PER_DAY), last(30 * MS_PER_DAY)
FAST = decayed(2 * MS_PER_DAY)  # 1-hour tiles, followed for 8 days
SLOW = decayed(7 * MS_PER_DAY)  # 1-day tiles, followed for 28 days
# Rates of a user's own outcomes are as of last midnight. A running rate would estimate the user's level better and the
# next label worse: a user who has just clicked has fewer clicks left (docs/ranking.md).
PROFILE, SLOW_PROFILE = settled(MONTH), settled(SLOW)

# Histories: `engaged` feeds the models, `seen` and `disliked` the exact seen filter, `shown` the features of
# the latest lists. How often an item was shown to the user is counted by its bucket: eight bytes per item and day
# instead of a hundred per visit, so fatigue is remembered for weeks.
ENGAGED_VISITS = History("engaged", ENGAGEMENT, 50)
SEEN_VISITS = History("seen", ENGAGEMENT, 1000)
DISLIKED_VISITS = History("disliked", frozenset({EventType.DISLIKE}), 1000)
SHOWN_VISITS = History("shown", frozenset({EventType.IMPRESSION}), 20)
LAST_10_OF_CATEGORY = HistoryQuery(ENGAGED_VISITS, 10, Match.CATEGORY)
LAST_50_OF_CATEGORY = HistoryQuery(ENGAGED_VISITS, 50, Match.CATEGORY)
LAST_50_OF_ITEM = HistoryQuery(ENGAGED_VISITS, 50, Match.ITEM)
SHOWN_OF_CATEGORY = HistoryQuery(SHOWN_VISITS, 20, Match.CATEGORY)
SHOWN_OF_ITEM = HistoryQuery(SHOWN_VISITS, 20, Match.ITEM)

CLICK_LIFT = partial(
    Lift,
    entity=PAIR,
    part=CLICKED,
    whole=LOOKED,
    over=(SLOW_PROFILE,),
    alpha=4.0,
    beta=6.0,
    strength=10.0,
)

# What the taste model reads (`recsys.ranking.taste`): looks and clicks in every category, equally weighted for a month.
TALLIED = tuple(total_of(USER, signal, MONTH, CATEGORY) for signal in (LOOKED, CLICKED))

# What of an item's engagement counts online: as much as its impressions explain, both of a week (ADR 27). Users are
# counted by the tiles of a day, which MONTH keeps: they may miss hours of the week's first day.
WEIGHING = Weighing(
    evidence=total_of(ITEM, SHOWN, WEEK),
    narrowed=total_of(ITEM, SHOWN_NARROWED, WEEK),
    observed=(
        total_of(ITEM, CLICKED, WEEK),
        total_of(ITEM, ENGAGED_USERS, Window("week", MS_PER_DAY, tiles=7)),
    ),
)

FEATURES = FeatureSet(
    histories=(ENGAGED_VISITS, SEEN_VISITS, DISLIKED_VISITS, SHOWN_VISITS),
    tallied=TALLIED,
    weighed=(WEIGHING.narrowed,),
    features=(
        # The user: how active, how choosy, how patient
        Count("user_shown", USER, SHOWN, over=(HOUR, SIX_HOURS, MONTH)),
        Count("user_clicks", USER, CLICKED, over=(PROFILE,)),
        Count("user_engaged", USER, ENGAGED, over=(PROFILE,)),
        Ratio("user_ctr", USER, CLICKED, SHOWN, over=(PROFILE, SLOW_PROFILE), alpha=4.0, beta=6.0),
        Ratio("user_conversion_rate", USER, CONVERTED, CLICKED, over=(PROFILE,), alpha=2.0, beta=2.0),
        Ratio("user_conversions_per_shown", USER, CONVERTED, SHOWN, over=(PROFILE,), alpha=3.0, beta=7.0),
        Ratio("user_like_rate", USER, LIKED, SHOWN, over=(PROFILE,), alpha=0.2, beta=9.8),
        Mean("user_mean_dwell_ms", USER, DWELL_MS, DWELT, over=(PROFILE,)),
        Ratio("user_dwell_rate", USER, DWELT, SHOWN, over=(PROFILE,), alpha=1.0, beta=1.0),
        Count("user_ratings", USER, RATED, over=(EVER,)),
        Mean("user_mean_stars", USER, STARS, RATED, over=(EVER,)),
        Ratio("user_good_rate", USER, RATED_GOOD, RATED, over=(EVER,), alpha=2.0, beta=2.0),
        VisitCount("user_history_length", USER, HistoryQuery(ENGAGED_VISITS, 50)),
        VisitRecency("user_seconds_since_engaged", USER, HistoryQuery(ENGAGED_VISITS, 1)),
        VisitRecency("user_seconds_since_shown", USER, HistoryQuery(SHOWN_VISITS, 1)),
        Attribute("user_register_days", USER, "register_days"),
        Attribute("user_follows", USER, "follow_user_num"),
        Attribute("user_fans", USER, "fans_user_num"),
        Attribute("user_friends", USER, "friend_user_num"),
        Attribute("user_age", USER, "age"),
        Attribute("user_gender", USER, "gender", vocabulary=("F", "M")),
        Attribute("user_activity", USER, "user_active_degree", vocabulary=ACTIVITY),
        # The item: how popular, how good, how fresh
        Count("item_shown", ITEM, SHOWN, over=(EVER, DAY, WEEK)),
        Count("item_clicks", ITEM, CLICKED, over=(EVER, DAY, WEEK)),
        Count("item_engaged", ITEM, ENGAGED_USERS, over=(EVER, HOUR, SIX_HOURS, MONTH, SLOW)),
        Ratio("item_ctr", ITEM, CLICKED, SHOWN, over=(EVER, DAY, WEEK, FAST), alpha=4.0, beta=6.0),
        Ratio("item_conversion_rate", ITEM, CONVERTED, CLICKED, over=(EVER,), alpha=2.0, beta=2.0),
        Ratio(
            "item_conversions_per_shown", ITEM, CONVERTED, SHOWN, over=(EVER, DAY, FAST), alpha=3.0, beta=7.0
        ),
        Ratio("item_like_rate", ITEM, LIKED, SHOWN, over=(EVER, FAST), alpha=0.2, beta=9.8),
        Mean("item_mean_dwell_ms", ITEM, DWELL_MS, DWELT, over=(EVER,)),
        Mean("item_mean_log_dwell", ITEM, LOG_DWELL, DWELT, over=(EVER,)),
        Count("item_dwells", ITEM, DWELT, over=(EVER,)),
        Count("item_ratings", ITEM, RATED, over=(EVER,)),
        Mean("item_mean_stars", ITEM, STARS, RATED, over=(EVER,)),
        Ratio("item_good_rate", ITEM, RATED_GOOD, RATED, over=(EVER,), alpha=2.0, beta=2.0),
        Recency("item_seconds_since_engaged", ITEM, LAST_ENGAGED, over=(EVER,)),
        ItemAge("item_age_days", ITEM),
        CategoryCount("item_categories", ITEM),
        Attribute("item_duration_ms", ITEM, "duration_ms"),
        Attribute("item_price", ITEM, "price"),
        Attribute("item_year", ITEM, "release_year"),
        Attribute("item_music_type", ITEM, "music_type"),
        # The user and the item: taste, fatigue, repetition
        Affinity("category_affinity", PAIR, ENGAGED, over=(SLOW,), split=CATEGORY),
        Count("category_engaged", PAIR, ENGAGED, over=(SLOW,), split=CATEGORY),
        Count("category_looked", PAIR, LOOKED, over=(SLOW,), split=CATEGORY),
        CLICK_LIFT("category_click_lift", split=CATEGORY),
        Affinity("creator_affinity", PAIR, ENGAGED, over=(SLOW,), split=CREATOR),
        Count("creator_looked", PAIR, LOOKED, over=(SLOW,), split=CREATOR),
        CLICK_LIFT("creator_click_lift", split=CREATOR),
        VisitCount("item_in_history", PAIR, LAST_50_OF_ITEM),
        VisitRecency("seconds_since_item_engaged", PAIR, LAST_50_OF_ITEM),
        VisitCount("category_share_of_last_10", PAIR, LAST_10_OF_CATEGORY, share=True),
        VisitCount("category_share_of_last_50", PAIR, LAST_50_OF_CATEGORY, share=True),
        VisitRecency("seconds_since_category_engaged", PAIR, LAST_50_OF_CATEGORY),
        Count("item_looked_by_user", PAIR, LOOKED, over=(SLOW,), split=OWN),
        VisitRecency("seconds_since_item_shown", PAIR, SHOWN_OF_ITEM),
        VisitCount("category_share_of_shown_20", PAIR, SHOWN_OF_CATEGORY, share=True),
        # The request
        HourOfDay("hour", REQUEST),
        Weekday("weekday", REQUEST),
        Attribute("tab", REQUEST, "tab"),
    ),
)
