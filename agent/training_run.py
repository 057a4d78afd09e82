"""Training that leaves checkpoints and metrics in a run's folder, and goes on where it stopped."""

from __future__ import annotations

import time

from agent.design_agent import DesignAgent
from agent.interruption import ForcedInterrupt
from agent.run_folder import RunFolder
from agent.trainer import StepReport

_CHECKPOINT_SECONDS = 20.0


def train_to(agent: DesignAgent, step: int, folder: RunFolder, progress: bool) -> None:
    """Train up to a step and leave a checkpoint, after an interruption too.

    Args:
        agent: Who is trained; one that is at this step already is left alone.
        step: Counted from the start of the run.
        folder: Where checkpoints, metrics.jsonl and TensorBoard events go.
        progress: Whether to show a progress bar.

    Raises:
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
        ForcedInterrupt: Ctrl-C twice, in the middle of a step; the last checkpoint stays.
    """
    saved = time.monotonic()
    steps_left = step - agent.trainer.step
    with folder.open_metrics(agent.trainer.step) as metrics:

        def after_step(report: StepReport) -> None:
            nonlocal saved
            metrics.write(report)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                agent.save(folder.checkpoint)
                saved = time.monotonic()

        try:
            if steps_left > 0:
                agent.train(steps_left, progress=progress, callback=after_step)
        except ForcedInterrupt:
            raise
        except KeyboardInterrupt:
            agent.save(folder.checkpoint)
            raise
    agent.save(folder.checkpoint)
