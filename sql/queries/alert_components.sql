-- Infrastructure components that aren't well, or flap: as in alert_services.sql. What can't be checked is taken for healthy.
WITH told AS (
    SELECT name FROM hub_alerts WHERE resolved_at IS NULL AND kind = 'flapping'
), change AS (
    SELECT name, status, at, at - lag(at, 2) OVER (PARTITION BY name ORDER BY at, id) AS three_take,
           max(at) OVER (PARTITION BY name) AS last
    FROM status_transitions
    WHERE subject = 'component' AND status_rank(status) IS NOT NULL AND status_rank(previous) IS NOT NULL
      AND at > now() - 2 * $1::double precision * interval '1 second'
), flapping AS (
    SELECT name,
           count(*) FILTER (WHERE at > last - $1 * interval '1 second') AS changes, max(at) AS last_change,
           max(status_rank(status)) FILTER (WHERE at > now() - $1 * interval '1 second') AS worst
    FROM change
    GROUP BY name
    HAVING max(at) > now() - $1 * interval '1 second'
       AND bool_or(three_take <= $1 * interval '1 second' AND (at > now() - $1 * interval '1 second' OR name IN (TABLE told)))
)
SELECT c.component_name AS service_name, c.kind, c.critical, c.error_message, f.changes, f.last_change,
       status_rank(c.status) AS rank,
       CASE WHEN f.changes IS NULL OR c.status_since < now() - $2::double precision * interval '1 second'
            THEN status_rank(c.status) ELSE 1 END AS least,
       greatest(status_rank(c.status), f.worst) AS most
FROM infrastructure_components c
LEFT JOIN flapping f ON f.name = c.component_name
WHERE status_rank(c.status) > 1 OR c.status = 'healthy' AND f.changes IS NOT NULL;
