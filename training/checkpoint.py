"""The state of a training run, which survives a kill: safetensors with the counters as JSON; no pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import staged_file


@dataclass
class Progress:
    """How far a run has come. `batch` counts within the epoch: resuming skips the batches before it."""

    epoch: int = 0  # finished epochs
    batch: int = 0
    step: int = 0
    loss: float = 0.0  # of the epoch so far, summed over targets
    targets: int = 0
    seconds: float = 0.0
    loader_seconds: float = 0.0
    waited_seconds: float = 0.0
    reports: list[dict[str, Any]] = field(default_factory=list)  # one per finished epoch


class Optimizer(Protocol):
    """The part of `torch.optim.Optimizer` that a checkpoint needs."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


Model = TypeVar("Model", bound=nn.Module)


@dataclass
class TrainingState(Generic[Model]):
    """Weights, their running average, the best ones so far, optimizer and progress."""

    model: Model
    average: AveragedModel | None
    optimizer: Optimizer
    best: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    @property
    def evaluated(self) -> Model:
        """The model to evaluate and export: the average if there is one."""
        return self.model if self.average is None else cast(Model, self.average.module)

    def save(self, path: Path, identity: Mapping[str, Any], write: bool = True) -> None:
        """Replace the checkpoint atomically: a kill at any moment leaves the old one or the new one.

        All processes must call it, because sharded tensors are gathered; one of them with `write`.
        """
        tensors = {
            **_prefixed("model", self.model.state_dict()),
            **_prefixed("optimizer", _optimizer_tensors(self.optimizer)),
            **_prefixed("average", self.average.state_dict() if self.average is not None else {}),
            **_prefixed("best", self.best),
        }
        if not write:
            return
        about = json.dumps(identity, sort_keys=True)
        header = {"identity": about, "progress": json.dumps(asdict(self.progress))}
        contiguous = {k: t.detach().clone().contiguous() for k, t in tensors.items()}
        with staged_file(path, fsync=True) as temporary:
            save_file(contiguous, temporary, metadata=header)

    def restore(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Continue from the checkpoint, if there is one.

        Raises:
            InvalidConfig: it is of another configuration.
            InvalidData: the file is not a checkpoint of ours.
        """
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if header["identity"] != json.dumps(identity, sort_keys=True):
                raise InvalidConfig(
                    f"{path} is of another configuration; discard it with `--fresh`, or choose another folder"
                )
            self.progress = Progress(**json.loads(header["progress"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InvalidData(f"{path}: not a checkpoint ({error}); delete it to restart") from error
        self.model.load_state_dict(_part("model", tensors))
        if self.average is not None:
            self.average.load_state_dict(_part("average", tensors))
        _restore_optimizer(self.optimizer, _part("optimizer", tensors))
        self.best = _part("best", tensors)


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Flat: `<parameter index>.<name>`."""
    slots = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Learning rates and the like stay as configured."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
