-- How many events are committed and not yet published.
SELECT count(*) AS pending FROM hub_events WHERE published_at IS NULL;
