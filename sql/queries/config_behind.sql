-- Live instances that run an older config than they should, although they have beaten three times since it is due, or
-- since they registered.
SELECT r.service_name, r.instance_id, r.config_revision, h.pushed_revision AS revision
FROM service_registry r
JOIN config_heads h ON h.service_name = r.service_name
WHERE r.status <> 'down' AND r.config_revision < h.pushed_revision
  AND r.last_heartbeat > greatest(h.updated_at, r.registered_at)
        + 3 * coalesce(r.heartbeat_interval_seconds, $1) * interval '1 second';
