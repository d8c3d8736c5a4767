-- All that a write is decided by, after config_head_lock.sql.
SELECT h.revision, h.version, h.last_version, m.epoch,
       a.undo_revision, u.version AS undo_version, u.undo_revision AS undo_below,
       c.config_data::text AS active_config, c.not_secret, s.schema
FROM config_heads h
CROSS JOIN hub_meta m
LEFT JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.revision
LEFT JOIN config_activations u ON u.service_name = h.service_name AND u.revision = a.undo_revision
LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.active
LEFT JOIN config_schemas s ON s.service_name = h.service_name
WHERE h.service_name = $1;
