-- Raises the epoch above $2 and to the clock, if it still is $1, against which the evidence was held: so each piece of
-- evidence counts once. What an instance ($4, $5) tells of what it runs counts only if it is news, and not within five
-- minutes of another raise: instances go on telling of what they ran before until they took what is in force now.
UPDATE hub_meta m
SET epoch = greatest(m.epoch, $2, floor(extract(epoch FROM clock_timestamp()))::bigint - 1) + 1,
    epoch_evidence = $3,
    epoch_raised_at = clock_timestamp()
WHERE m.epoch = $1
  AND ($4::text IS NULL OR m.epoch_raised_at IS NULL
       OR m.epoch_raised_at < clock_timestamp() - interval '5 minutes'
          AND EXISTS (SELECT FROM service_registry r
                      WHERE r.service_name = $4 AND r.instance_id = $5 AND r.config_reported_at > m.epoch_raised_at))
RETURNING epoch;
