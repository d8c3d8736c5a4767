-- Newest activations of these services.
SELECT h.service_name, h.revision, h.version, m.epoch FROM config_heads h CROSS JOIN hub_meta m WHERE service_name = ANY ($1) AND revision > 0;
