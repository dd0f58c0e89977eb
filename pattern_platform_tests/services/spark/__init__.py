"""The client of Spark Connect ends a program that is `python -c`, as a worker of pytest-xdist is, where no Spark is."""

import os

os.environ.setdefault("SPARK_HOME", os.path.dirname(__file__))  # noqa: PTH120 - looked for by pyspark-client, never used
