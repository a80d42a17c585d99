"""How far a run is, counted in epochs or, where its loop knows no epochs, in iterations."""

from typing import Any, NamedTuple

from mmengine.runner import IterBasedTrainLoop


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        unit: "epoch" or "iteration".
        done: Units that have ended.
        total: Units that the run is to have.
        iterations: In a unit.
        window: Iterations from one validation to the next, over which losses are averaged.
    """

    unit: str
    done: int
    total: int
    iterations: int
    window: int

    @classmethod
    def of(cls, runner: Any) -> "Progress":
        """Asks a runner whose training loop is built."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            return cls("iteration", loop.iter, loop.max_iters, 1, min(loop.val_interval, loop.max_iters))
        iterations = len(loop.dataloader)
        return cls("epoch", loop.epoch, loop.max_epochs, iterations, iterations)

    def next(self) -> "Progress":
        """The same when the unit that is under way has ended."""
        return self._replace(done=self.done + 1)
