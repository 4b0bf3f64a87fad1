"""An action at a chosen step of a run in the same process."""

from fof_jax.training import train


def when_step(number, action, monkeypatch):
    """Does something when the metrics of this step, from 1, are read."""
    read, count = train.DelayedMetrics._read, [0]

    def counted(metrics, pending):
        count[0] += pending is not None
        if pending is not None and count[0] == number:
            action()
        return read(metrics, pending)

    monkeypatch.setattr(train.DelayedMetrics, "_read", counted)
