-- A page of names, after $2, of the services or components that were there within the last $3 seconds. Steps from name to
-- name, however long the history of each is.
WITH RECURSIVE step AS (
    (SELECT name FROM status_transitions WHERE subject = $1 AND name > $2 ORDER BY name LIMIT 1)
    UNION ALL
    SELECT (SELECT t.name FROM status_transitions t WHERE t.subject = $1 AND t.name > step.name ORDER BY t.name LIMIT 1)
    FROM step WHERE step.name IS NOT NULL
)
SELECT step.name FROM step
WHERE step.name IS NOT NULL AND EXISTS (
    SELECT FROM status_transitions t
    WHERE t.subject = $1 AND t.name = step.name
      AND t.until > statement_timestamp() - $3::double precision * interval '1 second')
LIMIT $4;
