-- Undoes config_head_lock.sql for a service that has no config: a dry run, or a schema, leaves none behind.
DELETE FROM config_heads WHERE service_name = $1 AND revision = 0 AND last_version = 0;
