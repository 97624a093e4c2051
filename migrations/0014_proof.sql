-- Trial restores: what became of the last one of each backup. Times are the application's clock.
ALTER TABLE control_plane.backups
    -- A trial restore showed exactly what its proof says.
    ADD COLUMN IF NOT EXISTS proved_at timestamptz,
    -- How long the last trial took, from the first byte fetched to the last row compared: what a recovery takes.
    ADD COLUMN IF NOT EXISTS recovery_seconds double precision,
    -- What the last trial found to differ, each as a line. NULL: there was no trial.
    ADD COLUMN IF NOT EXISTS differences jsonb,
    -- When a trial was last begun, whatever became of it: the next one by the clock is another backup's.
    ADD COLUMN IF NOT EXISTS tried_at timestamptz;
CREATE INDEX IF NOT EXISTS idx_backups_untried ON control_plane.backups (project_id, created_at)
    WHERE tried_at IS NULL AND status = 'completed' AND type = 'database';
CREATE INDEX IF NOT EXISTS idx_backups_tried ON control_plane.backups (tried_at) WHERE tried_at IS NOT NULL;
