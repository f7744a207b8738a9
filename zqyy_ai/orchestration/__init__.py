"""The only room that knows Dagster: assets, partitions, jobs, sensors, schedules, checks, resources."""
