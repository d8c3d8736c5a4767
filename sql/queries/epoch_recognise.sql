-- Notes by what this database is recognised, and raises the epoch when it was another one before: restored into another
-- system, or promoted. (The timeline of the next WAL, since the control file learns of a promotion later.)
UPDATE hub_meta m
SET epoch = CASE WHEN m.system_identifier IS NULL THEN m.epoch
                 ELSE greatest(m.epoch + 1, floor(extract(epoch FROM clock_timestamp()))::bigint) END,
    epoch_raised_at = CASE WHEN m.system_identifier IS NULL THEN m.epoch_raised_at ELSE clock_timestamp() END,
    system_identifier = s.system_identifier::text,
    timeline = t.timeline
FROM pg_control_system() s,
     (SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline) t,
     hub_meta before
WHERE (m.system_identifier, m.timeline) IS DISTINCT FROM (s.system_identifier::text, t.timeline)
RETURNING m.epoch, before.system_identifier IS NOT NULL AS raised;
