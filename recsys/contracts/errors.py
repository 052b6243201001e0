"""One tree of errors. Catch `RecsysError` at a boundary; every message says what to do next.

RecsysError
├── InvalidEvent          a record breaks its contract; it goes to the dead-letter topic with the reason
├── InvalidData           a file, row or column breaks its layout; the message names file, row and column
├── InvalidFilter         a request's filter is no expression, or asks for what the catalogue does not have
├── InvalidConfig         a setting is unknown, missing or out of range
├── MissingExtra          a package of an extra is not installed; the message has the command that installs it
├── UnknownFeature        no definition has a feature of that name; unknown features are never read as 0.0
├── FingerprintMismatch   a bundle and a feature store were made from different feature definitions
├── InvalidBundle         a bundle is incomplete, altered, or its scores differ from its golden ones
├── BudgetSpent           a training or a published count would cost users more privacy than was promised
├── StageFailed           a required stage of the request path failed; nothing can be ranked for this request
├── Unavailable           a server (Redis, Kafka, the API) cannot be reached now; retry later
│   └── AccessRefused     it can, but not with these credentials or this protocol; check them
└── LogReplaced           a topic was created again, or has got partitions; claim its partitions again
"""


class RecsysError(Exception):
    """Base of all errors that this project raises on purpose."""


class InvalidEvent(RecsysError): ...


class InvalidData(RecsysError): ...


class InvalidFilter(RecsysError): ...


class InvalidConfig(RecsysError): ...


class MissingExtra(RecsysError): ...


class UnknownFeature(RecsysError): ...


class FingerprintMismatch(RecsysError): ...


class InvalidBundle(RecsysError): ...


class BudgetSpent(RecsysError): ...


class StageFailed(RecsysError):
    """`outcomes` are those of the stages so far; the failed one is the last."""

    def __init__(self, stage: str, reason: str, outcomes: tuple[object, ...] = ()) -> None:
        super().__init__(f"the required stage {stage!r} failed: {reason}")
        self.stage = stage
        self.outcomes = outcomes


class Unavailable(RecsysError): ...


class AccessRefused(Unavailable): ...


class LogReplaced(RecsysError): ...
