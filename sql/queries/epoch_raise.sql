-- Raises the epoch above $1, once for each piece of evidence; when $3, also not again within five minutes: instances go
-- on telling of what they ran before until they took what is in force now.
UPDATE hub_meta
SET epoch = greatest(epoch, $1, floor(extract(epoch FROM clock_timestamp()))::bigint - 1) + 1,
    epoch_evidence = $2,
    epoch_raised_at = clock_timestamp()
WHERE epoch_evidence IS DISTINCT FROM $2
  AND NOT ($3 AND coalesce(epoch_raised_at > clock_timestamp() - interval '5 minutes', false))
RETURNING epoch;
