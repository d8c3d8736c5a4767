-- A page of configs after a service.
SELECT h.service_name, h.version, h.revision, a.activated_at AS updated_at
FROM config_heads h
JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.revision
WHERE h.service_name > $1
ORDER BY h.service_name
LIMIT $2;
