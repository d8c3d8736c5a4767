-- Takes or renews the lease; no row when another holds it. A lease that ran out, even one's own, gives a new token. One
-- that would last for over twice its duration ($2) was written before the clock stepped back, and counts as run out.
INSERT INTO hub_leadership AS l (holder, token, expires_at)
VALUES ($1, 1, clock_timestamp() + $2::double precision * interval '1 second')
ON CONFLICT (singleton) DO UPDATE SET
    holder = $1,
    token = CASE WHEN l.holder = $1 AND l.expires_at > clock_timestamp() THEN l.token ELSE l.token + 1 END,
    expires_at = clock_timestamp() + $2::double precision * interval '1 second'
WHERE l.holder = $1 OR l.expires_at <= clock_timestamp()
   OR l.expires_at > clock_timestamp() + 2 * $2::double precision * interval '1 second'
RETURNING token;
