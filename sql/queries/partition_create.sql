-- Makes the partition of health_metrics for the day that begins in $2 days, while $1 leads. True: made; false: it was there;
-- NULL: health_metrics_default holds too much of that day to be moved.
SELECT create_health_partition((clock_timestamp() AT TIME ZONE 'UTC')::date + $2::integer) AS made
FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp();
