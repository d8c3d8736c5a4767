-- These events are on the stream, and KV has what they changed: its streams ($2) have come as far as $3.
WITH noted AS (
    INSERT INTO hub_buckets (stream, last_sequence)
    SELECT * FROM unnest($2::text[], $3::bigint[]) AS b (stream, last_sequence) ORDER BY b.stream
    ON CONFLICT (stream) DO UPDATE SET last_sequence = excluded.last_sequence
    WHERE hub_buckets.last_sequence < excluded.last_sequence
)
UPDATE hub_events SET published_at = clock_timestamp() WHERE id = ANY ($1) AND published_at IS NULL;
