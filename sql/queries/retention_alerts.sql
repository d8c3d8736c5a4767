-- Removes up to $3 alerts that were over $2 days ago and silence nothing any more, while $1 leads.
WITH removed AS (
    DELETE FROM hub_alerts
    WHERE id = ANY (ARRAY(
        SELECT id FROM hub_alerts
        WHERE resolved_at < statement_timestamp() - $2::integer * interval '1 day'
          AND raised_at < statement_timestamp() - $2::integer * interval '1 day'
          AND coalesce(silenced_until, '-infinity') < statement_timestamp()
        ORDER BY raised_at
        LIMIT $3))
      AND EXISTS (SELECT FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp())
    RETURNING 1
)
SELECT count(*) AS removed FROM removed;
