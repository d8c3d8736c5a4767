-- Activations before a revision (all when it is NULL), newest first.
SELECT revision, version, action, activated_by, authenticated_as, activated_at, comment, forced
FROM config_activations
WHERE service_name = $1 AND ($2::bigint IS NULL OR revision < $2)
ORDER BY revision DESC
LIMIT $3;
