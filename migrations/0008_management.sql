-- What is managed through the API: storages, notice channels, and the lists of organisations and projects.

-- Storages beside those of the configuration. Settings and secrets are sealed together, with the key of the `secrets` setting and for
-- this name alone, so that nobody who can write here can send a secret elsewhere.
CREATE SEQUENCE IF NOT EXISTS control_plane.storages_revision_seq;
CREATE TABLE IF NOT EXISTS control_plane.storages (name text PRIMARY KEY);
ALTER TABLE control_plane.storages
    ADD COLUMN IF NOT EXISTS kind text NOT NULL,
    ADD COLUMN IF NOT EXISTS settings_sealed text NOT NULL,
    -- Where it is, for people: without secrets.
    ADD COLUMN IF NOT EXISTS shown_as text NOT NULL DEFAULT '',
    -- Another with every change, also when a name comes back: by it a process sees that what it has opened is old.
    ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT nextval('control_plane.storages_revision_seq'),
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now();

-- Where notices go, for one project, one organisation, or (with neither) the whole platform. Sealed like storages, for this id alone.
CREATE TABLE IF NOT EXISTS control_plane.channels (id uuid PRIMARY KEY);
ALTER TABLE control_plane.channels
    ADD COLUMN IF NOT EXISTS name text NOT NULL,
    ADD COLUMN IF NOT EXISTS kind text NOT NULL,
    ADD COLUMN IF NOT EXISTS project_id text,
    ADD COLUMN IF NOT EXISTS organization_id text,
    -- Empty: every event.
    ADD COLUMN IF NOT EXISTS events text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS settings_sealed text NOT NULL,
    -- Whether its address was chosen by someone who does not run the platform: then it may lead to public addresses only.
    ADD COLUMN IF NOT EXISTS is_tenants_own boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS created_by text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX IF NOT EXISTS idx_channels_created ON control_plane.channels (created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_channels_project_id ON control_plane.channels (project_id);
CREATE INDEX IF NOT EXISTS idx_channels_organization_id ON control_plane.channels (organization_id);

ALTER TABLE control_plane.databases ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now();

-- Lists of projects by organisation and by database, page by page.
CREATE INDEX IF NOT EXISTS idx_projects_organization_page ON control_plane.projects (organization_id, id);
CREATE INDEX IF NOT EXISTS idx_projects_database_name ON control_plane.projects (database_name) WHERE database_name IS NOT NULL;
