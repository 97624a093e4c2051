-- What the overview and a project's page ask: how long the last trial restore took, and what was taken day by day.

CREATE INDEX IF NOT EXISTS idx_backups_recovery ON control_plane.backups (project_id, tried_at DESC)
    INCLUDE (recovery_seconds) WHERE recovery_seconds IS NOT NULL;

-- What was taken and what failed, one row for each project and day (UTC) on which there was something. It is kept when backups expire and
-- go, so that ninety days can be looked back at where backups are kept for thirty; and it is small, where the rows of ninety days are many.
CREATE TABLE IF NOT EXISTS control_plane.backup_days (
    project_id text NOT NULL,
    -- On which the backups were asked for.
    day date NOT NULL,
    completed bigint NOT NULL,
    -- Failed, or found damaged later.
    failed bigint NOT NULL,
    -- Stored bytes of the completed ones, how long they took together, and how many of them tell that.
    bytes numeric NOT NULL,
    seconds double precision NOT NULL,
    timed bigint NOT NULL,
    PRIMARY KEY (project_id, day)
);
CREATE INDEX IF NOT EXISTS idx_backup_days_day ON control_plane.backup_days (day);

-- A row of `backups` counts by its status of now, until it expires or is deleted: then it stays counted as it was. Its locks are those of the
-- sums of 0017, whose triggers fire before (by their names).
CREATE OR REPLACE FUNCTION control_plane.holdfast_sum_days() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM control_plane.backup_days;
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(project_id) & 1023 AS key FROM added
            WHERE status IN ('completed', 'failed', 'damaged') ORDER BY 1) l;
        INSERT INTO control_plane.backup_days AS d (project_id, day, completed, failed, bytes, seconds, timed)
        SELECT project_id, (created_at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE status = 'completed'),
               count(*) FILTER (WHERE status <> 'completed'), coalesce(sum(size) FILTER (WHERE status = 'completed'), 0),
               coalesce(sum(extract(epoch FROM finished_at - started_at)) FILTER (WHERE status = 'completed'), 0),
               count(finished_at - started_at) FILTER (WHERE status = 'completed')
        FROM added WHERE status IN ('completed', 'failed', 'damaged') GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (project_id, day) DO UPDATE
        SET completed = d.completed + excluded.completed, failed = d.failed + excluded.failed, bytes = d.bytes + excluded.bytes,
            seconds = d.seconds + excluded.seconds, timed = d.timed + excluded.timed;
    ELSE
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(p.project_id) & 1023 AS key
            FROM removed o JOIN added n ON n.id = o.id, LATERAL (VALUES (o.project_id), (n.project_id)) p (project_id)
            WHERE o.status NOT IN ('expired', 'deleted') AND n.status NOT IN ('expired', 'deleted')
              AND (o.status IN ('completed', 'failed', 'damaged') OR n.status IN ('completed', 'failed', 'damaged'))
              AND (o.project_id, o.status, o.size, o.created_at, o.started_at, o.finished_at)
                  IS DISTINCT FROM (n.project_id, n.status, n.size, n.created_at, n.started_at, n.finished_at)
            ORDER BY 1) l;
        INSERT INTO control_plane.backup_days AS d (project_id, day, completed, failed, bytes, seconds, timed)
        SELECT c.project_id, (c.created_at AT TIME ZONE 'UTC')::date,
               coalesce(sum(c.sign) FILTER (WHERE c.status = 'completed'), 0), coalesce(sum(c.sign) FILTER (WHERE c.status <> 'completed'), 0),
               coalesce(sum(c.sign * c.size) FILTER (WHERE c.status = 'completed'), 0),
               coalesce(sum(c.sign * extract(epoch FROM c.finished_at - c.started_at)) FILTER (WHERE c.status = 'completed'), 0),
               coalesce(sum(c.sign) FILTER (WHERE c.status = 'completed' AND c.finished_at - c.started_at IS NOT NULL), 0)
        FROM removed o JOIN added n ON n.id = o.id,
             LATERAL (VALUES (-1, o.project_id, o.created_at, o.status, o.size, o.started_at, o.finished_at),
                             (1, n.project_id, n.created_at, n.status, n.size, n.started_at, n.finished_at))
                 c (sign, project_id, created_at, status, size, started_at, finished_at)
        WHERE o.status NOT IN ('expired', 'deleted') AND n.status NOT IN ('expired', 'deleted')
          AND c.status IN ('completed', 'failed', 'damaged')
          AND (o.project_id, o.status, o.size, o.created_at, o.started_at, o.finished_at)
                  IS DISTINCT FROM (n.project_id, n.status, n.size, n.created_at, n.started_at, n.finished_at)
        GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (project_id, day) DO UPDATE
        SET completed = d.completed + excluded.completed, failed = d.failed + excluded.failed, bytes = d.bytes + excluded.bytes,
            seconds = d.seconds + excluded.seconds, timed = d.timed + excluded.timed;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_sum_days() FROM PUBLIC;

-- The first of them keeps writers out until everything is counted.
CREATE OR REPLACE TRIGGER holdfast_sums_of_days_added AFTER INSERT ON control_plane.backups
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_days();
CREATE OR REPLACE TRIGGER holdfast_sums_of_days_changed AFTER UPDATE ON control_plane.backups
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_days();
CREATE OR REPLACE TRIGGER holdfast_sums_of_days_emptied AFTER TRUNCATE ON control_plane.backups
    FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_days();
DELETE FROM control_plane.backup_days;
INSERT INTO control_plane.backup_days (project_id, day, completed, failed, bytes, seconds, timed)
SELECT project_id, (created_at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE status NOT IN ('failed', 'damaged')),
       count(*) FILTER (WHERE status IN ('failed', 'damaged')), coalesce(sum(size) FILTER (WHERE status NOT IN ('failed', 'damaged')), 0),
       coalesce(sum(extract(epoch FROM finished_at - started_at)) FILTER (WHERE status NOT IN ('failed', 'damaged')), 0),
       count(finished_at - started_at) FILTER (WHERE status NOT IN ('failed', 'damaged'))
FROM control_plane.backups
WHERE status IN ('completed', 'failed', 'damaged') OR status IN ('expired', 'deleted') AND size > 0 GROUP BY 1, 2;
