-- How many events are committed and not yet published.
SELECT count(*) FROM hub_events WHERE published_at IS NULL;
