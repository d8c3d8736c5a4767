-- Holds the lease for the rest of the transaction: no row when the token isn't in force. The lock keeps a take-over, and
-- the lease's next renewal, waiting until this transaction ended: from here on it waits for no other lock longer than $3.
SELECT set_config('lock_timeout', $3, true) FROM hub_leadership
WHERE holder = $1 AND token = $2 AND expires_at > clock_timestamp()
FOR SHARE;
