-- A new activation, and the head that it makes.
WITH activation AS (
    INSERT INTO config_activations (service_name, revision, version, action, activated_by, comment)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING activated_at
)
UPDATE config_heads
SET revision = $2, version = $3, last_version = greatest(last_version, $3), updated_at = activation.activated_at
FROM activation
WHERE service_name = $1;
