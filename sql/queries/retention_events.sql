-- Removes up to $3 published events that are older than $2 days, while $1 leads.
WITH removed AS (
    DELETE FROM hub_events
    WHERE id = ANY (ARRAY(
        SELECT id FROM hub_events
        WHERE at < statement_timestamp() - $2::integer * interval '1 day' AND published_at IS NOT NULL
        ORDER BY at
        LIMIT $3))
      AND EXISTS (SELECT FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp())
    RETURNING 1
)
SELECT count(*) AS removed FROM removed;
