-- Two more kinds of jobs take a backup: of a project's logs, and of its files.

DROP INDEX IF EXISTS control_plane.idx_jobs_one_per_project;
CREATE UNIQUE INDEX idx_jobs_one_per_project ON control_plane.jobs (project_id, (type = 'repair_copies'))
    WHERE status = 'in_progress' AND project_id IS NOT NULL
    AND type IN ('export_backup', 'export_logs', 'export_storage', 'restore_backup', 'undo_restore', 'verify_backup', 'drop_replaced', 'repair_copies', 'delete_backup');

CREATE OR REPLACE TRIGGER holdfast_complete_job BEFORE INSERT ON control_plane.jobs
    FOR EACH ROW WHEN (NEW.project_id IS NULL AND NEW.type IN ('export_backup', 'export_logs', 'export_storage'))
    EXECUTE FUNCTION control_plane.holdfast_complete_job();
