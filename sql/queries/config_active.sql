-- What is in force for these services: a head without a version is a tombstone.
SELECT h.service_name, h.revision, h.version, h.updated_at, m.epoch,
       c.config_data::text AS config, c.checksum, c.created_by, c.created_at, c.comment,
       a.activated_by
FROM config_heads h
CROSS JOIN hub_meta m
JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.revision
LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.version = h.version
WHERE h.service_name = ANY ($1) AND h.revision > 0;
