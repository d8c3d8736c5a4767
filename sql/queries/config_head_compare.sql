-- What is in force for a service, after config_head_lock.sql, and whether the new content is the same.
SELECT h.revision, h.version, h.last_version, octet_length($2::text::jsonb::text) AS size_bytes,
       coalesce(c.config_data::text = $2::text::jsonb::text, false) AS same_content, m.epoch
FROM config_heads h
CROSS JOIN hub_meta m
LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.active
WHERE h.service_name = $1;
