"""A private training pays before it draws noise, and its work folder says what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.contracts.errors import InvalidData
from recsys.operator_files import read_json
from training.features.trust import TRUST, Judgement
from training.privacy.accounting import Spend
from training.privacy.ledger import Ledger
from training.ranker.artifacts import SUMMARY


@dataclass(frozen=True)
class PrivateReport:
    """metrics: of held-out rows, if any are. privacy: as in the manifest. spent: epsilon of the whole ledger."""

    metrics: Mapping[str, float]
    privacy: Mapping[str, float | int | str]
    spent: float


def is_private(work: Path) -> bool:
    """Whether the model in this work folder was trained privately."""
    try:
        return bool(read_json(work / SUMMARY, dict[str, Any], InvalidData).get("privacy"))
    except FileNotFoundError:
        return False


def pay(ledger: Ledger, what: str, spends: Sequence[Spend], work: Path) -> float:
    """Write the training into the ledger. Returns epsilon of all entries with this one.

    Raises:
        BudgetSpent: the ledger has not enough left.
        InvalidData: it is damaged, or missing though this work folder, or the other model's next to it, is private.
    """
    folders = [summary.parent for summary in sorted(work.parent.glob(f"*/{SUMMARY}"))]
    if not ledger.path.exists() and (private := [folder for folder in folders if is_private(folder)]):
        raise InvalidData(
            f"{ledger.path} is missing, though {private[0]} was trained privately: what was spent is not known;"
            " restore the ledger, or train without privacy first if no one has seen that model"
        )
    return ledger.spend(what, spends)


def trust_left_out(examples: Path) -> list[str]:
    """What a guarantee takes as public where suspect events were left out, as other users decide on these."""
    if not (examples / TRUST).exists():
        return []
    judged = read_json(examples / TRUST, Judgement, InvalidData)
    return ["what RECSYS_TRUST left out"] if any(judged.left_out.values()) else []
