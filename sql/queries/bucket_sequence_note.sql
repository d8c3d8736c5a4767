-- Notes how far a bucket's stream has come.
INSERT INTO hub_buckets (stream, last_sequence) VALUES ($1, $2)
ON CONFLICT (stream) DO UPDATE SET last_sequence = excluded.last_sequence
WHERE hub_buckets.last_sequence < excluded.last_sequence;
