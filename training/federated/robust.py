"""Groups of clients that send too much. The server sees sums of groups, not clients, so it can leave out groups only.

Updates of different users are nearly orthogonal, and none is longer than the clip; so the sum of n honest ones is
hardly longer than √n clips. An attacker whose group's sum stays as short is not seen (docs/privacy.md).
Where users are alike, honest sums are longer: the limit must be higher there.
"""

import numpy as np
from numpy.typing import NDArray

from training.federated.config import Defence


def trusted_groups(
    sums: NDArray[np.floating], sizes: NDArray[np.int64], clip: float, defence: Defence | None
) -> NDArray[np.bool_]:
    """(groups,): which sums (groups, m) of `sizes` clients each count."""
    if defence is None:
        return np.ones(len(sums), np.bool_)
    return np.asarray(np.linalg.norm(sums, axis=1) <= defence.longest * clip * np.sqrt(sizes))
