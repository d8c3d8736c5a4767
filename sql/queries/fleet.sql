-- The fleet at a glance. A service is as well as its best instance. A config has not converged while a live instance
-- refused it, runs another revision or didn't say which (as config_status.sql's rows are judged); the first $1 of those.
WITH service AS (
    SELECT service_name, min(CASE status WHEN 'healthy' THEN 0 WHEN 'degraded' THEN 1 ELSE 2 END) AS best,
           count(*) AS instances,
           count(*) FILTER (WHERE status = 'healthy') AS healthy,
           count(*) FILTER (WHERE status = 'degraded') AS degraded,
           count(*) FILTER (WHERE status = 'down') AS down,
           count(*) FILTER (WHERE draining) AS draining
    FROM service_registry
    GROUP BY service_name
), services AS (
    SELECT count(*) AS total,
           count(*) FILTER (WHERE best = 0) AS healthy,
           count(*) FILTER (WHERE best = 1) AS degraded,
           count(*) FILTER (WHERE best = 2) AS down,
           coalesce(sum(instances), 0)::bigint AS instances_total,
           coalesce(sum(healthy), 0)::bigint AS instances_healthy,
           coalesce(sum(degraded), 0)::bigint AS instances_degraded,
           coalesce(sum(down), 0)::bigint AS instances_down,
           coalesce(sum(draining), 0)::bigint AS draining
    FROM service
), alerts AS (
    SELECT count(*) FILTER (WHERE severity = 'critical') AS critical,
           count(*) FILTER (WHERE severity = 'warning') AS warning,
           count(*) FILTER (WHERE severity = 'info') AS info,
           count(*) FILTER (WHERE acked_at IS NOT NULL) AS acked
    FROM hub_alerts
    WHERE resolved_at IS NULL
), behind AS (
    SELECT h.service_name
    FROM config_heads h
    WHERE h.revision > 0 AND EXISTS (
        SELECT FROM service_registry r
        WHERE r.service_name = h.service_name AND r.status <> 'down'
          AND (r.config_error IS NOT NULL OR r.config_revision IS DISTINCT FROM h.revision))
)
SELECT services.*, alerts.*,
       (SELECT count(*) FROM config_heads WHERE version IS NOT NULL) AS configs,
       (SELECT count(*) FROM behind) AS not_converged,
       ARRAY(SELECT service_name FROM behind ORDER BY service_name LIMIT $1) AS behind
FROM services CROSS JOIN alerts;
