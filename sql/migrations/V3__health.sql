-- Health that people believe: status history, infrastructure, alerts with causes, held expiries, retention.

-- Statuses from best to worst, to compare them; NULL for what is none ('unknown', 'gone').
CREATE FUNCTION status_rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['healthy', 'degraded', 'down'], status)
$$;

-- Every change of a status: from these uptime is computed, exactly. Written by triggers, so that nothing, not even a
-- hand at the SQL prompt, changes a status without one.
CREATE TABLE status_transitions (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject     text        NOT NULL CHECK (subject IN ('instance', 'component')),
    -- Service of the instance, or the component.
    name        text        NOT NULL,
    -- Empty for a component.
    instance_id text        NOT NULL DEFAULT '',
    -- 'gone': the record was removed. 'unknown': a component that can't be probed.
    status      text        NOT NULL CHECK (status IN ('healthy', 'degraded', 'down', 'gone', 'unknown')),
    -- The status before; NULL where the record is new.
    previous    text,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When the next one replaced it: what held at a moment has at <= moment < until. Kept by a trigger.
    until       timestamptz NOT NULL DEFAULT 'infinity'
);
CREATE INDEX status_transitions_by_time ON status_transitions (at);
CREATE INDEX status_transitions_by_end ON status_transitions (subject, name, until, instance_id);

-- Ends the transition that the new one replaces; also when it is written late, before others. Nothing holds once a
-- record is gone. (`|| ''` and `+ '0'` leave each statement one index to choose: on a young table, which has no statistics
-- yet, the planner would cache a plan that reads all instances of the service.)
CREATE FUNCTION end_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    next timestamptz;
BEGIN
    SELECT coalesce(min(at), 'infinity') INTO next FROM status_transitions
    WHERE at > NEW.at AND subject || '' = NEW.subject AND name || '' = NEW.name AND instance_id || '' = NEW.instance_id;
    UPDATE status_transitions SET until = NEW.at
    WHERE subject = NEW.subject AND name = NEW.name AND until = next AND instance_id = NEW.instance_id
      AND at + interval '0' <= NEW.at AND status <> 'gone';
    NEW.until := CASE WHEN NEW.status = 'gone' THEN NEW.at ELSE next END;
    RETURN NEW;
END $$;
CREATE TRIGGER status_transitions_end BEFORE INSERT ON status_transitions
    FOR EACH ROW EXECUTE FUNCTION end_transition();

INSERT INTO status_transitions (subject, name, instance_id, status, at)
SELECT 'instance', service_name, instance_id, status, status_since FROM service_registry ORDER BY status_since;

CREATE FUNCTION note_instance_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO status_transitions (subject, name, instance_id, status, previous)
        VALUES ('instance', OLD.service_name, OLD.instance_id, 'gone', OLD.status);
    ELSE
        -- (OLD is NULL for a new record.)
        INSERT INTO status_transitions (subject, name, instance_id, status, previous)
        VALUES ('instance', NEW.service_name, NEW.instance_id, NEW.status, OLD.status);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER service_registry_appeared AFTER INSERT ON service_registry
    FOR EACH ROW EXECUTE FUNCTION note_instance_transition();
-- (A heartbeat that changes nothing but the time names no status in its UPDATE, so it never gets here.)
CREATE TRIGGER service_registry_changed AFTER UPDATE OF status ON service_registry
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_instance_transition();
CREATE TRIGGER service_registry_left AFTER DELETE ON service_registry
    FOR EACH ROW EXECUTE FUNCTION note_instance_transition();

-- The newest state of each infrastructure component; infrastructure_status has one row per check.
CREATE TABLE infrastructure_components (
    component_name   text             PRIMARY KEY,
    kind             text             NOT NULL,
    status           text             NOT NULL CHECK (status IN ('healthy', 'degraded', 'down', 'unknown')),
    status_since     timestamptz      NOT NULL DEFAULT clock_timestamp(),
    response_time_ms double precision,
    error_message    text,
    critical         boolean          NOT NULL DEFAULT false,
    checked_at       timestamptz      NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION note_component_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO status_transitions (subject, name, status, previous)
        VALUES ('component', OLD.component_name, 'gone', OLD.status);
    ELSE
        -- As of the check: one that couldn't be stored at once, because it was PostgreSQL that was down, is no younger.
        INSERT INTO status_transitions (subject, name, status, previous, at)
        VALUES ('component', NEW.component_name, NEW.status, OLD.status, NEW.checked_at);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER infrastructure_components_appeared AFTER INSERT ON infrastructure_components
    FOR EACH ROW EXECUTE FUNCTION note_component_transition();
CREATE TRIGGER infrastructure_components_changed AFTER UPDATE OF status ON infrastructure_components
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_component_transition();
CREATE TRIGGER infrastructure_components_left AFTER DELETE ON infrastructure_components
    FOR EACH ROW EXECUTE FUNCTION note_component_transition();

CREATE INDEX infrastructure_status_by_name ON infrastructure_status (component_name, checked_at);

-- What an alert is about, within its source and name ('down', 'flapping', 'behind', …); who saw it; what it is due to.
ALTER TABLE hub_alerts ADD COLUMN kind text NOT NULL DEFAULT '';
UPDATE hub_alerts SET kind = CASE WHEN instance_id = '' THEN 'forced' ELSE 'behind' END;
ALTER TABLE hub_alerts ALTER COLUMN kind DROP DEFAULT;
ALTER TABLE hub_alerts ADD COLUMN acked_at timestamptz;
ALTER TABLE hub_alerts ADD COLUMN acked_by text;
-- Until then the same alert, should it come again, is kept and not sent.
ALTER TABLE hub_alerts ADD COLUMN silenced_until timestamptz;
-- The service or component that most probably is behind it.
ALTER TABLE hub_alerts ADD COLUMN cause text;
DROP INDEX hub_alerts_one_active;
CREATE UNIQUE INDEX hub_alerts_one_active ON hub_alerts (source, kind, name, instance_id) WHERE resolved_at IS NULL;
CREATE INDEX hub_alerts_by_time ON hub_alerts (raised_at);
CREATE INDEX hub_alerts_by_name ON hub_alerts (name, id);
CREATE INDEX hub_alerts_by_end ON hub_alerts (resolved_at);
CREATE INDEX hub_alerts_silenced ON hub_alerts (source, kind, name, instance_id) WHERE silenced_until IS NOT NULL;

-- Whether an alert is to be kept and not sent: somebody silenced the same one, and it is no more severe than that was.
CREATE FUNCTION alert_is_silenced(alert_severity text, alert_source text, alert_kind text, alert_name text, alert_instance text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM hub_alerts s
        WHERE s.silenced_until > clock_timestamp()
          AND (s.source, s.kind, s.name, s.instance_id) = (alert_source, alert_kind, alert_name, alert_instance)
          AND array_position(ARRAY['critical', 'warning', 'info'], s.severity)
              <= array_position(ARRAY['critical', 'warning', 'info'], alert_severity))
$$;

-- Since when instances should run what they should: who lags behind is told from it. (Not since it was committed: a
-- change freeze may lie between.)
ALTER TABLE config_heads ADD COLUMN pushed_at timestamptz NOT NULL DEFAULT clock_timestamp();
UPDATE config_heads SET pushed_at = updated_at;

-- Mass expiries that the sweep holds back: of a service, or with an empty name of the whole fleet. In Postgres, so that a
-- change of leader doesn't make the hold any longer.
CREATE TABLE liveness_holds (
    service_name text        PRIMARY KEY,
    instances    integer     NOT NULL,
    since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    until        timestamptz NOT NULL
);

-- The timeline, newest first.
CREATE INDEX hub_events_by_time ON hub_events (at, id);

-- Makes the partition of a day (UTC) of health_metrics, and moves there what the default partition holds of that day.
-- True when it was made; false when it is there already; NULL when the default partition holds too much of that day:
-- the rows stay there. Attaching holds up no heartbeat but those of that day; what waits for a reader of
-- health_metrics gives up at once, since all others would wait behind it.
DROP FUNCTION create_health_partitions(integer);
CREATE FUNCTION create_health_partition(day date) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    partition text        := 'health_metrics_' || to_char(day, 'YYYYMMDD');
    begins    timestamptz := day::timestamp AT TIME ZONE 'UTC';
    ends      timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY health_metrics IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE health_metrics_default IN ACCESS EXCLUSIVE MODE;
    -- Moved within a fraction of a second.
    IF (SELECT count(*) > 20000 FROM (
            SELECT FROM health_metrics_default WHERE timestamp >= begins AND timestamp < ends LIMIT 20001) AS early) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE health_metrics INCLUDING DEFAULTS)', partition);
    EXECUTE format('WITH early AS (DELETE FROM health_metrics_default WHERE timestamp >= %L AND timestamp < %L RETURNING *)
                    INSERT INTO %I SELECT * FROM early', begins, ends, partition);
    EXECUTE format('ALTER TABLE health_metrics ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   partition, begins, ends);
    RETURN true;
END $$;

-- Drops the oldest day's partition of health_metrics that ended the given number of days ago, and tells its name; NULL
-- when there is none. Needs health_metrics for itself for a moment: it gives up at once when somebody reads, since all
-- heartbeats would wait behind it.
CREATE FUNCTION drop_health_partition(days_kept integer) RETURNS text LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    partition text;
BEGIN
    SELECT c.relname INTO partition
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'health_metrics'::regclass AND c.relname ~ '^health_metrics_[0-9]{8}$'
      AND to_date(right(c.relname, 8), 'YYYYMMDD') < (clock_timestamp() AT TIME ZONE 'UTC')::date - days_kept
    ORDER BY c.relname
    LIMIT 1;
    IF partition IS NOT NULL THEN
        EXECUTE format('DROP TABLE %I', partition);
    END IF;
    RETURN partition;
END $$;

-- Hubs that know no kinds of alerts can't raise any on this schema.
UPDATE hub_meta SET oldest_schema = 3;
