-- The whole life of a config: undo, schemas, idempotent requests, writes by hand, and a database that went back.

-- The activation that a rollback without argument goes back to: the undo stack, as a list through the activations.
ALTER TABLE config_activations ADD COLUMN undo_revision bigint;
ALTER TABLE config_activations ADD COLUMN forced boolean NOT NULL DEFAULT false;

-- What the instances should run: the newest activation, but for a change freeze.
ALTER TABLE config_heads ADD COLUMN pushed_revision bigint NOT NULL DEFAULT 0;
ALTER TABLE config_heads ADD COLUMN pushed_version bigint;
UPDATE config_heads SET pushed_revision = revision, pushed_version = version;

-- JSON pointers that the writer vouched for, although they look like secrets.
ALTER TABLE service_configs ADD COLUMN not_secret jsonb;

-- What a service's configs must look like.
CREATE TABLE config_schemas (
    service_name text        PRIMARY KEY,
    schema       jsonb       NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What an instance can read, and since when it runs what it says.
ALTER TABLE service_registry ADD COLUMN config_schema jsonb;
ALTER TABLE service_registry ADD COLUMN config_reported_at timestamptz;

-- Answers to requests that carried an id: the same id again gets the same answer and does nothing twice.
CREATE TABLE config_requests (
    subject    text        NOT NULL,
    request_id text        NOT NULL,
    body_hash  bytea       NOT NULL,
    answer     jsonb       NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, request_id)
);
CREATE INDEX config_requests_by_time ON config_requests (at);

-- What needs a person's attention, until it is over. One row at a time per severity, source, name and subject.
CREATE TABLE hub_alerts (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    severity     text        NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    source       text        NOT NULL,
    name         text        NOT NULL,
    instance_id  text        NOT NULL DEFAULT '',
    message      text        NOT NULL,
    details      jsonb       NOT NULL DEFAULT '{}',
    raised_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at  timestamptz
);
CREATE UNIQUE INDEX hub_alerts_one_active ON hub_alerts (source, name, instance_id) WHERE resolved_at IS NULL;

-- How far each bucket's stream had come: a stream that is behind was recreated or restored, and watchers of the old one
-- would stay silent until the new one passes what they had seen.
CREATE TABLE hub_buckets (
    stream        text   PRIMARY KEY,
    last_sequence bigint NOT NULL
);

-- By what the database is recognised: another system, or another timeline, means that it may have gone back.
ALTER TABLE hub_meta ADD COLUMN system_identifier text;
ALTER TABLE hub_meta ADD COLUMN timeline integer;
-- The evidence for which the epoch was raised last, so that one claim raises it once.
ALTER TABLE hub_meta ADD COLUMN epoch_evidence text;
ALTER TABLE hub_meta ADD COLUMN epoch_raised_at timestamptz;

-- Writes by hand. The hub's own connections say who they are (central_hub.writer); anybody else is an operator, whose
-- row gets its number, its activation, its event and its push here.
ALTER TABLE service_configs ALTER COLUMN active SET DEFAULT true;

CREATE FUNCTION is_operator() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('central_hub.writer', true), '') <> 'hub'
$$;

CREATE FUNCTION prepare_config_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT is_operator() OR pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.config_data, NEW.version, NEW.service_name)
            IS DISTINCT FROM (OLD.config_data, OLD.version, OLD.service_name) THEN
        RAISE EXCEPTION 'a config version is immutable: insert a new one'
            USING HINT = 'INSERT INTO service_configs (service_name, config_data) VALUES (...)';
    END IF;
    IF NEW.service_name !~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$' THEN
        RAISE EXCEPTION 'a service name is 1 to 100 of A-Z a-z 0-9 _ - and begins with a letter or a digit';
    END IF;
    INSERT INTO config_heads (service_name) VALUES (NEW.service_name) ON CONFLICT DO NOTHING;
    SELECT last_version INTO last FROM config_heads WHERE service_name = NEW.service_name FOR UPDATE;
    IF TG_OP = 'INSERT' THEN
        NEW.version := coalesce(NEW.version, last + 1);
        IF NEW.version <> last + 1 THEN
            RAISE EXCEPTION 'the next version of % is %', NEW.service_name, last + 1
                USING HINT = 'leave version out: it is numbered by itself';
        END IF;
        IF NEW.created_by = 'unknown' THEN
            NEW.created_by := 'sql:' || session_user;
        END IF;
        UPDATE config_heads SET last_version = NEW.version WHERE service_name = NEW.service_name;
    END IF;
    IF NEW.active THEN
        UPDATE service_configs SET active = false
        WHERE service_name = NEW.service_name AND active AND version <> NEW.version;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER service_configs_by_hand BEFORE INSERT OR UPDATE ON service_configs
    FOR EACH ROW EXECUTE FUNCTION prepare_config_by_hand();

CREATE FUNCTION activate_config_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head   config_heads;
    now_by text := 'sql:' || session_user;
    what   text;
    next   bigint;
    active bigint;
BEGIN
    IF NOT is_operator() OR pg_trigger_depth() > 1 THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' AND NOT NEW.active OR TG_OP = 'UPDATE' AND NEW.active = OLD.active THEN
        RETURN NULL;
    END IF;
    SELECT * INTO head FROM config_heads WHERE service_name = NEW.service_name FOR UPDATE;
    what := CASE WHEN NOT NEW.active THEN 'deleted' WHEN TG_OP = 'INSERT' THEN 'published' ELSE 'rolled_back' END;
    active := CASE WHEN NEW.active THEN NEW.version END;
    next := head.revision + 1;
    INSERT INTO config_activations (service_name, revision, version, action, activated_by, comment, undo_revision)
    VALUES (NEW.service_name, next, active, what, now_by, NEW.comment, nullif(head.revision, 0));
    UPDATE config_heads SET revision = next, version = active, updated_at = clock_timestamp()
    WHERE service_name = NEW.service_name;
    INSERT INTO hub_events (topic, kind, service_name, details, origin)
    SELECT 'config', what, NEW.service_name, jsonb_build_object(
        'version', active, 'revision', next, 'epoch', m.epoch, 'replaces', head.version,
        'by', now_by, 'comment', NEW.comment), 'sql'
    FROM hub_meta m;
    RETURN NULL;
END $$;

CREATE TRIGGER service_configs_activate_by_hand AFTER INSERT OR UPDATE ON service_configs
    FOR EACH ROW EXECUTE FUNCTION activate_config_by_hand();

CREATE FUNCTION keep_active_config() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this version of % is active: activate another one first, or set active = false', OLD.service_name;
END $$;

CREATE TRIGGER service_configs_keep_active BEFORE DELETE ON service_configs
    FOR EACH ROW WHEN (OLD.active) EXECUTE FUNCTION keep_active_config();
