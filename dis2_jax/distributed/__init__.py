"""Several processes as one job: start-up, agreement, joint errors, the watchdog."""
