-- Removes up to $3 heartbeats that are older than $2 days and for whose day there was no partition, while $1 leads.
WITH removed AS (
    DELETE FROM health_metrics_default
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM health_metrics_default
        WHERE timestamp < statement_timestamp() - $2::integer * interval '1 day'
        LIMIT $3))
      AND EXISTS (SELECT FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp())
    RETURNING 1
)
SELECT count(*) AS removed FROM removed;
