"""The logs of a prediction after a part of its run."""

from typing import Any

from picture_queue.local.simulator.faults import Logs
from picture_queue.providers.replicate.catalog import CatalogModel

_BLOCKS = " ▏▎▍▌▋▊▉"
_BAR_LENGTH = 10  # characters
_DEFAULT_STEPS = 20  # for models without an input for the number of steps


def log_text(
    model: CatalogModel,
    inputs: dict[str, Any],
    seed: int,
    pictures: int,
    completed: float,
    seconds: float,
    kind: Logs | None = None,
    delivered: int | None = None,
) -> str:
    """Return the logs.

    Args:
        model: The model. Its ``progress_in_logs`` chooses the kind: progress bars of tqdm, text, or
            nothing.
        inputs: The inputs of the prediction, which may have the number of steps.
        seed: Seed of the run.
        pictures: Number of pictures.
        completed: Completed part of the run, 0 to 1.
        seconds: Duration of the whole run.
        kind: Kind of the logs; None: the kind of the model.
        delivered: Number of pictures that passed the safety checker; None: all.
    """
    kind = kind or model.progress_in_logs
    if kind == "empty":
        return ""
    if kind == "percent":
        safe = f"{pictures if delivered is None else delivered} out of {pictures}"
        return _progress_bars(_steps(model, inputs), seed, safe, completed, seconds)
    lines = [f"Using seed: {seed}", "Running prediction... ", "Generating image..."]
    if completed >= 1:
        lines.append(f"Generated image in {seconds:.1f}sec")
    return "\n".join(lines) + "\n"


def _progress_bars(steps: int, seed: int, safe: str, completed: float, seconds: float) -> str:
    lines = [f"Using seed: {seed}"]
    reached = min(steps, int(steps * completed))
    lines += [_bar(step, steps, seconds * step / steps, seconds) for step in range(reached + 1)]
    if completed >= 1:
        lines.append(f"Total safe images: {safe}")
    return "\n".join(lines) + "\n"


def _bar(step: int, steps: int, elapsed: float, seconds: float) -> str:
    """Return a progress bar in the format of tqdm."""
    part = step / steps
    eighths = round(part * _BAR_LENGTH * 8)
    bar = ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(_BAR_LENGTH)
    speed = f"{step / elapsed:5.2f}" if elapsed else "?"
    left = _format_time(seconds - elapsed) if elapsed else "?"
    return f"{part * 100:3.0f}%|{bar}| {step}/{steps} [{_format_time(elapsed)}<{left}, {speed}it/s]"


def _format_time(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _steps(model: CatalogModel, inputs: dict[str, Any]) -> int:
    for name in ("num_inference_steps", "steps"):
        model_input = model.input(name)
        if model_input is not None:
            steps = inputs.get(name, model_input.default)
            return max(1, int(steps)) if isinstance(steps, (int, float)) else _DEFAULT_STEPS
    return _DEFAULT_STEPS
