"""What takes a large import to know, each in a process of its own: a library that crashes or hangs ends that one alone.

Run as a file, `python -P heavy.py NAME`, it prints one JSON list: state, detail and mend of a finding.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Told = tuple[str, str, str | None]
PATIENCE = 180
"""Seconds until a process counts as hung; the first import on a slow disk takes tens of them."""


def ask(name: str) -> Told:
    """Let a fresh process look.

    Args:
        name: One of `LOOKS`.

    Returns:
        State, detail and mend, as `audit.doctor.base.Finding` takes them.

    Raises:
        RuntimeError: The process failed; its last line of complaint.
        TimeoutError: It did not answer in time.
    """
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this file
            [sys.executable, "-P", __file__, name],
            capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no answer in {PATIENCE} s") from error
    if done.returncode < 0:
        raise RuntimeError(f"the process died of {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    state, detail, mend = json.loads(done.stdout.splitlines()[-1])
    return state, detail, mend


def torch_works() -> Told:
    """The build, its threads, and one product of matrices."""
    import torch  # noqa: PLC0415 - this is what is looked at

    if float((torch.ones(8, 8) @ torch.ones(8, 8)).sum()) != 512.0:
        return "broken", f"{torch.__version__} multiplies wrongly", _REINSTALL
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "ok", f"{torch.__version__} ({build} build), {torch.get_num_threads()} threads on {usable} cores", None


def gpu() -> Told:
    """A CUDA device with its driver and bfloat16; or why there is none."""
    import torch  # noqa: PLC0415 - as above

    there = Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()
    if torch.version.cuda is None:
        if there:
            return "note", "an NVIDIA GPU is here, and torch is built for the CPU alone", _WITH_CUDA
        return "note", f"none; CPU, bfloat16 {'in hardware' if _cpu_bfloat16() else 'emulated'}", None
    if not torch.cuda.is_available():
        reason = "its driver is not there or too old" if there else "no GPU is seen"
        return "note", f"torch is built for CUDA {torch.version.cuda}, and {reason}", "nvidia-smi" if there else None
    name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 1e9
    bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16 in hardware"
    float((torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum())
    return "ok", f"{name}, {memory:.0f} GB, {bfloat16}, driver {_driver()}", None


def _cpu_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as torch's own kernels ask."""
    import torch  # noqa: PLC0415 - as above

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - torch has no public question for it


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    words = version.read_text(encoding="utf-8").split() if version.exists() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def tracking_store() -> Told:
    """An MLflow store in SQLite: made, written, read."""
    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"})
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = MlflowClient(tracking_uri=f"sqlite:///{Path(folder).as_posix()}/mlflow.db")
        place = (Path(folder) / "artifacts").as_uri()
        run = client.create_run(client.create_experiment("doctor", artifact_location=place))
        client.log_metric(run.info.run_id, "answer", 42.0)
        found = client.get_run(run.info.run_id).data.metrics["answer"]
    if found != 42.0:
        return "broken", "SQLite: what is read is not what was written", None
    return "ok", "SQLite: made, written, read", None


def pictures() -> Told:
    """A chart's SVG and PNG; letters leave ink only where a font is found."""
    import vl_convert  # noqa: PLC0415 - as above

    def png(text: str) -> bytes:
        mark = {"type": "text", "text": text, "fontSize": 20}
        spec = {"data": {"values": [{}]}, "mark": mark, "width": 60, "height": 30}
        return bytes(vl_convert.vegalite_to_png(spec))

    if not png("M").startswith(b"\x89PNG"):
        return "broken", "what is drawn is no PNG", None
    if png("MMM") == png(" "):
        return "broken", "charts are drawn without letters: no font is found", "apt install fonts-dejavu-core"
    return "ok", "PNG with letters", None


_REINSTALL = "python -m pip install --force-reinstall torch"
_WITH_CUDA = "python -m pip install --force-reinstall 'torch>=2.6', from an index of CUDA builds"
LOOKS: dict[str, Callable[[], Told]] = {
    "torch": torch_works, "gpu": gpu, "tracking": tracking_store, "pictures": pictures,
}  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(json.dumps(LOOKS[sys.argv[1]]()) + "\n")
