-- One version of a config, with its latest activation.
SELECT c.version, c.active, c.config_data::text AS config, c.checksum, c.created_by, c.created_at, c.comment, m.epoch,
       (SELECT max(a.revision) FROM config_activations a WHERE a.service_name = c.service_name AND a.version = c.version) AS revision
FROM service_configs c CROSS JOIN hub_meta m
WHERE c.service_name = $1 AND c.version = $2;
