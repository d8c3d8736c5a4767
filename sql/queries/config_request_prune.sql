-- Forgets answers that nobody may ask for any more.
DELETE FROM config_requests WHERE at < clock_timestamp() - interval '10 minutes';
