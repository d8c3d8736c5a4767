-- One replica at a time moves a bucket's stream on: the lock ends with the connection. The key is "seq" in ASCII.
SELECT pg_advisory_lock(7562609);
