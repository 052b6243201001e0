"""The words by which columns and actions are recognised; in each list, what is meant most surely comes first."""

from recsys.contracts.types import EventType


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# parts of a name that say nothing about its role
GENERIC = frozenset(_words("id ids code key no num is has was did of the at col flag"))

USER = _words(
    "user customer visitor member reviewer reader viewer listener buyer shopper client subscriber account person player"
    " student uid u"
)
SESSION = _words("session sess visit cookie device anonymous")
ITEM = _words(
    "item product movie article sku asin video track song book isbn content news game app listing course recipe"
    " restaurant business post document doc ad artist show episode podcast photo job property hotel iid i"
)
TIME = _words(
    "timestamp time datetime ts date day when created occurred clicked unixtime unix happened opened at"
)
ACTION = _words("event action type behavior behaviour interaction activity verb kind")
RATING = _words("rating stars score overall grade rate thumb vote feedback")
REQUEST = _words("request impression list slate search query page pageview recommendation reco")
POSITION = _words("position rank pos slot place")
PRICE = _words("price amount revenue paid cost total")
DWELL = _words("dwell read play watch playtime duration spent stay time ms")

TITLE = _words("title name headline label")
# ISO 639-1, as the end of a title's name: title_de
LANGUAGES = frozenset(
    _words(
        "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de"
        " dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id"
        " ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu"
        " lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu"
        " rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr"
        " ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
    )
)
SCRIPTS = frozenset(_words("arab cyrl hans hant latn"))
CATEGORIES = _words("categories category genres genre sections section department topics topic tags tag")
CREATOR = _words("creator author brand artist publisher seller channel director studio vendor")
CREATED = _words("created published released release listed uploaded upload added launched")
# whole names: they decide whether an item is shown at all
AVAILABLE_FROM = frozenset(
    _words("availablefrom availablesince validfrom onsalefrom visiblefrom publishfrom")
)
AVAILABLE_UNTIL = frozenset(
    _words(
        "availableuntil availabletill availableto validuntil validto visibleuntil expires expiresat expiry"
    )
    + _words("expirydate expirationdate")
)
REGIONS = frozenset(_words("availablein availableregions availablecountries licensedregions territories"))

_DONE = {
    EventType.IMPRESSION: "impression imp shown show exposure displayed display served recommended",
    EventType.CLICK: "click clicked clk open opened detail read play played watch watched listen stream",
    EventType.VIEW: "view viewed pv pageview productview viewitem itemview detailview visit browse",
    EventType.LIKE: "like liked favorite favourite fav upvote bookmark save saved wishlist addtowishlist collect share",
    EventType.ADD_TO_CART: "cart addtocart addcart basket addtobasket atc",
    EventType.PURCHASE: "purchase purchased buy bought order ordered transaction sale sold paid checkout conversion"
    " converted booking booked rent rented",
    EventType.DISLIKE: "dislike disliked downvote hide hidden notinterested block thumbsdown",
    EventType.RATING: "rating rate rated review reviewed",
}
# the value of an action's cell, without its case, spaces and signs → what the user did
ACTIONS: dict[str, EventType] = {word: kind for kind, text in _DONE.items() for word in _words(text)}
