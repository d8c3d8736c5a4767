-- Holds the lease for the rest of the transaction: no row when the token isn't in force. The lock keeps a take-over
-- waiting until this transaction ended.
SELECT FROM hub_leadership
WHERE holder = $1 AND token = $2 AND expires_at > clock_timestamp()
FOR SHARE;
