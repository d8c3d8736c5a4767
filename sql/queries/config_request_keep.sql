-- Keeps an answer for whoever sends the same request again.
INSERT INTO config_requests (subject, request_id, body_hash, answer)
VALUES ($1, $2, sha256($3), $4)
ON CONFLICT (subject, request_id) DO UPDATE SET body_hash = excluded.body_hash, answer = excluded.answer, at = excluded.at;
