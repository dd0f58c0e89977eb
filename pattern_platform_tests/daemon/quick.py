"""``dagster-daemon`` whose loops pause for a second or two.

Backfills are looked at every 30 s, sensors every 5 s, and no setting changes that: five days in their order would take
two and a half minutes. Nothing but the pauses is changed; the long forms of the tests run the program as it is.
"""

from dagster._daemon import asset_daemon, controller, sensor
from dagster._daemon.cli import main

controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
asset_daemon.MIN_INTERVAL_LOOP_SECONDS = 1
sensor.MIN_INTERVAL_LOOP_TIME = 2

if __name__ == "__main__":
    main()
