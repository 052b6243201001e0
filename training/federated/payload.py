"""What a round costs a device in bytes, compared with federated averaging, which moves the whole float32 model."""

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.federated.config import FederatedRecipe
from training.federated.rounds import RoundUpdate
from training.federated.secure_client import SumPlan
from training.federated.secure_round import Traffic, secure_sum

_STEP_BYTES = 4  # of a round's update, besides its coefficients


def update_bytes(update: RoundUpdate) -> int:
    """As it is sent: deflated."""
    return _STEP_BYTES + len(zlib.compress(update.coefficients.tobytes()))


@dataclass(frozen=True)
class Payload:
    """Bytes per client and round that it takes part in. A client follows the rounds that it sits out, too: on average
    it fetches 1 / `cohorts.rate` updates for each that it sends. update: mean bytes of a round's update."""

    recipe: FederatedRecipe
    n_items: int
    update: float

    @cached_property
    def _secure(self) -> Traffic:
        """Measured: the messages of one secure sum of a group of zeros."""
        clients, zeros = self.recipe.cohorts.group, np.zeros(self.n_items * self.recipe.rank, np.int8)
        return secure_sum([zeros] * clients, SumPlan("payload", clients, len(zeros)), clients).traffic

    @property
    def up(self) -> float:
        """The masked update, keys, sealed shares, and the answer that recovers dropouts."""
        return self._secure.up

    @property
    def down(self) -> float:
        """Others' keys and sealed shares, and the updates of the rounds since the last one with this client."""
        return self._secure.down + self.update / self.recipe.cohorts.rate

    @property
    def whole(self) -> float:
        """Of federated averaging, up or down: all item vectors in float32."""
        return 4.0 * self.n_items * self.recipe.shape.dim

    @property
    def share(self) -> float:
        """Of federated averaging's bytes in a round, up and down together."""
        return (self.up + self.down) / (2 * self.whole)

    @property
    def total_mb(self) -> float:
        """Of one client over all rounds, in expectation."""
        return self.recipe.rounds * self.recipe.cohorts.rate * (self.up + self.down) / 1e6
