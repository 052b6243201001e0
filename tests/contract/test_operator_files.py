"""Every file that an operator can write, damaged in every way: its reader gives a value or an error of ours."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cli.commands.features import _definitions
from infra.local.services import running
from infra.sizing_table import TABLE, read_table
from recsys.bundle import named_version, read_manifest
from recsys.contracts.errors import RecsysError
from recsys.datasets.catalogue import read_users
from recsys.datasets.mapping import read_mapping
from recsys.features.definitions import FEATURES
from recsys.features.drift import read_histograms
from recsys.items.item_table import read_items
from recsys.lake.forget import forgotten_users
from recsys.lake.lake import read_files
from recsys.models.ranker import RankerConfig
from recsys.recall.snapshots import Snapshots
from recsys.rerank.rules import RuleBook, read_rules
from recsys.settings import Settings
from recsys.signatures import new_key, read_private_key, read_public_keys
from recsys.simulation.clock import read_clock
from recsys.simulation.world import WorldConfig, read_world
from serving.api.cursors import cursor_key
from serving.api.monitoring.models_view import models_state
from serving.api.security import Keys
from serving.engine.experiments import Experiments, read_experiments
from serving.engine.pipeline_builder import PathConfig
from serving.engine.user_attributes import UserAttributes
from streaming.lake_writer.commit import read_checkpoint
from streaming.replay import Position
from tests.bundles import write_tiny_bundle
from training.compression.variants import read_variant
from training.nightly.update import nights_since_full
from training.publish import _summary
from training.ranker.artifacts import read_shape
from training.warm_start import read_warm_start

RULES = {
    "rules": [{"name": "launch", "pin": {"item": "1", "position": 0}, "when": {"context": {"device": "tv"}}}]
}
ARMS = [{"name": "control"}, {"name": "dpp", "settings": {"rerank": {"diversity": "dpp", "strength": 0.4}}}]
EXPERIMENTS = {"experiments": [{"name": "diversity", "layer": "rerank", "last": 0.5, "arms": ARMS}]}
MAPPING = yaml.safe_load(Path("examples/articles/mapping.yaml").read_text(encoding="utf-8"))
WARM = {
    "must_agree": {"d": 8},
    "item_ids": ["a"],
    "trained_until_ms": 1,
    "fields": {"creator": ["x"]},
    "nights": 1,
}
VARIANT = {"name": "int8", "bytes": 1, "metrics": {"auc": 0.5}, "overlap": 1.0, "reasons": [], "gated": True}
KEY = {"name": "shop", "sha256": "0" * 64, "scopes": ["read"]}
CLOCK = {"wall_ms": 1, "world_ms": 1, "speed": 1.0, "until_ms": 5}


class Case(NamedTuple):
    """A file below the home, what it has, and what reads it."""

    path: str
    content: Any
    read: Callable[[Path], object]


CASES = {
    "manifest": Case("bundles/v1/manifest.json", None, lambda p: read_manifest(p.parent)),
    "CURRENT": Case("bundles/CURRENT", "v1\n", named_version),
    "rules": Case("rules.yaml", RULES, read_rules),
    "rule book": Case("rules.yaml", RULES, lambda p: RuleBook(p).error),
    "experiments": Case("experiments.yaml", EXPERIMENTS, read_experiments),
    "running experiments": Case(
        "experiments.yaml", EXPERIMENTS, lambda p: Experiments(p, PathConfig()).of("u")
    ),
    "mapping": Case("mapping.yaml", MAPPING, read_mapping),
    "keys": Case("keys.json", [KEY], lambda p: Keys(p)),
    "cursor key": Case("cursor.key", "k" * 32, cursor_key),
    "public keys": Case("bundle-keys", None, read_public_keys),
    "private key": Case("private.key", None, read_private_key),
    "forget": Case("lake/forget/00.json", {"until_ms": 5}, lambda p: forgotten_users(p.parents[1])),
    "archive": Case(
        "lake/_archive/checkpoint.json", {"events/0": ["log", 5, 7]}, lambda p: read_checkpoint(p.parents[1])
    ),
    "users": Case("lake/users/users.parquet", None, lambda p: UserAttributes(p, FEATURES).error),
    "lake users": Case("lake/users/users.parquet", None, lambda p: read_users(p.parents[1])),
    "items": Case("lake/items/items.parquet", None, read_items),
    "events": Case("lake/events/dt=2026-01-01/a.parquet", None, lambda p: read_files([p])),
    "import report": Case(
        "lake/import-report.json", {"rows": 5}, lambda p: models_state(p.parents[1], p.parent)
    ),
    "summary": Case(
        "work/ranker/summary.json",
        {"config": {"a": 1}, "metrics": {"auc": 1.0}, "seed": 1},
        lambda p: _summary(p.parent),
    ),
    "warm start": Case("work/ranker/warm_start.json", WARM, lambda p: read_warm_start(p.parent)),
    "nightly": Case("work/ranker/warm_start.json", WARM, lambda p: nights_since_full(p.parent)),
    "variant": Case("work/ranker/variant.json", VARIANT, lambda p: read_variant(p.parent)),
    "shape": Case("work/ranker/shape.json", asdict(RankerConfig()), read_shape),
    "clock": Case("clock.json", CLOCK, read_clock),
    "world": Case("world.json", WorldConfig().model_dump(mode="json"), read_world),
    "replay": Case(
        "replay.json", {"log_id": "l", "event_time_ms": 1, "event_id": "e"}, lambda p: Position(p, "l").load()
    ),
    "services": Case(
        "run/services.json",
        {"redis_url": "r", "kafka_bootstrap": "k", "redis_pid": 0},
        lambda p: running(Settings(home=p.parents[1])),
    ),
    "snapshot": Case("index/CURRENT", "3\n", lambda p: Snapshots(p.parent).current()),
    "histograms": Case("h.json", [{"edges": [0.0, 1.0], "shares": [1.0]}], read_histograms),
    "definitions": Case("d.json", {"features": [], "state": {}, "histories": {}}, _definitions),
    "sizing": Case("sizing.yaml", None, read_table),
}
DEEP = 2_500
BYTES = {
    "empty": b"",
    "null byte": b"\0",
    "latin-1": "{name: Müller}".encode("latin-1"),
    "deep JSON": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep YAML": b"- " * 2_000 + b"x",
    "laughs": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 9)) for c in b"abcdefgh"),
    "cycle": b"&a {rules: *a, experiments: *a, events: *a}",
    "no date": b"rules: 2026-13-45\nexperiments: 2026-13-45\nevents: 2026-13-45\n",
    "long number": b'{"until_ms": ' + b"9" * 5_000 + b"}",
    "big number": b'{"until_ms": 99999999999999999999999}',
    "infinite": b'{"until_ms": 1e999, "metrics": {"a": NaN}}',
    "surrogate": rb'{"until_ms": 1, "log_id": "\ud800", "a": "\ud800"}',
    "python": b"!!python/object/apply:os.system [echo]",
    "scalar": b"5",
    "list": b"[]",
    "mapping": b"{}",
    "odd keys": b"{? [1, 2] : 3, 4: 5, null: 6}",
    "pickle": b"\x80\x04K\x01.",
    "parquet": b"PAR1" + b"\xff" * 64 + b"PAR1",
}


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nothing")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _parent(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


PLACES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "folder": _folder,
    "link to itself": _loop,
    "link to nothing": _dangling,
    "endless device": _device,
    "pipe": os.mkfifo,
    "folder is a file": _parent,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("home")


def put(home: Path, case: Case) -> Path:
    """The path, with nothing there."""
    path = home / f"{random.randrange(10**12)}" / case.path
    path.parent.mkdir(parents=True)
    return path


def accepted(case: Case, path: Path) -> bool:
    """Whether the reader takes it; it must not fail otherwise."""
    try:
        case.read(path)
    except RecsysError as error:
        str(error).encode()  # it can be logged and sent
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_whatever_lies_there_is_refused_in_words(home: Path, name: str) -> None:
    case = CASES[name]
    for kind, content in BYTES.items():
        path = put(home, case)
        if kind == "deep JSON" and path.suffix == ".yaml" and name != "rules":
            continue  # PyYAML takes seconds to refuse it: one of its readers is enough
        path.write_bytes(content)
        assert accepted(case, path) in (True, False), kind
    for make in PLACES.values():
        path = put(home, case)
        make(path)
        accepted(case, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if isinstance(case.content, dict | list)]
)
def test_values_of_other_types_are_refused_in_words(home: Path, name: str) -> None:
    case = CASES[name]
    path = put(home, case)
    write = yaml.safe_dump if path.suffix == ".yaml" else json.dumps
    path.write_text(write(case.content))
    assert accepted(case, path), "the content itself is sound"

    @settings(max_examples=10, database=None)
    @given(st.randoms(use_true_random=False), JSON)
    def damage(rng: random.Random, value: Any) -> None:
        damaged = json.loads(json.dumps(case.content))
        _replace_one(damaged, rng, value)
        path.write_text(write(damaged))
        accepted(case, path)

    damage()


def _replace_one(node: Any, rng: random.Random, value: Any) -> None:
    """Replace, add or remove one value anywhere in the document."""
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = rng.choice(keys) if keys else None
    inner = None if key is None else node[key]
    if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
        _replace_one(inner, rng, value)
    elif key is not None and rng.random() < 0.2:
        del node[key]
    elif key is not None:
        node[key] = value


def test_binary_files_damaged_anywhere_are_refused_in_words(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles", "v1").path
    key = tmp_path / "key"
    public = new_key(key, "test")
    rng = random.Random(0)
    for name, content in {
        "manifest": (bundle / "manifest.json").read_bytes(),
        "items": (bundle / "items.parquet").read_bytes(),
        "lake users": (bundle / "items.parquet").read_bytes(),  # other columns
        "users": (bundle / "items.parquet").read_bytes(),
        "private key": key.read_bytes(),
        "public keys": public.encode(),
        "sizing": TABLE.read_bytes(),
    }.items():
        case = CASES[name]
        path = put(tmp_path, case)
        for _ in range(25):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 1, 8])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
            accepted(case, path)
