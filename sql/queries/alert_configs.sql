-- Services of which live instances refused the config that they should run, or run an older one; and who of the latter has
-- beaten for three intervals ($1 seconds where an instance asked for none) since it could know. Of ids the first $2.
WITH instance AS (
    SELECT r.service_name, r.instance_id, r.config_error, h.pushed_revision AS revision,
           r.config_error IS NOT NULL AS rejected,
           r.config_error IS NULL AND r.config_revision < h.pushed_revision AS behind,
           r.last_heartbeat > greatest(h.pushed_at, r.registered_at)
               + 3 * coalesce(r.told_interval_seconds, r.heartbeat_interval_seconds, $1::double precision) * interval '1 second' AS had_time
    FROM service_registry r
    JOIN config_heads h ON h.service_name = r.service_name AND h.pushed_revision > 0
    WHERE r.status <> 'down'
)
SELECT service_name, revision,
       count(*) FILTER (WHERE rejected) AS rejected,
       (array_agg(instance_id ORDER BY instance_id) FILTER (WHERE rejected))[1:$2] AS rejected_ids,
       (array_agg(config_error ORDER BY instance_id) FILTER (WHERE rejected))[1] AS error,
       count(*) FILTER (WHERE behind) AS behind,
       (array_agg(instance_id ORDER BY instance_id) FILTER (WHERE behind))[1:$2] AS behind_ids,
       count(*) FILTER (WHERE behind AND had_time) AS late,
       (array_agg(instance_id ORDER BY instance_id) FILTER (WHERE behind AND had_time))[1:$2] AS late_ids
FROM instance
GROUP BY service_name, revision
HAVING bool_or(rejected OR behind);
