"""Merged users: from an instant on, what an id did belongs to a user, as when a visitor logs in (ADR 25).

{"merge": {"from": "anon-123", "into": "u42"}, "changed_ms": 1750000000000}

It is a record of the topic `users`, keyed by both ids (`UserMerge.key`). No state is moved: as of an instant, a user's
state is the union of the states of the user's `members`. Stores, the batch kernel and the tests ask the same two rules:

* An id belongs to the user that it was merged into first. Others cannot take it over.
* Of the ids that were merged into a user, the first `MAX_MERGED` count.

Both are the smallest of a set of (time, id), so merges commute, and applying one twice changes nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import MAX_TIME_MS, parse_id, parse_time

MAX_MERGED = 16  # ids that a user's state is read from, besides the user's own
KEY_SEPARATOR = "\x1f"  # a control character, which no id may contain
Dated = tuple[tuple[int, str], ...]  # (Unix milliseconds, id), ascending


@dataclass(frozen=True, slots=True)
class UserMerge:
    """What `user_id` did, and will do, belongs to the user `into`, too, from `changed_ms` on."""

    user_id: str
    into: str
    changed_ms: int

    @property
    def key(self) -> str:
        """Of its record: a change of the id's attributes has another, so that compaction keeps both."""
        return f"{self.user_id}{KEY_SEPARATOR}{self.into}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {"merge": {"from": self.user_id, "into": self.into}, "changed_ms": self.changed_ms}


def parse_user_merge(raw: Any) -> UserMerge:
    """A `UserMerge` from decoded JSON. Raises `InvalidEvent`: with the field and the reason."""
    if not isinstance(raw, dict) or raw.keys() != {"merge", "changed_ms"}:
        raise InvalidEvent("user merge: an object of merge and changed_ms is required")
    ids = raw["merge"]
    if not isinstance(ids, dict) or ids.keys() != {"from", "into"}:
        raise InvalidEvent("merge: an object of from and into is required")
    user_id, into = parse_id(ids["from"], "from"), parse_id(ids["into"], "into")
    if user_id == into:
        raise InvalidEvent(f"merge: {user_id!r} cannot be merged into itself")
    return UserMerge(user_id, into, parse_time(raw["changed_ms"], "changed_ms"))


class Links(NamedTuple):
    """The merges of one id: the users that it was merged into, and the ids merged into it; each once, with the earliest
    time. Those that do not count are there, too: forgetting an id removes it from the links of all others."""

    into: Dated = ()
    merged: Dated = ()

    @property
    def owner(self) -> str | None:
        """The user that the id belongs to."""
        return self.into[0][1] if self.into else None

    @property
    def counting(self) -> list[str]:
        """The ids that belong to this one, unless they belong to another."""
        return [id_ for _, id_ in self.merged[:MAX_MERGED]]

    def before(self, now_ms: int) -> "Links":
        """Those whose time is strictly before."""
        return Links(*(dated[: bisect_left(dated, (now_ms, ""))] for dated in self))


def links_of(merges: Iterable[UserMerge]) -> dict[str, Links]:
    """Every id's links."""
    into: dict[str, dict[str, int]] = defaultdict(dict)
    merged: dict[str, dict[str, int]] = defaultdict(dict)
    for merge in merges:
        since_ms = min(merge.changed_ms, into[merge.user_id].get(merge.into, merge.changed_ms))
        into[merge.user_id][merge.into] = merged[merge.into][merge.user_id] = since_ms
    return {
        id_: Links(
            *(tuple(sorted((ms, other) for other, ms in of.get(id_, {}).items())) for of in (into, merged))
        )
        for id_ in into.keys() | merged.keys()
    }


def members(
    user_id: str, merged_of: Callable[[str], Iterable[str]], into_of: Callable[[str], str | None]
) -> list[str]:
    """The user, and the ids that belong to the user: those merged into the user, those merged into these, and so on,
    nearest first. At most `MAX_MERGED` ids are asked about, also in a circle.

    Args:
        merged_of: `Links.counting` of an id.
        into_of: `Links.owner` of an id.
    """
    found = [user_id]
    owners: dict[str, str | None] = {}  # of the ids that were asked about: one may be in the lists of several
    for member in found:  # grows meanwhile
        for merged in merged_of(member):
            if merged not in owners and merged not in found and len(owners) < MAX_MERGED:
                owners[merged] = into_of(merged)
            if owners.get(merged) == member and merged not in found:
                found.append(merged)
    return found


def linked_members(user_id: str, links: Callable[[str], Links]) -> list[str]:
    """`members`, where all links of an id are read at once."""
    return members(user_id, lambda member: links(member).counting, lambda merged: links(merged).owner)


class Merges:
    """All merges of a log: who belongs to whom, as of any instant. Does not change; may be pickled."""

    def __init__(self, merges: Iterable[UserMerge] = ()) -> None:
        self._links = links_of(merges)

    @property
    def ids(self) -> Collection[str]:
        """The ids that are part of a merge."""
        return self._links.keys()

    def members(self, user_id: str, now_ms: int = MAX_TIME_MS) -> list[str]:
        """As of `now_ms`: by the merges strictly before."""
        return linked_members(user_id, lambda id_: self._links.get(id_, Links()).before(now_ms))

    def home_of(self, user_id: str) -> str:
        """The same id for all that may ever be members of one another, and an id that is part of no merge itself."""
        chain = [user_id]
        while (into := self._owner(chain[-1])) is not None:
            if into in chain:  # a circle
                return min(chain[chain.index(into) :])
            chain.append(into)
        return chain[-1]

    def person_of(self, user_id: str) -> str:
        """Whose the id's events are in the end, each id being one user's."""
        home = self.home_of(user_id)
        return home if user_id in self.members(home) else user_id

    def eras(self, user_id: str) -> list[tuple[int, list[str]]]:
        """The user's members from each instant on, not including it, at which they change."""
        found: list[tuple[int, list[str]]] = []
        known = [user_id]
        for since_ms in sorted(self._times(user_id)):
            now = self.members(user_id, since_ms + 1)
            if now != known:
                found.append((since_ms, now))
                known = now
        return found

    def _owner(self, user_id: str) -> str | None:
        """The user that the id belongs to in the end, if it counts there."""
        owner = self._links.get(user_id, Links()).owner
        return owner if owner is not None and user_id in self._links[owner].counting else None

    def _times(self, user_id: str) -> set[int]:
        """When something was merged into the user, or into one of what was."""
        reached, times = [user_id], set[int]()
        for member in reached:  # grows meanwhile
            for since_ms, merged in self._links.get(member, Links()).merged[:MAX_MERGED]:
                times.add(since_ms)
                if self._owner(merged) == member and merged not in reached:
                    reached.append(merged)
        return times
