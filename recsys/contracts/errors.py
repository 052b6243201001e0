"""One tree of errors. Catch `RecsysError` at a boundary; every message says what to do next.

RecsysError
├── InvalidEvent          an event breaks the contract; goes to the dead-letter topic with the reason
├── InvalidData           a file, row or column breaks the contract; names file, row and column
├── InvalidConfig         a setting is unknown or out of range
├── UnknownFeature        a feature name that no definition owns
├── FingerprintMismatch   a bundle was trained on other feature definitions than the store holds
├── InvalidBundle         a bundle is incomplete, altered, or its golden scores differ
├── StageFailed           a required stage of the request path failed; nothing can be ranked for this request
├── Unavailable           a server (Redis, Kafka, the API) cannot be reached; worth a retry
├── LogReplaced           a topic lost its records and starts anew; claim its partitions again
└── Fenced                another worker owns the partition now; claim it again
"""


class RecsysError(Exception):
    """Base of all errors that this project raises on purpose."""


class InvalidEvent(RecsysError):
    """An event breaks the contract of `recsys.contracts.events`."""


class InvalidData(RecsysError):
    """A data file breaks its layout; the message names file, row and column."""


class InvalidConfig(RecsysError):
    """A setting is unknown, missing or out of range."""


class UnknownFeature(RecsysError):
    """A feature name that no definition owns. Unknown features are never read as 0.0."""


class FingerprintMismatch(RecsysError):
    """A bundle and a feature store were made from different feature definitions."""


class InvalidBundle(RecsysError):
    """A bundle is incomplete, altered, or gives other scores than its golden ones."""


class StageFailed(RecsysError):
    """A required stage of the request path failed. `outcomes` are those of the stages so far, this one last."""

    def __init__(self, stage: str, reason: str, outcomes: tuple[object, ...] = ()) -> None:
        super().__init__(f"the required stage {stage!r} failed: {reason}")
        self.stage = stage
        self.outcomes = outcomes


class Unavailable(RecsysError):
    """A server cannot be reached now."""


class LogReplaced(RecsysError):
    """A topic is not the one that was read before: other records, offsets from 0 again."""


class Fenced(RecsysError):
    """Another worker has claimed the partition since; what was about to be written must not be."""
