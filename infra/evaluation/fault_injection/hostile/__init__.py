"""Hostile and broken neighbours: each attack that once broke the system, in one list (`recsys drill hostile`)."""

from infra.evaluation.fault_injection.hostile import (
    doors,
    influence,
    privacy,
    redis_and_disks,
    state,
    streams,
)
from infra.evaluation.fault_injection.hostile.attacks import Attack

ALL: tuple[Attack, ...] = (
    *streams.ATTACKS,
    *state.ATTACKS,
    *redis_and_disks.ATTACKS,
    *influence.ATTACKS,
    *doors.ATTACKS,
    *privacy.ATTACKS,
)
