-- How far a bucket's stream had come.
SELECT last_sequence FROM hub_buckets WHERE stream = $1;
