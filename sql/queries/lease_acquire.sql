-- Takes or renews the lease; no row when another holds it. A lease that ran out, even one's own, gives a new token.
INSERT INTO hub_leadership AS l (holder, token, expires_at)
VALUES ($1, 1, clock_timestamp() + $2::double precision * interval '1 second')
ON CONFLICT (singleton) DO UPDATE SET
    holder = $1,
    token = CASE WHEN l.holder = $1 AND l.expires_at > clock_timestamp() THEN l.token ELSE l.token + 1 END,
    expires_at = clock_timestamp() + $2::double precision * interval '1 second'
WHERE l.holder = $1 OR l.expires_at <= clock_timestamp()
RETURNING token;
