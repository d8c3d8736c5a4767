-- The epoch, and what changes when the data may have gone back: the server was started or is another one, the database or
-- the table was made anew.
SELECT m.epoch, concat_ws(' ', pg_postmaster_start_time(), d.oid, pg_relation_filenode('hub_meta')) AS database
FROM hub_meta m JOIN pg_database d ON d.datname = current_database();
