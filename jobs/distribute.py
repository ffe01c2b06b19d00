"""Train by Spark's TorchDistributor: a command for `train.launcher`, under spark-submit or alone.     `python -m jobs.distribute PROCESSES SPEC.json`

Reads and writes nothing itself: the trainer is `model.train`, in as many processes as named. Knows no table and no configuration.

With a local master the processes run here, else each is a task of one barrier stage on the executors, which must see the specification and
the lake's `artifacts/` at the same path. They take GPUs where the application asked Spark for them (`spark.task.resource.gpu.amount`).
If one process dies Spark ends all of them; the night's retry goes on from the last checkpoint.
"""

import sys

from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession


def train(spec: str) -> int:
    """In each process: the trainer's exit code, which TorchDistributor would turn into an error of its own if it ended the process."""
    from model.train import main

    return main([spec])


def main(processes: str, spec: str) -> int:
    """The exit code of the first process, as `python -m model.train` gives it."""
    spark = SparkSession.builder.appName("tandem training").getOrCreate()
    local = spark.sparkContext.master.startswith("local")
    gpu = spark.sparkContext.getConf().get("spark.task.resource.gpu.amount") is not None
    return TorchDistributor(num_processes=int(processes), local_mode=local, use_gpu=gpu).run(train, spec)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
