-- Removes up to $3 transitions that others replaced $2 days ago, while $1 leads: what held at that moment stays.
WITH removed AS (
    DELETE FROM status_transitions
    WHERE id = ANY (ARRAY(
        SELECT id FROM status_transitions
        WHERE at < statement_timestamp() - $2::integer * interval '1 day'
          AND until < statement_timestamp() - $2::integer * interval '1 day'
        ORDER BY at
        LIMIT $3))
      AND EXISTS (SELECT FROM hub_leadership WHERE holder = $1 AND expires_at > clock_timestamp())
    RETURNING 1
)
SELECT count(*) AS removed FROM removed;
