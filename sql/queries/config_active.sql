-- What is in force for these services, and whether the instances are to run it already: a head without a version is a
-- tombstone.
SELECT h.service_name, h.revision, h.version, a.activated_at AS updated_at, m.epoch,
       c.config_data::text AS config, c.checksum, c.created_by, c.created_at, c.comment,
       a.activated_by, h.pushed_revision = h.revision AS pushed
FROM config_heads h
CROSS JOIN hub_meta m
JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.revision
LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.version = h.version
WHERE h.service_name = ANY ($1) AND h.revision > 0
  -- Only a TRUNCATE or a DELETE by hand can take away what stands here: then there is none.
  AND (h.version IS NULL OR c.version IS NOT NULL);
