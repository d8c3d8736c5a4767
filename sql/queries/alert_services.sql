-- Services of which an instance in use isn't well, or flaps: changed its status three times within a window of $1 seconds,
-- the third time in the last window; where an alert tells of it already, in the last two, and once in the last. What flaps
-- and hasn't had its status for $2 seconds is healthy at the least (least_…), and at the most (most_…) as it was at its
-- worst within the window. Of ids the first $3.
WITH told AS (
    SELECT name FROM hub_alerts WHERE resolved_at IS NULL AND kind = 'flapping'
), change AS (
    SELECT name, instance_id, status, at,
           at - lag(at, 2) OVER (PARTITION BY name, instance_id ORDER BY at, id) AS three_take,
           max(at) OVER (PARTITION BY name, instance_id) AS last
    FROM status_transitions
    WHERE subject = 'instance' AND previous IS NOT NULL AND status <> 'gone'
      AND at > now() - 2 * $1::double precision * interval '1 second'
), flapping AS MATERIALIZED (
    SELECT name, instance_id,
           count(*) FILTER (WHERE at > last - $1 * interval '1 second') AS changes, max(at) AS last_change,
           max(status_rank(status)) FILTER (WHERE at > now() - $1 * interval '1 second') AS worst
    FROM change
    GROUP BY name, instance_id
    HAVING max(at) > now() - $1 * interval '1 second'
       AND bool_or(three_take <= $1 * interval '1 second' AND (at > now() - $1 * interval '1 second' OR name IN (TABLE told)))
), troubled AS MATERIALIZED (
    SELECT service_name FROM service_registry WHERE status <> 'healthy' AND NOT draining
    UNION
    SELECT name FROM flapping
), instance AS (
    SELECT r.service_name, r.instance_id, f.changes, f.last_change, status_rank(r.status) AS rank,
           CASE WHEN f.changes IS NULL OR r.status_since < now() - $2::double precision * interval '1 second'
                THEN status_rank(r.status) ELSE 1 END AS least,
           greatest(status_rank(r.status), f.worst) AS most
    FROM service_registry r
    JOIN troubled USING (service_name)
    LEFT JOIN flapping f ON f.name = r.service_name AND f.instance_id = r.instance_id
    WHERE NOT r.draining
    -- So that the lists below are in order.
    ORDER BY r.service_name, r.instance_id
)
SELECT service_name, count(*) AS in_use,
       count(*) FILTER (WHERE rank = 3) AS down, count(*) FILTER (WHERE rank = 2) AS degraded,
       count(*) FILTER (WHERE least = 3) AS least_down, count(*) FILTER (WHERE least = 2) AS least_degraded,
       count(*) FILTER (WHERE most = 3) AS most_down, count(*) FILTER (WHERE most = 2) AS most_degraded,
       count(changes) AS flapping, max(changes) AS changes, max(last_change) AS last_change,
       (array_agg(instance_id) FILTER (WHERE rank = 3))[1:$3] AS down_ids,
       (array_agg(instance_id) FILTER (WHERE rank = 2))[1:$3] AS degraded_ids,
       (array_agg(instance_id) FILTER (WHERE changes IS NOT NULL))[1:$3] AS flapping_ids
FROM instance
GROUP BY service_name
HAVING max(most) > 1 OR count(changes) > 0;
