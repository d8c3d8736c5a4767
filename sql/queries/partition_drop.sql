-- Drops the oldest partition of health_metrics that ended $2 days ago, while $1 leads; NULL: there is none.
SELECT drop_health_partition($2) AS dropped
FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp();
