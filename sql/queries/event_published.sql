-- These events are on the stream, and KV has what they changed.
UPDATE hub_events SET published_at = clock_timestamp() WHERE id = ANY ($1) AND published_at IS NULL;
