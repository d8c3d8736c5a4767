-- Removes up to $3 checks of infrastructure that are older than $2 days, while $1 leads.
WITH removed AS (
    DELETE FROM infrastructure_status
    WHERE id = ANY (ARRAY(
        SELECT id FROM infrastructure_status
        WHERE checked_at < statement_timestamp() - $2::integer * interval '1 day'
        ORDER BY checked_at
        LIMIT $3))
      AND EXISTS (SELECT FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp())
    RETURNING 1
)
SELECT count(*) AS removed FROM removed;
