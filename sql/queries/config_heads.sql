-- What the instances of these services should run.
SELECT h.service_name, h.pushed_revision AS revision, h.pushed_version AS version, m.epoch
FROM config_heads h CROSS JOIN hub_meta m
WHERE h.service_name = ANY ($1) AND h.pushed_revision > 0;
