-- Time: schedules and their slots, expiry and its warnings, stale projects. Times that decide are the application's clock, as parameters.

CREATE TABLE IF NOT EXISTS control_plane.schedules (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
ALTER TABLE control_plane.schedules
    ADD COLUMN IF NOT EXISTS name text NOT NULL DEFAULT '',
    -- Whom it covers: one project; or those of an organisation, those whose name matches a pattern, or those for whom both hold.
    ADD COLUMN IF NOT EXISTS project_id text,
    ADD COLUMN IF NOT EXISTS organization_id text,
    ADD COLUMN IF NOT EXISTS name_pattern text,
    -- What it takes backups of: 'database', 'logs' or 'storage'.
    ADD COLUMN IF NOT EXISTS type text NOT NULL DEFAULT 'database',
    ADD COLUMN IF NOT EXISTS cron text,
    ADD COLUMN IF NOT EXISTS zone text NOT NULL DEFAULT 'UTC',
    ADD COLUMN IF NOT EXISTS format text,
    ADD COLUMN IF NOT EXISTS compression text,
    ADD COLUMN IF NOT EXISTS storages text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS retention jsonb,
    -- NULL: the configuration's.
    ADD COLUMN IF NOT EXISTS jitter_minutes integer,
    ADD COLUMN IF NOT EXISTS enabled boolean NOT NULL DEFAULT true,
    -- The first slot that has not been opened yet.
    ADD COLUMN IF NOT EXISTS next_slot timestamptz,
    ADD COLUMN IF NOT EXISTS created_by text,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    -- It takes no more backups; what it has taken is kept by its retention.
    ADD COLUMN IF NOT EXISTS removed_at timestamptz,
    -- Whether the row is ours: a platform's own rows are left alone.
    ADD COLUMN IF NOT EXISTS holdfast boolean NOT NULL DEFAULT false;
CREATE INDEX IF NOT EXISTS idx_schedules_next_slot ON control_plane.schedules (next_slot)
    WHERE enabled AND removed_at IS NULL AND holdfast;
CREATE INDEX IF NOT EXISTS idx_schedules_project_id ON control_plane.schedules (project_id) WHERE removed_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_schedules_created_at ON control_plane.schedules (created_at DESC, id DESC) WHERE removed_at IS NULL;

-- One row for each schedule, project and slot: whoever writes it first has it.
CREATE TABLE IF NOT EXISTS control_plane.schedule_runs (
    schedule_id uuid NOT NULL,
    project_id text NOT NULL,
    slot timestamptz NOT NULL,
    -- The slot, or when it was caught up, and the project's place in the window.
    due_at timestamptz NOT NULL,
    -- 'waiting', 'enqueued', 'skipped' or 'refused'.
    status text NOT NULL DEFAULT 'waiting',
    message text,
    job_id uuid,
    -- It could not start, and is tried again from then on.
    retry_at timestamptz,
    PRIMARY KEY (schedule_id, project_id, slot)
);
CREATE INDEX IF NOT EXISTS idx_schedule_runs_due ON control_plane.schedule_runs (due_at) WHERE status = 'waiting';
CREATE INDEX IF NOT EXISTS idx_schedule_runs_slot ON control_plane.schedule_runs (slot);
CREATE INDEX IF NOT EXISTS idx_schedule_runs_schedule ON control_plane.schedule_runs (schedule_id, slot DESC, project_id);

-- What any process may do, and one does: when it was done last.
CREATE TABLE IF NOT EXISTS control_plane.upkeep (
    task text PRIMARY KEY,
    done_at timestamptz NOT NULL
);

ALTER TABLE control_plane.backups
    ADD COLUMN IF NOT EXISTS schedule_id uuid,
    ADD COLUMN IF NOT EXISTS expiry_warned_at timestamptz;
CREATE INDEX IF NOT EXISTS idx_backups_expiring ON control_plane.backups (expires_at)
    WHERE status = 'completed' AND expiry_warned_at IS NULL AND NOT pinned;

-- What reads a backup: retention leaves it alone meanwhile.
CREATE INDEX IF NOT EXISTS idx_jobs_reading ON control_plane.jobs ((payload -> 'request' ->> 'backup_id'))
    WHERE status IN ('pending', 'in_progress') AND type IN ('restore_backup', 'verify_backup', 'repair_copies');

-- Projects without a good backup within their allowed age; the row goes when there is one again.
CREATE TABLE IF NOT EXISTS control_plane.stale_projects (
    project_id text PRIMARY KEY,
    raised_at timestamptz NOT NULL,
    last_good_at timestamptz,
    allowed_seconds bigint NOT NULL
);

-- What is told once, however many processes notice it.
ALTER TABLE control_plane.notices ADD COLUMN IF NOT EXISTS once_key text;
CREATE UNIQUE INDEX IF NOT EXISTS idx_notices_once ON control_plane.notices (once_key) WHERE once_key IS NOT NULL;

-- Whether a schedule that is not for one project covers a project: its organisation, and its name or id by a pattern of * and ?.
CREATE OR REPLACE FUNCTION control_plane.holdfast_covers(only_organization text, pattern text, id text, name text, organization text)
    RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (only_organization IS NOT NULL OR pattern IS NOT NULL)
       AND (only_organization IS NULL OR coalesce(organization = only_organization, false))
       AND (pattern IS NULL
            OR name ILIKE replace(replace(replace(replace(replace(pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'), '?', '_')
            OR id ILIKE replace(replace(replace(replace(replace(pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'), '?', '_'))
$$;
