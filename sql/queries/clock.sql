-- Postgres' clock, which decides liveness; also the cheapest question.
SELECT clock_timestamp() AS now;
