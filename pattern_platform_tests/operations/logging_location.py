"""A code location that has its logs written, as the definitions of the platform do."""

import logging
import os

import dagster as dg

from pattern_platform.orchestration.json_logs import install

install(os.environ["LOGS_OF_THE_TEST"], "night", "code-server")
logging.getLogger("pattern_platform.alerts").warning("the location was loaded")


@dg.asset
def quiet() -> None: ...


defs = dg.Definitions(assets=[quiet])
