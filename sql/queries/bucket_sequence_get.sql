-- How far a bucket's stream had come when it was last noted, and when the epoch was raised, in milliseconds.
SELECT (SELECT last_sequence FROM hub_buckets WHERE stream = $1) AS last_sequence,
       floor(extract(epoch FROM epoch_raised_at) * 1000)::bigint AS raised_ms
FROM hub_meta;
