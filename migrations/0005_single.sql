-- The single-database family: which project it is about, and the names that its artifacts have had.

-- The project behind `/backup`; at most one. Under a name that no platform has for something of its own.
ALTER TABLE control_plane.projects ADD COLUMN IF NOT EXISTS holdfast_default boolean NOT NULL DEFAULT false;

-- Whether a plain name is taken, by a backup that is there or by one whose record was deleted and whose file may have stayed.
CREATE INDEX IF NOT EXISTS idx_backups_file_id ON control_plane.backups (file_id);
CREATE INDEX IF NOT EXISTS idx_backup_history_deleted_file ON control_plane.backup_history ((detail #>> '{backup,file_id}')) WHERE event = 'deleted';
