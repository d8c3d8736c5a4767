-- What was committed is what instances are to run from now on: after a write by hand, and ($1: one is on) at the end of a
-- change freeze, which never holds for the hub's own config. A row that somebody is about to change has its turn later.
UPDATE config_heads h
SET pushed_revision = h.revision, pushed_version = h.version, updated_at = clock_timestamp(), pushed_at = clock_timestamp()
FROM (
    SELECT service_name FROM config_heads
    WHERE pushed_revision <> revision AND (NOT $1 OR service_name = 'central-hub')
    ORDER BY service_name
    FOR NO KEY UPDATE SKIP LOCKED
) due
WHERE h.service_name = due.service_name
RETURNING h.service_name, h.revision, h.version;
