-- What the instances of these services are to run, where that is older than what is in force: in a change freeze, and for
-- a moment after a write by hand. As config_active.sql tells it.
SELECT h.service_name, h.pushed_revision AS revision, h.pushed_version AS version, a.activated_at AS updated_at, m.epoch,
       c.config_data::text AS config, c.checksum, c.created_by, c.created_at, c.comment,
       a.activated_by, true AS pushed
FROM config_heads h
CROSS JOIN hub_meta m
JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.pushed_revision
LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.version = h.pushed_version
WHERE h.service_name = ANY ($1) AND h.pushed_revision > 0
  -- Only a TRUNCATE or a DELETE by hand can take away what stands here: then there is none.
  AND (h.pushed_version IS NULL OR c.version IS NOT NULL);
