-- The days of all projects together, for the overview of whoever reaches everything: 1,000 projects have 90,000 rows of ninety days.

-- Writers wait from here on, in the order in which they take these locks, so that none of them meets this migration half way.
-- What the indexes' end needs is taken at once: a lock that grew would meet another's half way.
LOCK TABLE control_plane.backups IN ACCESS EXCLUSIVE MODE;
LOCK TABLE control_plane.backup_days IN SHARE ROW EXCLUSIVE MODE;

-- Days were read from these until 0020.
DROP INDEX IF EXISTS control_plane.idx_backups_days, control_plane.idx_backups_project_days;

-- A day's total is the sum of its rows. A change adds a row and waits for nobody: with one row for each day, all backups that end at once
-- would wait for each other. Now and then `upkeep` makes one row of a day's many.
CREATE TABLE IF NOT EXISTS control_plane.backup_day_totals (
    -- As in `backup_days`.
    day date NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    bytes numeric NOT NULL,
    seconds double precision NOT NULL,
    timed bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_backup_day_totals_day ON control_plane.backup_day_totals (day);

CREATE OR REPLACE FUNCTION control_plane.holdfast_total_days() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO control_plane.backup_day_totals (day, completed, failed, bytes, seconds, timed)
        SELECT day, sum(completed), sum(failed), sum(bytes), sum(seconds), sum(timed) FROM added GROUP BY day;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO control_plane.backup_day_totals (day, completed, failed, bytes, seconds, timed)
        SELECT day, -sum(completed), -sum(failed), -sum(bytes), -sum(seconds), -sum(timed) FROM removed GROUP BY day;
    ELSE
        INSERT INTO control_plane.backup_day_totals (day, completed, failed, bytes, seconds, timed)
        SELECT c.day, sum(c.sign * c.completed), sum(c.sign * c.failed), sum(c.sign * c.bytes), sum(c.sign * c.seconds), sum(c.sign * c.timed)
        FROM (SELECT 1 AS sign, * FROM added UNION ALL SELECT -1, * FROM removed) c GROUP BY c.day;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_total_days() FROM PUBLIC;

-- Rows of `backup_days` are written by `INSERT … ON CONFLICT DO UPDATE`, which fires the triggers of both with the rows that are each one's.
CREATE OR REPLACE TRIGGER holdfast_totals_added AFTER INSERT ON control_plane.backup_days
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_total_days();
CREATE OR REPLACE TRIGGER holdfast_totals_changed AFTER UPDATE ON control_plane.backup_days
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_total_days();
CREATE OR REPLACE TRIGGER holdfast_totals_removed AFTER DELETE ON control_plane.backup_days
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_total_days();

DELETE FROM control_plane.backup_day_totals;
INSERT INTO control_plane.backup_day_totals (day, completed, failed, bytes, seconds, timed)
SELECT day, sum(completed), sum(failed), sum(bytes), sum(seconds), sum(timed) FROM control_plane.backup_days GROUP BY day;
