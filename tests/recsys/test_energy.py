"""Joules: known answers of the model, its bounds, and counters of a made-up sysfs tree."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.energy import ProcessEnergy, RaplMeter, modelled, nvml

_amounts = st.floats(0, 1e9)


def test_a_busy_core_and_a_gib_for_a_second() -> None:
    core, gib = modelled(1.0, 0.0), modelled(0.0, 1.0)
    assert (core.joules, core.high) == (3.5, 3.5 + 4 * 0.74)
    assert core.low == pytest.approx(1.758, abs=1e-3)
    assert gib.low == 0
    assert gib.joules == pytest.approx(0.392 * 1.073741824)
    assert core.source == "model"
    assert modelled(1.0, 1.0).times(1_000).joules == pytest.approx(1_000 * (core.joules + gib.joules))


@given(_amounts, _amounts, _amounts)
def test_bounds_contain_the_estimate_and_more_work_takes_more(
    cpu_s: float, gib_s: float, more: float
) -> None:
    energy = modelled(cpu_s, gib_s)
    assert 0 <= energy.low <= energy.joules <= energy.high
    for larger in (modelled(cpu_s + more, gib_s), modelled(cpu_s, gib_s + more)):
        assert larger.low >= energy.low
        assert larger.joules >= energy.joules
        assert larger.high >= energy.high


def _zone(root: Path, zone: str, name: str, energy_uj: int, range_uj: int = 1_000_000_000) -> Path:
    folder = root / zone
    folder.mkdir(exist_ok=True)
    for file, content in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{content}\n", encoding="ascii")
    return folder / "energy_uj"


def test_rapl_adds_packages_and_dram_and_counters_wrap(tmp_path: Path) -> None:
    first = _zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    second = _zone(tmp_path, "intel-rapl:1", "package-1", 0)
    dram = _zone(tmp_path, "intel-rapl:0:2", "dram", 5_000_000)
    core = _zone(tmp_path, "intel-rapl:0:0", "core", 0)  # a part of the package
    meter = RaplMeter(tmp_path)
    assert meter.read().joules == 0
    first.write_text("2000000\n")  # 1 J up to the end of its range, 2 J after it
    second.write_text("4000000\n")
    dram.write_text("5500000\n")
    core.write_text("900000000\n")
    energy = meter.read()
    assert energy.joules == energy.low == energy.high == pytest.approx(7.5)
    assert energy.source == "rapl"
    first.write_text("3000000\n")
    assert meter.read().joules == pytest.approx(8.5)


def test_rapl_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no energy counters"):
        RaplMeter(tmp_path)


def test_nvml_adds_devices_and_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda device: 1_500 + device,
        NVMLError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    energy = nvml()
    assert energy is not None
    assert (energy.joules, energy.source) == (3.001, "nvml")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml() is None


def test_memory_of_a_process_counts_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.energy.resident_bytes", lambda: 2**30)
    monkeypatch.setattr("recsys.energy.time.process_time", lambda: 10.0)
    now = iter([0.0, 4.0, 6.0])
    process = ProcessEnergy(clock=lambda: next(now))
    assert process.read() == modelled(10.0, 4.0)
    assert process.read() == modelled(10.0, 6.0)
