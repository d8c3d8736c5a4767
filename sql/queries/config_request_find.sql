-- The answer that a request with this id got within ten minutes, and whether its body was this one.
SELECT answer, body_hash = sha256($3) AS same_body
FROM config_requests
WHERE subject = $1 AND request_id = $2 AND at > clock_timestamp() - interval '10 minutes';
