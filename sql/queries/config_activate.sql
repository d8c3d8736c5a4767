-- A new activation, and the head that it makes.
WITH activation AS (
    INSERT INTO config_activations
        (service_name, revision, version, action, activated_by, authenticated_as, comment, undo_revision, forced)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    RETURNING activated_at
)
UPDATE config_heads
SET revision = $2, version = $3, last_version = greatest(last_version, coalesce($3, 0)), updated_at = activation.activated_at,
    pushed_revision = CASE WHEN $10 THEN $2 ELSE pushed_revision END,
    pushed_version = CASE WHEN $10 THEN $3 ELSE pushed_version END,
    pushed_at = CASE WHEN $10 THEN activation.activated_at ELSE pushed_at END
FROM activation
WHERE service_name = $1;
