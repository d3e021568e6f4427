"""The loop, and what it stands on: optimizer, schedule, checkpoints, devices, journal."""
