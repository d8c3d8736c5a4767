-- The interval that an instance was told last, by which its silence is judged: a new default reaches it with its next
-- heartbeat. NULL for one that hasn't been heard since this column came: then its own, or the default.
ALTER TABLE service_registry ADD COLUMN told_interval_seconds double precision;
