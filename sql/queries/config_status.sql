-- What the instances of a service say that they run, beside what they should.
SELECT r.instance_id, r.status, r.config_version, r.config_revision, r.config_error, r.config_reported_at,
       r.registered_at, r.last_heartbeat
FROM service_registry r
WHERE r.service_name = $1 AND r.status <> 'down'
ORDER BY r.instance_id;
