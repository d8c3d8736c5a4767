-- Makes the day partitions of health_metrics ahead of time.
SELECT create_health_partitions($1);
