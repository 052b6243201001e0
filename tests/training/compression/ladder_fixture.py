"""A ladder small enough for tests: three thousand items, one epoch a step."""

from dataclasses import replace
from pathlib import Path

from recsys.models.ranker import RankerConfig
from training.compression.ladder import STUDENT, LadderConfig
from training.compression.synthetic import LadderData
from training.ranker.loop import LoopConfig

SMALL = LadderData(n_items=3_000, n_creators=200, n_users=500, rows=6_000, n_features=24, history_length=8)
LOOP = LoopConfig(epochs=1, batch_size=512, learning_rate=5e-3)


def config(out: Path) -> LadderConfig:
    return LadderConfig(
        out=out,
        teacher=RankerConfig(width=8, attention="din", own_experts=1, expert_layers=(16, 8), cross_rank=4),
        student=replace(STUDENT, width=8, item_buckets=1_500, expert_layers=(32, 16), cross_rank=8),
        teacher_loop=LOOP,
        student_loop=LOOP,
        tuning_loop=LOOP,
    )
