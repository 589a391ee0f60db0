"""What a process and its machine use: CPU, memory, NVIDIA devices."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from clipjax import cores

_CHILDREN_EVERY = 30.0  # seconds: finding them looks at all processes of the machine


class Counters:
    """Measures this process with its workers, between calls."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._own = psutil.Process()
        self._processes = {self._own.pid: self._own}
        self._looked = -_CHILDREN_EVERY
        self._spent: dict[int, float] = {}
        self._at = 0.0

    def read(self) -> dict[str, Any]:
        """The fields cpu_percent (None at the first call), cpus, memory and
        memory_free of a Status.
        """
        now = time.monotonic()
        if now - self._looked >= _CHILDREN_EVERY:
            self._looked = now
            children = self._own.children(recursive=True)
            self._processes = {one.pid: one for one in (self._own, *children)}
        spent, memory = {}, 0
        for pid, process in [*self._processes.items()]:
            try:
                times = process.cpu_times()
                memory += process.memory_info().rss
            except self._psutil.Error:  # ended
                del self._processes[pid]
                continue
            spent[pid] = times.user + times.system
        percent = None
        if self._at:
            more = sum(
                value - self._spent.get(pid, 0.0) for pid, value in spent.items()
            )
            percent = round(100 * more / max(now - self._at, 1e-6), 1)
        self._spent, self._at = spent, now
        return {
            "cpu_percent": percent,
            "cpus": cores.usable(),
            "memory": memory,
            "memory_free": self._psutil.virtual_memory().available,
        }


class Gpus:
    """The NVIDIA devices that this process may use, as their driver counts them."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._first_energy: dict[int, float] = {}
        try:
            import pynvml
        except ImportError:
            return
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._nvml = pynvml

    def read(self) -> list[dict[str, Any]] | None:
        """Per device a dict of name, memory and memory_total (bytes), utilisation (%),
        temperature (degrees Celsius), power and power_limit (W), and energy (J, since
        the first call); None for what it does not tell.

        None without NVIDIA devices, their driver, or nvidia-ml-py.
        """
        if self._nvml is None:
            return None
        try:
            count = self._nvml.nvmlDeviceGetCount()
            handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except self._nvml.NVMLError:
            return None
        found = [
            self._device(i, handle)
            for i, handle in enumerate(handles)
            if self._is_visible(i, handle)
        ]
        return found or None

    def _device(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml

        def ask(question: str, *more: Any) -> Any:
            try:
                return getattr(nvml, question)(handle, *more)
            except nvml.NVMLError:  # this device does not count it
                return None

        memory = ask("nvmlDeviceGetMemoryInfo")
        rates = ask("nvmlDeviceGetUtilizationRates")
        energy = _times(ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)
        if energy is not None:
            energy -= self._first_energy.setdefault(index, energy)
        return {
            "name": _text(ask("nvmlDeviceGetName")),
            "memory": getattr(memory, "used", None),
            "memory_total": getattr(memory, "total", None),
            "utilisation": getattr(rates, "gpu", None),
            "temperature": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "power": _times(ask("nvmlDeviceGetPowerUsage"), 1e-3),
            "power_limit": _times(ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
            "energy": energy,
        }

    def _is_visible(self, index: int, handle: Any) -> bool:
        """Whether CUDA_VISIBLE_DEVICES lets this process use a device."""
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return True
        try:
            uuid = _text(self._nvml.nvmlDeviceGetUUID(handle)) or ""
        except self._nvml.NVMLError:
            uuid = ""
        for word in (word.strip() for word in chosen.split(",")):
            if word == str(index) or (word[:3] == "GPU" and uuid.startswith(word)):
                return True
            if word.startswith("MIG"):  # a part of a device that is not named here
                return True
        return False


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 1)


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
