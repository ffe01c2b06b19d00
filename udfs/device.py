"""Where a Spark worker computes.     Knows Spark's task, no model."""

from pyspark import TaskContext


def device() -> str:
    """The GPU that Spark gave this task, where the application asks for some (`spark.task.resource.gpu.amount`); else the CPU, also outside a task."""
    task = TaskContext.get()
    given = task.resources().get("gpu") if task else None
    return f"cuda:{given.addresses[0]}" if given else "cpu"
