-- Transitions that held at some time within the last $3 seconds, of each of the services or components $2 (one row without
-- any where there are none), in the order of time; only of the instance $4 unless it is NULL. `known`: others were over
-- before that.
WITH wanted AS MATERIALIZED (
    SELECT n.name, n.position, EXISTS (
        SELECT FROM status_transitions t
        WHERE t.subject = $1 AND t.name = n.name AND ($4::text IS NULL OR t.instance_id = $4)
          AND t.until <= statement_timestamp() - $3::double precision * interval '1 second') AS known
    FROM unnest($2::text[]) WITH ORDINALITY AS n (name, position)
)
SELECT w.name, w.known, t.instance_id, t.status, t.at, statement_timestamp() AS now
FROM wanted w
LEFT JOIN status_transitions t
    ON t.subject = $1 AND t.name = w.name AND ($4::text IS NULL OR t.instance_id = $4)
   AND t.until > statement_timestamp() - $3::double precision * interval '1 second'
   AND t.at < statement_timestamp()
ORDER BY w.position, t.at, t.id
LIMIT $5;
